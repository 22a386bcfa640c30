"""The report of an evaluation: lines for the screen, report.md, tables for papers, pictures and the list of errors."""

import textwrap

from stance.common import files, formatting
from stance.corpus import tables
from stance.evaluation import (
    analysis,
    figures,
    prompt_variants,
    result_tables,
    uncertainty,
)
from stance.model import fingerprints

# ---------------------------------------------------------------- settings
EXAMPLES = 3  # rows shown of those that fine-tuning fixed and broke; errors.xlsx has all
MANY_TOPICS = 30  # from here on, intervals over topics come without a warning; stance/evaluation/uncertainty.py has the simulations
# --------------------------------------------------------------------------

ADVICE = " Quote the wider of both, and hold topics out (tools/study.py)."  # where topics are few
PICTURES = {
    "confusion.png": "Confusion matrices: rows, and their share of those with the gold label",
    "topics.png": "Macro-F1 by topic",
    "reliability.png": "Reliability: accuracy against confidence, by bins",
    "coverage.png": "Accuracy when the least sure rows are left to a human",
}


def describe_comparison(comparison):
    """Return McNemar's test as a sentence."""
    test, first, second = comparison["mcnemar"], comparison["first"], comparison["second"]
    return (
        f"{second} against {first}: {test['only_second']} rows right only in {second}, {test['only_first']} only in "
        f"{first}; McNemar's exact test {result_tables.format_p(test['p'])}"
    )


def format_statistics(numbers):
    """Return what the screen shows under the tables: intervals, and the comparison of the models."""
    parts = []
    for over in ("rows", "topics"):
        if over in next(iter(numbers["intervals"].values()))["accuracy"]:
            table = formatting.format_table(
                *result_tables.tabulate_results(numbers["intervals"], over)
            )
            parts.append(f"{result_tables.LEVEL_TEXT} bootstrap intervals over {over}\n{table}")
    topics = len(next(iter(numbers["topics"].values())))
    parts += [describe_topic_intervals(topics, ADVICE)] if topics > 1 else []
    for comparison in numbers["comparisons"]:
        table = formatting.format_table(*result_tables.tabulate_comparison(comparison))
        parts.append(f"{describe_comparison(comparison)}\n{table}")
    return "\n\n".join([*parts, *list_widthless(numbers["intervals"])])


def list_widthless(intervals):
    """Return a sentence about each model whose accuracy has a bootstrap interval without width."""
    return [
        f"{name}: an interval without width only means that all rows are alike; Wilson's interval of its accuracy is "
        f"{result_tables.format_interval(part['accuracy']['wilson'])}."
        for name, part in intervals.items()
        if part["accuracy"]["rows"][0] == part["accuracy"]["rows"][1]
    ]


def write_results(folder, run, table, result, numbers):
    """Write everything that is computed from records; return the names of the files."""
    pictures = draw_pictures(folder, table, result, numbers, run["note"])
    header, rows = result_tables.tabulate_results(numbers["intervals"])
    caption = describe_caption(run, table)
    files.write_json(folder / "evaluation.json", {**run, "metrics": result, "analysis": numbers})
    files.write_text(folder / "report.md", [build_report(run, table, result, numbers, pictures)])
    files.write_text(
        folder / "results.tex", [formatting.format_latex(header, rows, caption, "tab:results")]
    )
    tables.write_table(folder / "errors.xlsx", *analysis.list_errors(table))
    return ["evaluation.json", "report.md", "results.tex", "errors.xlsx", *pictures]


def write_runs(folder, result, note):
    """Write the tables of analysis.compare_runs; return the names of the files."""
    header, rows = result_tables.tabulate_runs(result)
    caption = f"{note or ''} {result_tables.describe_runs(result)}".strip()
    files.write_json(folder / "runs.json", {"note": note, **result})
    files.write_text(
        folder / "runs.tex", [formatting.format_latex(header, rows, caption, "tab:runs")]
    )
    return ["runs.json", "runs.tex"]


def draw_pictures(folder, table, result, numbers, note):
    """Draw the pictures of an evaluation and return their names."""
    drawn = {
        "confusion.png": (figures.plot_confusion, result),
        "topics.png": (figures.plot_topics, numbers["topics"]),
    }
    if numbers["calibration"]:
        drawn["reliability.png"] = (figures.plot_reliability, numbers["calibration"])
        drawn["coverage.png"] = (figures.plot_coverage, analysis.trace_models(table))
    for name, (plot, data) in drawn.items():
        plot(data, folder / name, note)
    return list(drawn)


def describe_caption(run, table):
    """Return the caption of the table of results."""
    topics, level = result_tables.count_topics(table), result_tables.LEVEL_TEXT
    caption = (
        f"{len(table)} test sentences on {topics}; {level} bootstrap intervals over sentences."
    )
    return f"{run['note']} {caption}" if run.get("note") else caption


def build_report(run, table, result, numbers, pictures):
    """Return report.md: everything about an evaluation on one page.

    run: what evaluation.json says about it, with its note; result: analysis.compute_model_metrics; numbers: analysis.analyse.
    """
    blocks = [
        "# Evaluation",
        *([f"> {run['note']}"] if run.get("note") else []),
        describe_evaluation(run, table),
    ]
    blocks += [
        *list_results(numbers, len({row["topic"] for row in table})),
        *list_parts(result, numbers),
    ]
    blocks += [
        *list_calibration(numbers),
        *list_robustness(numbers["robustness"]),
        *describe_errors(table),
    ]
    blocks += ["## Pictures", *(f"![{PICTURES[name]}]({name})" for name in pictures)]
    blocks += ["## How it was made", describe_setup(run)]
    return "\n\n".join(blocks) + "\n"


def markdown(table):
    """Return a (header, rows) pair as a Markdown table."""
    return formatting.format_markdown(*table)


def describe_evaluation(run, table):
    """Return what was evaluated on what."""
    named = f"base `{run.get('base_model')}`, adapter `{run.get('adapter') or 'none'}`"
    unknown = "base and adapter unknown, as evaluation.json was missing"
    rows = f"{len(table)} test rows on {result_tables.count_topics(table)}"
    text = f"{rows}; {named if run.get('base_model') else unknown}."
    more = (result_tables.MODE_TEXTS.get(run.get("mode")), fingerprints.describe_splits(run))
    return " ".join(filter(None, (text, *more)))


def list_results(numbers, topics):
    """Return the blocks on accuracy, macro-F1 and kappa, and on the differences between models."""
    blocks = ["## Results", markdown(result_tables.tabulate_results(numbers["intervals"]))]
    blocks += [
        f"Brackets: {result_tables.LEVEL_TEXT} bootstrap intervals over rows. Majority (the most frequent label of the "
        "train split) and tf-idf (a logistic regression over TF-IDF weights, trained on the train split, its "
        "regularisation chosen on the validation split) are baselines."
    ]
    blocks += list_widthless(numbers["intervals"])
    if topics > 1:
        blocks += [f"With intervals over {topics} topics:"]
        blocks += [markdown(result_tables.tabulate_results(numbers["intervals"], "topics"))]
        blocks += [describe_topic_intervals(topics, ADVICE)]
    for comparison in numbers["comparisons"]:
        blocks += [
            f"{describe_comparison(comparison)}.",
            markdown(result_tables.tabulate_comparison(comparison)),
        ]
    return blocks


def list_parts(result, numbers):
    """Return the blocks by label and by topic."""
    blocks = ["## By label and topic"]
    for name, parts in result.items():
        header, rows = result_tables.tabulate_results(numbers["topics"][name], first="Topic")
        sizes = [str(part["n"]) for part in parts["topics"].values()]
        rows = [[*row, size] for row, size in zip(rows, sizes, strict=True)]
        blocks += [
            f"{name}:",
            markdown(result_tables.tabulate_labels(parts)),
            markdown(([*header, "n"], rows)),
        ]
    return blocks


def list_calibration(numbers):
    """Return the blocks on calibration and selective prediction; none without probabilities."""
    if not numbers["calibration"]:
        return []
    text = (
        f"ECE: mean distance between confidence and accuracy over {uncertainty.BINS} bins of equal width, weighted by "
        "rows; of few rows it is above 0 even for a perfect model. NLL: mean negative log-likelihood of the gold label."
    )
    fitted = next(iter(numbers["calibration"].values())).get("validation_rows")
    if fitted:
        text += (
            f" Scaled: with the temperature that was fitted on the {fitted} rows of the validation split; one at an "
            f"end of the search, {uncertainty.TEMPERATURES[0]:g} or {uncertainty.TEMPERATURES[1]:g}, means that "
            "nothing could be fitted."
        )
    return [
        "## Calibration and selective prediction",
        text,
        markdown(result_tables.tabulate_calibration(numbers["calibration"])),
        "Accuracy if only the most confident rows are answered (answered: their share, n: their number; brackets: "
        f"{result_tables.LEVEL_TEXT} Wilson intervals):",
        markdown(result_tables.tabulate_coverage(numbers["coverage"])),
    ]


def list_robustness(robustness):
    """Return the blocks on prompt variants; none if they were not asked."""
    if not robustness:
        return []
    return [
        "## Robustness",
        "The same rows asked in another way. Changed: answers unlike those to the usual prompt. As expected: the same "
        "answer; for a negated topic, with pro and con flipped. Flipped: of the answers pro and con, those that became "
        "the other. Accuracy: against the gold labels, for a negated topic with pro and con flipped in them too; "
        f"before: of the same rows with the usual prompt. Brackets: {result_tables.LEVEL_TEXT} Wilson intervals. A "
        "model that always answers neu is perfectly robust: read the accuracy too.",
        f"Negated topic: `{prompt_variants.NEGATION.replace('{topic}', '...')}` Typing errors: two neighbouring "
        f"letters are swapped in {100 * prompt_variants.TYPO_SHARE:g} % of the words of four or more letters.",
        markdown(result_tables.tabulate_robustness(robustness)),
    ]


def describe_errors(table):
    """Return the blocks on wrong rows: counts, and the most confident that fine-tuning fixed or broke."""
    header, rows = analysis.list_errors(table)
    blocks = [
        "## Errors",
        f"{len(rows)} of {len(table)} rows are wrong in some model: `errors.xlsx`.",
    ]
    for change in ("fixed", "broken"):
        chosen = [dict(zip(header, row)) for row in rows if row[0] == change]
        if chosen:
            blocks += [f"{len(chosen)} {change} by fine-tuning, for example:"]
            blocks += ["\n".join(map(describe_example, chosen[:EXAMPLES]))]
    return blocks


def describe_example(cells):
    """Return a wrong row, {column: value} of analysis.list_errors, as an item of a Markdown list."""
    text = textwrap.shorten(cells["text"], 160, placeholder=" ...").replace("`", "'")
    answers = [
        f"{key.removesuffix(' answer')}: {value}"
        for key, value in cells.items()
        if key.endswith(" answer")
    ]
    return f"- {cells['topic']} - `{text}` - gold: {cells['gold']}, {', '.join(answers)}"


def describe_topic_intervals(topics, advice=""):
    """Return what an interval over this many topics is worth, with advice if these are few."""
    if topics >= MANY_TOPICS:
        return "Intervals over topics speak about other topics, as far as those are like these."
    return (
        f"Intervals over topics are meant to speak about other topics, but {topics} are few: they come out too narrow "
        f"and hold the true value in clearly less than {result_tables.LEVEL_TEXT} of cases.{advice}"
    )


def describe_setup(run):
    """Return versions and checksums."""
    bootstrap = (
        f"Bootstrap: {uncertainty.RESAMPLES:,} resamples, seed {uncertainty.BOOTSTRAP_SEED}."
    )
    described = run.get("environment")
    if not described:  # records without their evaluation.json
        return f"{bootstrap} All numbers: `evaluation.json`."
    versions = [
        f"{name} {version}" for name, version in described.get("versions", {}).items() if version
    ]
    git = described.get("git") or {}
    changes = ", whose files were changed" if git.get("changed") else ""
    commit = f", commit `{git['commit']}`{changes}" if git else ""
    return (
        f"Test split SHA-256 `{run.get('test_sha256')}`, prompt version `{run.get('prompt_version')}`{commit}; "
        f"{run.get('device')}, Python {described.get('python')}, {', '.join(versions)}. {bootstrap} "
        "All numbers: `evaluation.json`."
    )
