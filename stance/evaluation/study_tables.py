"""What the runs of a study came to: evaluation records in, numbers and tables out.

tables: {run: records of its test split}; a run has data (name of its splits), seed, topic (held
out, or None; of several topics the name of their group, and topics has them) and fraction (of the
train split). What is said of a topic holds for a group. "In-topic" is an adapter trained on all topics;
"cross-topic" one that never saw the topic it is tested on. Their test rows differ too (a tenth of
a topic, all of it): both are also compared on the same. No torch, no files.
"""

import statistics
from collections.abc import Callable, Collection, Iterator
from typing import Any, NamedTuple

import prompts
from stance.common import formatting, types
from stance.evaluation import analysis, metrics, report, result_tables, uncertainty

TUNED = "fine-tuned"  # name of the adapter in records
CURVE_MODELS = ("base", TUNED, "tf-idf")
PART_NAMES = {  # of pick_topic
    "base": "base",
    "cross": "cross-topic",
    "in": "in-topic",
    "cross_same": "cross-topic",
}
MEASURES = {"macro_f1": "Macro-F1", "accuracy": "Accuracy"}
TOPICS_GUIDE = (
    "Cross-topic: the topic was held out, the adapter was trained on the others and tested on "
    "all n rows of the topic. In-topic: trained on rows of all topics, tested on the rows of the "
    'topic in the test split; "there" means these rows. '
    "Cross-topic adapters also have fewer training rows."
)
CURVE_GUIDE = (
    "All runs train for the same number of epochs, so fewer rows also mean fewer steps. Brackets: "
    f"{result_tables.LEVEL_TEXT} bootstrap intervals over rows."
)


class TitledTable(NamedTuple):
    """A table of texts with what is said about it."""

    title: str
    header: list[str]
    rows: list[list[str]]
    guide: str  # how to read it


def compare_topics(tables: dict[Any, list[types.EvaluationRecord]]) -> dict:
    """Return the numbers of the study "topics".

    seeds: those of the runs. groups: {group of topics: topics}; {} if single topics were held out.
    topics: how many topics the rows are on.
    by_topic: {topic: {"base", "cross", "in", "cross_same": {"n", "outside", "macro_f1",
    "accuracy"}}}, means over seeds; base and cross on all rows of the topic, in and cross_same on
    those in the test split of all topics.
    gold_labels: {topic: {the same parts: labels in the gold of these rows}}.
    mean: over topics. spread: standard deviation over seeds of these means, None for one seed.
    gain: cross-topic minus base on all rows; same_rows: in-topic minus cross-topic on the same
    rows; both paired, for the first seed.
    pictured: statistics with intervals of the first seed; pictured_others: of all topics that
    pictures don't name.
    """
    whole = {}  # records of the run on all data, by seed
    held_out = {}  # records of the run without a topic, by topic and seed
    for run, table in tables.items():
        if run.topic is not None:
            held_out[run.topic, run.seed] = table
        elif run.fraction == 1:
            whole[run.seed] = table
    seeds = sorted({run.seed for run in tables})
    topics = list(dict.fromkeys(topic for topic, _ in held_out))

    cells = {}
    for seed in seeds:
        cells[seed] = {topic: measure_topic(whole[seed], held_out[topic, seed]) for topic in topics}
    by_topic = {topic: average([cells[seed][topic] for seed in seeds]) for topic in topics}
    means = [average(list(cells[seed].values())) for seed in seeds]

    first_whole = whole[seeds[0]]
    first_held_out = {topic: held_out[topic, seeds[0]] for topic in topics}
    return {
        "seeds": seeds,
        "groups": {run.topic: list(run.topics) for run in tables if run.topics},
        "topics": len({row["topic"] for rows in first_held_out.values() for row in rows}),
        "by_topic": by_topic,
        "gold_labels": {
            topic: list_topic_labels(first_whole, rows) for topic, rows in first_held_out.items()
        },
        "mean": average(means),
        "spread": average(means, statistics.stdev) if len(seeds) > 1 else None,
        "gain": compare_with_base(list(first_held_out.values())),
        "same_rows": compare_same_rows(first_whole, list(first_held_out.values())),
        **picture_topics(first_whole, first_held_out),
    }


def pick_topic(
    whole: list[types.EvaluationRecord], held_out: list[types.EvaluationRecord]
) -> dict[str, tuple[str, list[types.EvaluationRecord]]]:
    """Return {"base", "cross", "in", "cross_same": (model, its records)} of one topic.

    whole: records of the run on all data; held_out: of the run without the topic, which hold all
    its rows.
    """
    ids = {row["id"] for row in held_out}
    common = [row for row in whole if row["id"] in ids]
    common_ids = {row["id"] for row in common}
    same = [row for row in held_out if row["id"] in common_ids]
    return {
        "base": ("base", held_out),
        "cross": (TUNED, held_out),
        "in": (TUNED, common),
        "cross_same": (TUNED, same),
    }


def measure_topic(
    whole: list[types.EvaluationRecord], held_out: list[types.EvaluationRecord]
) -> dict[str, dict | None]:
    """Return {part of pick_topic: n, outside, macro-F1 and accuracy} of one topic.

    Without common rows, "in" and "cross_same" are None.
    """
    parts = pick_topic(whole, held_out)
    return {part: score_model(rows, model) for part, (model, rows) in parts.items()}


def list_topic_labels(
    whole: list[types.EvaluationRecord], held_out: list[types.EvaluationRecord]
) -> dict[str, list[str]]:
    """Return {part of pick_topic: labels in the gold of its rows}, which its macro-F1 is over."""
    parts = pick_topic(whole, held_out)
    return {
        part: metrics.list_gold_labels(row["label"] for row in rows)
        for part, (_, rows) in parts.items()
    }


def score_model(rows: list[types.EvaluationRecord], name: str) -> dict[str, float] | None:
    """Return n, outside, macro-F1 and accuracy of a model on records; None without any.

    outside: answers that are a label which is not in the gold of these records.
    """
    if not rows:
        return None
    gold = [row["label"] for row in rows]
    predicted = [row["models"][name]["prediction"] for row in rows]
    numbers = metrics.compute_metrics(gold, predicted)
    return {key: numbers[key] for key in ("n", "outside", *MEASURES)}


def average(
    cells: list[dict[str, dict | None]], how: Callable[[list[float]], float] = statistics.fmean
) -> dict[str, dict | None]:
    """Return the mean, or another statistic, of dicts {part: {key: number} or None}.

    The result is such a dict too; a part of it is None if all are.
    """
    result = {}
    for part in cells[0]:
        known = [cell[part] for cell in cells if cell[part] is not None]
        if known:
            result[part] = {key: how([numbers[key] for numbers in known]) for key in known[0]}
        else:
            result[part] = None
    return result


def compare_with_base(held_out: list[list[types.EvaluationRecord]]) -> dict:
    """Return the comparison of cross-topic adapters with the base: what training does.

    held_out: records of each run without a topic, on all rows of this topic.
    """
    rows = [row for table in held_out for row in table]
    base = [row["models"]["base"] for row in rows]
    return compare_rows(rows, ("base", base), ("cross-topic", pick_tuned(rows)))


def compare_same_rows(
    whole: list[types.EvaluationRecord], held_out: list[list[types.EvaluationRecord]]
) -> dict:
    """Return the comparison of in-topic with cross-topic adapters on the same rows.

    whole: records of the run on all data; held_out: of each run without a topic.
    """
    cross = {row["id"]: row for table in held_out for row in table}
    rows = [row for row in whole if row["id"] in cross]
    cross_rows = [cross[row["id"]] for row in rows]
    return compare_rows(
        rows, ("cross-topic", pick_tuned(cross_rows)), ("in-topic", pick_tuned(rows))
    )


def pick_tuned(rows: list[types.EvaluationRecord]) -> list[types.Prediction]:
    """Return the predictions of the adapter in records."""
    return [row["models"][TUNED] for row in rows]


def compare_rows(
    rows: list[types.EvaluationRecord],
    first: tuple[str, list[types.Prediction]],
    second: tuple[str, list[types.Prediction]],
) -> dict:
    """Return uncertainty.compare_predictions of two models, with the keys first, second (names) and
    n.

    first, second: name and one prediction a row; n: number of rows.
    """
    first_name, first_predictions = first
    second_name, second_predictions = second
    compared = uncertainty.compare_predictions(
        analysis.index_labels(row["label"] for row in rows),
        analysis.index_labels(prediction["prediction"] for prediction in first_predictions),
        analysis.index_labels(prediction["prediction"] for prediction in second_predictions),
        [row["topic"] for row in rows],
    )
    return {"first": first_name, "second": second_name, "n": len(rows), **compared}


def picture_topics(
    whole: list[types.EvaluationRecord], held_out: dict[str, list[types.EvaluationRecord]]
) -> dict[str, dict]:
    """Return {"pictured": {model and rows: {topic: statistics with intervals}}, "pictured_others":
    {model and rows: the same of all topics that pictures don't name, or None}}.

    Base and cross-topic adapters on all rows of the topics; both kinds of adapter on those in the
    test split of all topics, where they can be compared.
    whole: records of the run on all data; held_out: {topic: records of the run without it}.
    """
    pooled = [row for table in held_out.values() for row in table]
    tested_ids = {row["id"] for row in whole}
    pictured = {
        "base, all rows": ("base", pooled),
        "cross-topic, all rows": (TUNED, pooled),
        "cross-topic, test split": (TUNED, [row for row in pooled if row["id"] in tested_ids]),
        "in-topic, test split": (TUNED, whole),
    }
    topic_of_id = {row["id"]: topic for topic, table in held_out.items() for row in table}
    _, unnamed = choose_shown({topic: len(table) for topic, table in held_out.items()})
    result = {"pictured": {}, "pictured_others": {}}
    for name, (model, rows) in pictured.items():
        rows = [row for row in rows if row["id"] in topic_of_id]
        by_topic = describe_rows(rows, model, [topic_of_id[row["id"]] for row in rows])
        result["pictured"][name] = {
            topic: by_topic[topic] for topic in held_out if topic in by_topic
        }
        others = [row for row in rows if topic_of_id[row["id"]] in unnamed]
        described = describe_rows(others, model, ["others"] * len(others))
        result["pictured_others"][name] = described.get("others")
    return result


def describe_rows(
    rows: list[types.EvaluationRecord], model: str, topics: list[str]
) -> dict[str, dict]:
    """Return uncertainty.describe_topics of a model's predictions; topics: one a row."""
    gold = analysis.index_labels(row["label"] for row in rows)
    predicted = analysis.index_labels(row["models"][model]["prediction"] for row in rows)
    return uncertainty.describe_topics(gold, predicted, topics)


def pick_pictured(result: dict) -> dict[str, dict]:
    """Return {model and rows: {topic: statistics}} for figures.plot_topics: the largest topics, and
    all others as one.

    result: compare_topics.
    """
    named, unnamed = choose_shown(
        {topic: cell["base"]["n"] for topic, cell in result["by_topic"].items()}
    )
    picked = {}
    for name, by_topic in result["pictured"].items():
        picked[name] = {topic: by_topic[topic] for topic in named if topic in by_topic}
        others = result["pictured_others"][name]
        if others is not None:
            picked[name][formatting.name_others(len(unnamed))] = others
    return picked


def trace_curve(
    tables: dict[Any, list[types.EvaluationRecord]], sizes: dict[Any, int]
) -> list[dict]:
    """Return the numbers of the study "curve", a point a fraction, the smallest first.

    A point: {"rows", "fraction", "n", "gold_labels", "runs": [{"seed", "outside", model:
    statistics}]}. rows: it was trained on, of sizes {run: rows}; n: rows it was tested on;
    gold_labels: labels in their gold; statistics: uncertainty.describe_predictions of base,
    fine-tuned and tf-idf; outside: {model: answers that are a label which is not among
    gold_labels}.
    """
    points = {}
    for run, table in tables.items():
        if run.topic is not None:
            continue
        gold = analysis.index_labels(row["label"] for row in table)
        topics = [row["topic"] for row in table]
        predicted = analysis.list_predictions(table)
        scores = analysis.compute_scores(table)
        numbers = {"seed": run.seed, "outside": {}}
        for name in CURVE_MODELS:
            numbers["outside"][name] = scores[name]["outside"]
            numbers[name] = uncertainty.describe_predictions(gold, predicted[name], topics)
        if run.fraction not in points:
            points[run.fraction] = {
                "rows": sizes[run],
                "fraction": run.fraction,
                "n": len(table),
                "gold_labels": scores[TUNED]["gold_labels"],
                "runs": [],
            }
        points[run.fraction]["runs"].append(numbers)
    return [points[fraction] for fraction in sorted(points)]


def pick_points(curve: list[dict]) -> tuple[dict[int, list[dict]], dict[str, dict[int, float]]]:
    """Return (points, baselines) as figures.plot_learning draws them."""
    points = {}
    baselines = {"base": {}, "tf-idf": {}}
    for point in curve:
        points[point["rows"]] = [run[TUNED]["macro_f1"] for run in point["runs"]]
        for name, values in baselines.items():
            values[point["rows"]] = average_runs(point, name, "macro_f1")
    return points, baselines


def average_runs(point: dict, name: str, key: str) -> float:
    """Return the mean of a statistic over the runs of a point."""
    return statistics.fmean(run[name][key]["value"] for run in point["runs"])


def list_topics(result: dict) -> list[TitledTable]:
    """Return the in-topic and cross-topic tables of compare_topics."""
    kind = "group of topics" if result["groups"] else "topic"
    header = [kind.capitalize(), "n", "base", "cross-topic"]
    header += ["n in test split", "cross-topic there", "in-topic there"]
    labels = describe_topic_labels(result)
    guide = " ".join(filter(None, [TOPICS_GUIDE, describe_groups(result["groups"]), labels]))
    named, unnamed = choose_shown(
        {topic: cell["base"]["n"] for topic, cell in result["by_topic"].items()}
    )
    titled_tables = []
    for key, measure in MEASURES.items():
        rows = []
        for topic in named:
            rows.append(tabulate_topic(topic, result["by_topic"][topic], key, count=True))
        if unnamed:
            others = average([result["by_topic"][topic] for topic in unnamed])
            name = f"mean of {formatting.name_others(len(unnamed))}"
            rows.append(tabulate_topic(name, others, key))
        rows.append(tabulate_topic(f"mean of {kind.partition(' ')[0]}s", result["mean"], key))
        if result["spread"]:
            name = f"sd over {len(result['seeds'])} seeds"
            rows.append(tabulate_topic(name, result["spread"], key))
        title = f"{measure}: each {kind} held out in turn"
        if labels and key == "macro_f1":  # for the screen, which shows no guide
            title += ", mean over the labels in the gold of the rows"
        titled_tables.append(TitledTable(title, header, rows, guide))

    worth = report.describe_topic_intervals(result["topics"])
    guide = f"Brackets: bootstrap intervals. {worth}"
    for comparison in (result["gain"], result["same_rows"]):
        test = f"McNemar's exact test {result_tables.format_p(comparison['mcnemar']['p'])}"
        names = f"{comparison['second'].capitalize()} minus {comparison['first']}"
        same = f"on the same {comparison['n']} rows, seed {result['seeds'][0]}"
        header, rows = result_tables.tabulate_comparison(comparison)
        titled_tables.append(TitledTable(f"{names} {same}; {test}", header, rows, guide))
    return titled_tables


def describe_groups(groups: dict[str, list[str]]) -> str:
    """Return how many topics are in each group; "" without any. groups: {name: topics}."""
    if not groups:
        return ""
    counted = [f"{name} {len(topics)}" for name, topics in groups.items()]
    return f"Here groups of topics are held out: topics of {result_tables.join_words(counted)}."


def choose_shown(sizes: dict[str, int]) -> tuple[list[str], set[str]]:
    """Return formatting.choose_largest of the topics that are held out, the others as a set."""
    named, unnamed = formatting.choose_largest(sizes)
    return named, set(unnamed)


def describe_topic_labels(result: dict) -> str:
    """Return which topics of the table lack a gold label, and how many answers are such a label; "" if none
    does.

    result: compare_topics.
    """
    sentences = []
    named, _ = choose_shown(
        {topic: cell["base"]["n"] for topic, cell in result["by_topic"].items()}
    )
    # Both parts of a pair are on the same rows.
    for where, parts in (("", ("base", "cross")), (" there", ("cross_same", "in"))):
        for topic in named:
            known = result["gold_labels"][topic][parts[0]]
            if known and len(known) < len(prompts.LABELS):
                cell = result["by_topic"][topic]
                outside = [f"{cell[part]['outside']:g} of {PART_NAMES[part]}" for part in parts]
                sentences.append(
                    f"{topic}{where}: {result_tables.join_words(known)}; answers outside of these "
                    f"count as wrong: {result_tables.join_words(outside)}."
                )
    if not sentences:
        return ""
    return " ".join(["Macro-F1 is the mean over the labels in the gold of the rows.", *sentences])


def tabulate_topic(
    name: str, cell: dict[str, dict | None], key: str, count: bool = False
) -> list[str]:
    """Return a row of the table of topics; its counts of rows stay empty unless count is set.

    cell: {"base", "cross", "cross_same", "in": numbers or None}; key: the number that is shown.
    """
    shown = [name]
    for part in ("base", "cross", "cross_same", "in"):
        numbers = cell[part]
        if part in ("base", "cross_same"):  # the first on their rows: how many these are
            if not count:
                shown.append("")
            elif numbers is None:
                shown.append("-")
            else:
                shown.append(f"{numbers['n']:.0f}")
        value = None if numbers is None else numbers[key]
        shown.append(result_tables.format_value(value))
    return shown


def list_curve(curve: list[dict]) -> list[TitledTable]:
    """Return the table of the learning curve, trace_curve's, alone in a list."""
    rows = []
    for point in curve:
        cells = [f"{point['fraction']:g}", str(point["rows"])]
        for key in MEASURES:
            values = [run[TUNED][key]["value"] for run in point["runs"]]
            mean = result_tables.format_value(statistics.fmean(values))
            spread = f" sd {statistics.stdev(values):.3f}" if len(values) > 1 else ""
            interval = result_tables.format_interval(point["runs"][0][TUNED][key]["rows"])
            cells.append(f"{mean}{spread} {interval}")
        for name in ("base", "tf-idf"):
            cells.append(result_tables.format_value(average_runs(point, name, "macro_f1")))
        rows.append(cells)
    measured = [f"{name}, {result_tables.LEVEL_TEXT} of first seed" for name in MEASURES.values()]
    header = ["Share", "training rows", *measured, "Macro-F1 of base", "of tf-idf"]
    title = f"Learning curve on {curve[-1]['n']} test rows"
    labels = describe_curve_labels(curve)
    guide = f"{CURVE_GUIDE} {labels}".strip()
    if labels:  # for the screen, which shows no guide
        title += f", macro-F1 over {result_tables.join_words(curve[-1]['gold_labels'])}"
    return [TitledTable(title, header, rows, guide)]


def describe_curve_labels(curve: list[dict]) -> str:
    """Return result_tables.describe_gold_labels of trace_curve, answers being those of all runs."""
    scores = {}
    for name in CURVE_MODELS:
        outside = sum(run["outside"][name] for point in curve for run in point["runs"])
        scores[name] = {"gold_labels": curve[-1]["gold_labels"], "outside": outside}
    return result_tables.describe_gold_labels(scores)


def format_screen(titled_tables: list[TitledTable]) -> str:
    """Return titled tables for the screen."""
    blocks = []
    for table in titled_tables:
        blocks.append(f"{table.title}\n{formatting.format_table(table.header, table.rows)}")
    return "\n\n".join(blocks)


def list_latex(titled_tables: list[TitledTable], note: str | None) -> Iterator[str]:
    """Yield the LaTeX tables of study.tex; a note, as of the demo model, begins each caption."""
    for number, table in enumerate(titled_tables, start=1):
        caption = f"{note or ''} {table.title}. {table.guide}".strip()
        label = f"tab:study-{number}"
        yield formatting.format_latex(table.header, table.rows, caption, label) + "\n"


def build_page(titled_tables: list[TitledTable], studies: Collection[str], note: str | None) -> str:
    """Return study.md; studies: "topics", "curve" or both, whose pictures the page shows."""
    pictures = {
        "topics": (
            "![Macro-F1 by topic; test split: the rows of the topic in the test split of all]"
            "(cross_topic.png)"
        ),
        "curve": "![Learning curve](learning_curve.png)",
    }
    blocks = ["# Study"]
    if note:
        blocks.append(f"> {formatting.escape_markup(note)}")
    for table in titled_tables:
        if table.guide not in blocks:  # once for all tables that share it
            blocks.append(table.guide)
        blocks.append(f"{formatting.escape_markup(table.title)}:")
        blocks.append(formatting.format_markdown(table.header, table.rows))
    for name, picture in pictures.items():
        if name in studies:
            blocks.append(picture)
    return "\n\n".join(blocks) + "\n"
