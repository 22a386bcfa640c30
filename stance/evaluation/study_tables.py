"""What the runs of a study came to: evaluation records in, numbers and tables out. No torch, no files.

tables: {run: records of its test split}; a run has data (name of its splits), seed, topic (held out, or None) and
fraction (of the train split). "In-topic" is an adapter trained on all topics; "cross-topic" one that never saw the
topic it is tested on. Their test rows differ too (a tenth of a topic, all of it): both are also compared on the same.
"""

import statistics

from stance.common import formatting
from stance.evaluation import analysis, metrics, report, result_tables, uncertainty

TUNED = "fine-tuned"  # name of the adapter in records
MEASURES = {"macro_f1": "Macro-F1", "accuracy": "Accuracy"}
TOPICS_GUIDE = (
    "Cross-topic: the topic was held out, the adapter was trained on the others and tested on all n rows of the topic. "
    'In-topic: trained on rows of all topics, tested on the rows of the topic in the test split; "there" means '
    "these rows. Cross-topic adapters also have fewer training rows."
)
CURVE_GUIDE = (
    "All runs train for the same number of epochs, so fewer rows also mean fewer steps. Brackets: "
    f"{result_tables.LEVEL_TEXT} bootstrap intervals over rows."
)


def compare_topics(tables):
    """Return the numbers of the study "topics".

    by_topic: {topic: {"base", "cross", "in", "cross_same": {"n", "macro_f1", "accuracy"}}}, means over seeds; base and
    cross on all rows of the topic, in and cross_same on those in the test split of all topics. mean: over topics.
    spread: standard deviation over seeds of these means, None for one seed. gain: cross-topic minus base on all rows;
    same_rows: in-topic minus cross-topic on the same rows; both paired, for the first seed. pictured: statistics with
    intervals of the first seed.
    """
    seeds = sorted({run.seed for run in tables})
    whole = {
        run.seed: table for run, table in tables.items() if run.topic is None and run.fraction == 1
    }
    held_out = {
        (run.topic, run.seed): table for run, table in tables.items() if run.topic is not None
    }
    topics = sorted({topic for topic, _ in held_out})
    cells = {
        seed: {topic: measure_topic(whole[seed], held_out[topic, seed]) for topic in topics}
        for seed in seeds
    }
    means = {seed: average([cells[seed][topic] for topic in topics]) for seed in seeds}
    several = len(seeds) > 1
    return {
        "seeds": seeds,
        "by_topic": {topic: average([cells[seed][topic] for seed in seeds]) for topic in topics},
        "mean": average(list(means.values())),
        "spread": average(list(means.values()), statistics.stdev) if several else None,
        "gain": compare_with_base([held_out[topic, seeds[0]] for topic in topics]),
        "same_rows": compare_same_rows(
            whole[seeds[0]], [held_out[topic, seeds[0]] for topic in topics]
        ),
        "pictured": picture_topics(
            whole[seeds[0]], {topic: held_out[topic, seeds[0]] for topic in topics}
        ),
    }


def measure_topic(whole, held_out):
    """Return {"base", "cross", "in", "cross_same": metrics} of one topic; the last two are None without common rows."""
    ids = {row["id"] for row in held_out}
    common = [row for row in whole if row["id"] in ids]
    known = {row["id"] for row in common}
    same = [row for row in held_out if row["id"] in known]
    parts = {
        "base": (held_out, "base"),
        "cross": (held_out, TUNED),
        "in": (common, TUNED),
        "cross_same": (same, TUNED),
    }
    return {part: score_model(rows, name) if rows else None for part, (rows, name) in parts.items()}


def score_model(rows, name):
    """Return n, macro-F1 and accuracy of a model on records."""
    predicted = [row["models"][name]["prediction"] for row in rows]
    numbers = metrics.compute_metrics([row["label"] for row in rows], predicted)
    return {key: numbers[key] for key in ("n", *MEASURES)}


def average(cells, how=statistics.fmean):
    """Return the mean, or another statistic, of dicts {part: {key: number} or None}; a part is None if all are."""
    result = {}
    for part in cells[0]:
        known = [cell[part] for cell in cells if cell[part] is not None]
        result[part] = (
            {key: how([numbers[key] for numbers in known]) for key in known[0]} if known else None
        )
    return result


def compare_with_base(held_out):
    """Return the comparison of cross-topic adapters with the base on all rows: what training does for new topics."""
    rows = [row for table in held_out for row in table]
    return compare_rows(
        rows, ("base", [row["models"]["base"] for row in rows]), ("cross-topic", pick_tuned(rows))
    )


def compare_same_rows(whole, held_out):
    """Return the comparison of in-topic with cross-topic adapters on the rows of whole."""
    cross = {row["id"]: row for table in held_out for row in table}
    rows = [row for row in whole if row["id"] in cross]
    first = pick_tuned([cross[row["id"]] for row in rows])
    return compare_rows(rows, ("cross-topic", first), ("in-topic", pick_tuned(rows)))


def pick_tuned(rows):
    """Return the answers of the adapter in records."""
    return [row["models"][TUNED] for row in rows]


def compare_rows(rows, first, second):
    """Return uncertainty.compare_answers, and the names, of two models (name, one answer a row)."""
    gold = analysis.index_labels(row["label"] for row in rows)
    columns = [
        analysis.index_labels(answer["prediction"] for answer in answers)
        for _, answers in (first, second)
    ]
    names = {"first": first[0], "second": second[0], "n": len(rows)}
    return {**names, **uncertainty.compare_answers(gold, *columns, [row["topic"] for row in rows])}


def picture_topics(whole, held_out):
    """Return {model and rows: {topic: statistics with intervals}} for figures.plot_topics.

    Base and cross-topic adapters on all rows of the topics; both kinds of adapter on those in the test split of all
    topics, where they can be compared.
    """
    pooled, tested = (
        [row for table in held_out.values() for row in table],
        {row["id"] for row in whole},
    )
    pictured = {
        "base, all rows": ("base", pooled),
        "cross-topic, all rows": (TUNED, pooled),
        "cross-topic, test split": (TUNED, [row for row in pooled if row["id"] in tested]),
        "in-topic, test split": (TUNED, whole),
    }
    return {
        name: analysis.describe_topics(
            analysis.index_labels(row["label"] for row in rows),
            analysis.index_labels(row["models"][model]["prediction"] for row in rows),
            [row["topic"] for row in rows],
        )
        for name, (model, rows) in pictured.items()
    }


def trace_curve(tables, sizes):
    """Return the numbers of the study "curve": [{"rows", "fraction", "n", "runs": [{"seed", model: statistics}]}].

    sizes: {run: rows it was trained on}; n: rows it was tested on; statistics: uncertainty.describe_answers of base,
    fine-tuned and tf-idf.
    """
    points, names = {}, ("base", TUNED, "tf-idf")
    for run, table in tables.items():
        if run.topic is None:
            gold, topics = (
                analysis.index_labels(row["label"] for row in table),
                [row["topic"] for row in table],
            )
            answers = analysis.list_answers(table)
            numbers = {
                name: uncertainty.describe_answers(gold, answers[name], topics) for name in names
            }
            new = {"rows": sizes[run], "fraction": run.fraction, "n": len(table), "runs": []}
            point = points.setdefault(run.fraction, new)
            point["runs"].append({"seed": run.seed, **numbers})
    return [points[fraction] for fraction in sorted(points)]


def pick_points(curve):
    """Return (points, baselines) as figures.plot_learning draws them."""
    points = {point["rows"]: [run[TUNED]["macro_f1"] for run in point["runs"]] for point in curve}
    baselines = {
        name: {point["rows"]: average_runs(point, name, "macro_f1") for point in curve}
        for name in ("base", "tf-idf")
    }
    return points, baselines


def average_runs(point, name, key):
    """Return the mean of a statistic over the runs of a point."""
    return statistics.fmean(run[name][key]["value"] for run in point["runs"])


def list_topics(result):
    """Return [(title, header, rows, guide)] of the in-topic and cross-topic tables."""
    texts = []
    for key, title in MEASURES.items():
        rows = [
            tabulate_topic(topic, cell, key, count=True)
            for topic, cell in result["by_topic"].items()
        ]
        rows.append(tabulate_topic("mean of topics", result["mean"], key))
        if result["spread"]:
            rows.append(
                tabulate_topic(f"sd over {len(result['seeds'])} seeds", result["spread"], key)
            )
        header = [
            "Topic",
            "n",
            "base",
            "cross-topic",
            "n in test split",
            "cross-topic there",
            "in-topic there",
        ]
        texts.append((f"{title}: each topic held out in turn", header, rows, TOPICS_GUIDE))
    for part in (result["gain"], result["same_rows"]):
        test = f"McNemar's exact test {result_tables.format_p(part['mcnemar']['p'])}"
        names = f"{part['second'].capitalize()} minus {part['first']}"
        title = f"{names} on the same {part['n']} rows, seed {result['seeds'][0]}; {test}"
        guide = f"Brackets: bootstrap intervals. {report.describe_topic_intervals(len(result['by_topic']))}"
        texts.append((title, *result_tables.tabulate_comparison(part), guide))
    return texts


def tabulate_topic(name, cell, key, count=False):
    """Return a row of the table of topics; counts only where they are counts."""
    shown = [name]
    for part in ("base", "cross", "cross_same", "in"):
        if part in ("base", "cross_same"):
            shown.append(f"{cell[part]['n']:.0f}" if count and cell[part] else "-" if count else "")
        shown.append(result_tables.format_value(cell[part] and cell[part][key]))
    return shown


def list_curve(curve):
    """Return [(title, header, rows, guide)] of the learning curve."""
    rows = []
    for point in curve:
        cells = [f"{point['fraction']:g}", str(point["rows"])]
        for key in MEASURES:
            values = [run[TUNED][key]["value"] for run in point["runs"]]
            spread = f" sd {statistics.stdev(values):.3f}" if len(values) > 1 else ""
            first = result_tables.format_interval(point["runs"][0][TUNED][key]["rows"])
            cells.append(f"{result_tables.format_value(statistics.fmean(values))}{spread} {first}")
        baselines = [average_runs(point, name, "macro_f1") for name in ("base", "tf-idf")]
        rows.append([*cells, *map(result_tables.format_value, baselines)])
    measured = [f"{name}, {result_tables.LEVEL_TEXT} of first seed" for name in MEASURES.values()]
    header = ["Share", "training rows", *measured, "Macro-F1 of base", "of tf-idf"]
    return [(f"Learning curve on {curve[-1]['n']} test rows", header, rows, CURVE_GUIDE)]


def format_screen(texts):
    """Return titled tables for the screen."""
    return "\n\n".join(
        f"{title}\n{formatting.format_table(header, rows)}" for title, header, rows, _ in texts
    )


def list_latex(texts, note):
    """Return the LaTeX tables of study.tex."""
    for number, (title, header, rows, guide) in enumerate(texts, start=1):
        caption = f"{note or ''} {title}. {guide}".strip()
        yield formatting.format_latex(header, rows, caption, f"tab:study-{number}") + "\n"


def build_page(texts, studies, note):
    """Return study.md."""
    pictures = {
        "topics": "![Macro-F1 by topic; test split: the rows of the topic in the test split of all](cross_topic.png)",
        "curve": "![Learning curve](learning_curve.png)",
    }
    blocks = ["# Study", *([f"> {note}"] if note else [])]
    for title, header, rows, guide in texts:
        blocks += [
            *([guide] if guide not in blocks else []),
            f"{title}:",
            formatting.format_markdown(header, rows),
        ]
    return "\n\n".join([*blocks, *(pictures[name] for name in pictures if name in studies)]) + "\n"
