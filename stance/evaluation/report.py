"""The report of an evaluation: for the screen, report.md, tables for papers, pictures, errors.

What most functions take: run, what evaluation.json says about the evaluation; table, the records of
the test split; result, analysis.compute_model_metrics; numbers, analysis.analyse.
"""

from pathlib import Path
from typing import Any

from stance.common import files, formatting, run_files, text_width, types
from stance.corpus import tables, workbook_writer
from stance.evaluation import (
    analysis,
    figures,
    predictions,
    prompt_variants,
    result_tables,
    uncertainty,
)
from stance.model import fingerprints

# ---------------------------------------------------------------- settings
EXAMPLES = 3  # rows shown of those that fine-tuning fixed and broke; errors.xlsx has all
EXAMPLE_WIDTH = 160  # columns of their sentences, as stance/common/text_width.py counts them
# From here on, intervals over topics come without a warning; stance/evaluation/uncertainty.py has
# the simulations.
MANY_TOPICS = 30
# --------------------------------------------------------------------------

ADVICE = " Quote the wider of both, and hold topics out (tools/study.py)."  # where topics are few
TOPIC_LABELS_GUIDE = (
    "Macro-F1 of a topic is the mean over the labels in the gold of its rows; outside: answers that "
    "are none of these labels, and wrong."
)
OTHER_TOPICS_GUIDE = (
    f"Named are the {formatting.SHOWN_TOPICS} topics with most rows; the line of the other topics is "
    "over all rows of these together. All topics: `evaluation.json`."
)
OTHER_SCORES_GUIDE = (
    "Scores that other papers report. SemEval-2016 F1: the mean of the F1 of pro and con. "
    "Weighted F1: the F1 of the labels, weighted by their rows. MCC: Matthews' correlation "
    "coefficient, 0 by chance. For SemEval-2016 F1 too, only labels in the gold count."
)
PICTURES = {
    "confusion.png": "Confusion matrices: rows, and their share of those with the gold label",
    "topics.png": "Macro-F1 by topic",
    "reliability.png": "Reliability: accuracy against confidence, by bins",
    "coverage.png": "Accuracy when the least sure rows are left to a human",
}


def describe_comparison(comparison: dict) -> str:
    """Return McNemar's test of two models as a sentence.

    comparison: uncertainty.compare_predictions, with the names "first" and "second".
    """
    test = comparison["mcnemar"]
    first = comparison["first"]
    second = comparison["second"]
    return (
        f"{second} against {first}: {test['only_second']} rows right only in {second}, "
        f"{test['only_first']} only in {first}; "
        f"McNemar's exact test {result_tables.format_p(test['p'])}"
    )


def format_statistics(numbers: dict) -> str:
    """Return what the screen shows below the tables: intervals, and the comparisons of models."""
    intervals = numbers["intervals"]
    any_model = next(iter(intervals.values()))
    blocks = []
    for over in ("rows", "topics"):
        if over in any_model["accuracy"]:
            table = formatting.format_table(*result_tables.tabulate_results(intervals, over))
            blocks.append(f"{result_tables.LEVEL_TEXT} bootstrap intervals over {over}\n{table}")
    topics = len(next(iter(numbers["topics"].values())))
    if topics > 1:
        blocks.append(describe_topic_intervals(topics, ADVICE))
    for comparison in numbers["comparisons"]:
        table = formatting.format_table(*result_tables.tabulate_comparison(comparison))
        blocks.append(f"{describe_comparison(comparison)}\n{table}")
    blocks += list_widthless(intervals)
    return "\n\n".join(blocks)


def list_widthless(intervals: dict[str, dict]) -> list[str]:
    """Return a sentence about each model whose accuracy has a bootstrap interval without width.

    intervals: {model: uncertainty.describe_predictions}.
    """
    sentences = []
    for name, statistics in intervals.items():
        low, high = statistics["accuracy"]["rows"]
        if low == high:
            wilson = result_tables.format_interval(statistics["accuracy"]["wilson"])
            sentences.append(
                f"{name}: an interval without width only means that all rows are alike; "
                f"Wilson's interval of its accuracy is {wilson}."
            )
    return sentences


def write_results(
    folder: Path, run: dict, table: list[types.EvaluationRecord], result: dict, numbers: dict
) -> list[str]:
    """Write everything that is computed from records; return the paths of the files in the folder."""
    pictures = draw_pictures(folder, table, result, numbers, run["note"])
    page = build_report(run, table, result, numbers, pictures)
    header, rows = result_tables.tabulate_results(numbers["intervals"])
    caption = describe_caption(run, table, numbers)
    latex = formatting.format_latex(header, rows, caption, "tab:results")
    files.write_text(run_files.place_text(folder, run_files.REPORT_PAGE), [page])
    files.write_text(folder / "results.tex", [latex])
    header, rows = analysis.list_errors(table)
    shares = [name for name in header if name == "confidence" or " p_" in name]
    look = workbook_writer.Look("wrong rows", shares=shares)
    tables.write_table(run_files.place_text(folder, run_files.ERRORS), header, rows, look)
    texts = (run_files.REPORT_PAGE, run_files.ERRORS)
    run_files.remove_replaced(folder, texts)
    # Last: with it, an evaluation counts as finished.
    files.write_json(folder / run_files.NUMBERS, {**run, "metrics": result, "analysis": numbers})
    written = [f"{run_files.TEXTS}/{name}" for name in texts]
    return [run_files.NUMBERS, "results.tex", *written, *pictures]


def write_runs(folder: Path, result: dict, note: str | None) -> list[str]:
    """Write the tables of analysis.compare_runs; return the names of the files."""
    header, rows = result_tables.tabulate_runs(result)
    caption = f"{note or ''} {result_tables.describe_runs(result)}".strip()
    latex = [formatting.format_latex(header, rows, caption, "tab:runs")]
    if result.get("without_leaks"):
        header, rows = result_tables.tabulate_runs(result["without_leaks"])
        described = result_tables.describe_runs(result["without_leaks"])
        caption = f"{note or ''} Without the leaked rows. {described}".strip()
        latex.append("\n" + formatting.format_latex(header, rows, caption, "tab:runs-unleaked"))
    files.write_json(folder / "runs.json", {"note": note, **result})
    files.write_text(folder / "runs.tex", latex)
    return ["runs.json", "runs.tex"]


def draw_pictures(
    folder: Path,
    table: list[types.EvaluationRecord],
    result: dict,
    numbers: dict,
    note: str | None,
) -> list[str]:
    """Draw the pictures of an evaluation and return their names; note: goes below each of them."""
    figures.plot_confusion(result, folder / "confusion.png", note)
    topics = {
        name: result_tables.pick_topics(by_topic, numbers["other_topics"][name])
        for name, by_topic in numbers["topics"].items()
    }
    figures.plot_topics(topics, folder / "topics.png", note)
    names = ["confusion.png", "topics.png"]
    if numbers["calibration"]:
        figures.plot_reliability(numbers["calibration"], folder / "reliability.png", note)
        figures.plot_coverage(analysis.trace_models(table), folder / "coverage.png", note)
        names += ["reliability.png", "coverage.png"]
    return names


def describe_caption(run: dict, table: list[types.EvaluationRecord], numbers: dict) -> str:
    """Return the caption of the table of results."""
    caption = (
        f"{len(table)} test sentences on {result_tables.count_topics(table)}; "
        f"{result_tables.LEVEL_TEXT} bootstrap intervals over sentences. "
        f"{result_tables.describe_gold_labels(numbers['scores'])}"
    ).strip()
    leaks = result_tables.describe_leaks(numbers["leaks"])
    caption = f"{caption} {leaks}".strip()
    caption = f"{caption} {predictions.describe_change(run)}".strip()
    return f"{run['note']} {caption}" if run.get("note") else caption


def build_report(
    run: dict,
    table: list[types.EvaluationRecord],
    result: dict,
    numbers: dict,
    pictures: list[str],
) -> str:
    """Return report.md: everything about an evaluation on one page.

    pictures: names of the files that draw_pictures wrote.
    """
    topics = len({row["topic"] for row in table})
    blocks = ["# Evaluation"]
    if run.get("note"):
        blocks.append(f"> {formatting.escape_markup(run['note'])}")
    blocks.append(describe_evaluation(run, table))
    blocks += list_results(numbers, topics)
    blocks += list_parts(result, numbers)
    blocks += list_agreement(numbers["agreement"])
    blocks += list_calibration(numbers)
    blocks += list_robustness(numbers["robustness"])
    blocks += describe_errors(table)
    blocks.append("## Pictures")
    for name in pictures:
        blocks.append(f"![{PICTURES[name]}](../{name})")  # from texts/ of the folder of results
    blocks.append("## How it was made")
    blocks.append(describe_setup(run))
    return "\n\n".join(blocks) + "\n"


def markdown(table: result_tables.TextTable) -> str:
    """Return a (header, rows) pair as a Markdown table."""
    header, rows = table
    return formatting.format_markdown(header, rows)


def describe_evaluation(run: dict, table: list[types.EvaluationRecord]) -> str:
    """Return what was evaluated on what."""
    if run.get("base_model"):
        base = formatting.format_code(run["base_model"])
        models = f"base {base}, adapter {formatting.format_code(run.get('adapter') or 'none')}"
    else:
        models = "base and adapter unknown, as evaluation.json was missing"
    sentences = [
        f"{len(table)} test rows on {result_tables.count_topics(table)}; {models}.",
        result_tables.MODE_TEXTS.get(run.get("mode"), ""),
        fingerprints.describe_splits(run),
        predictions.describe_change(run),
    ]
    return " ".join(sentence for sentence in sentences if sentence)


def list_results(numbers: dict, topics: int) -> list[str]:
    """Return the blocks on accuracy, macro-F1 and kappa, and on the differences between models.

    topics: how many the test rows are on.
    """
    intervals = numbers["intervals"]
    blocks = [
        "## Results",
        markdown(result_tables.tabulate_results(intervals)),
        f"Brackets: {result_tables.LEVEL_TEXT} bootstrap intervals over rows. Majority (the most "
        "frequent label of the train split) and tf-idf (a logistic regression over TF-IDF weights, "
        "trained on the train split, its regularisation chosen on the validation split) are "
        "baselines.",
    ]
    labels = result_tables.describe_gold_labels(numbers["scores"])
    if labels:
        blocks.append(labels)
    blocks += list_leaks(numbers["leaks"])
    blocks += map(formatting.escape_markup, list_widthless(intervals))
    if topics > 1:
        blocks.append(f"With intervals over {topics} topics:")
        blocks.append(markdown(result_tables.tabulate_results(intervals, "topics")))
        blocks.append(describe_topic_intervals(topics, ADVICE))
    for comparison in numbers["comparisons"]:
        blocks.append(formatting.escape_markup(f"{describe_comparison(comparison)}."))
        blocks.append(markdown(result_tables.tabulate_comparison(comparison)))
    blocks.append(OTHER_SCORES_GUIDE)
    blocks.append(markdown(result_tables.tabulate_scores(numbers["scores"])))
    return blocks


def list_leaks(leaks: dict) -> list[str]:
    """Return the blocks on the results without leaked rows; none without any.

    leaks: analysis.describe_without_leaks.
    """
    if not leaks:
        return []
    blocks = [f"**{result_tables.name_leaks(leaks['leaked'], leaks['rows'])}**"]
    if leaks["n"]:
        blocks.append(f"Without the leaked rows, n = {leaks['n']}:")
        blocks.append(markdown(result_tables.tabulate_results(leaks["intervals"])))
    return blocks


def list_agreement(agreement: dict) -> list[str]:
    """Return the blocks on rows that annotators agreed on or not; none if nothing is known.

    agreement: analysis.compare_agreement.
    """
    if not agreement:
        return []
    guide = (
        "Agreement: the share of the annotators' votes that the gold label got; full: all of them. "
        "Macro-F1 of a group is the mean over the labels in the gold of its rows."
    )
    if agreement["unknown"]:
        guide += f" Rows without it: {agreement['unknown']}."
    return [
        "## By agreement of the annotators",
        guide,
        markdown(result_tables.tabulate_agreement(agreement)),
    ]


def list_parts(result: dict[str, dict], numbers: dict) -> list[str]:
    """Return the blocks by label and by topic, of each model."""
    blocks = ["## By label and topic"]
    for name, metrics in result.items():
        described = result_tables.pick_topics(
            numbers["topics"][name], numbers["other_topics"][name]
        )
        by_topic = result_tables.pick_topics(metrics["topics"], metrics["other_topics"])
        header, rows = result_tables.tabulate_results(described, first="Topic")
        sizes = [str(part["n"]) for part in by_topic.values()]
        more_header, more_rows = result_tables.tabulate_gold_labels(by_topic)
        sized_rows = [
            [*row, size, *more] for row, size, more in zip(rows, sizes, more_rows, strict=True)
        ]
        blocks.append(f"{formatting.escape_markup(name)}:")
        blocks.append(markdown(result_tables.tabulate_labels(metrics)))
        blocks.append(markdown(([*header, "n", *more_header], sized_rows)))
        if more_header:
            blocks.append(TOPIC_LABELS_GUIDE)
        if metrics["other_topics"]:
            blocks.append(OTHER_TOPICS_GUIDE)
    return blocks


def list_calibration(numbers: dict) -> list[str]:
    """Return the blocks on calibration and selective prediction; none without probabilities."""
    if not numbers["calibration"]:
        return []
    text = (
        f"ECE: mean distance between confidence and accuracy over {uncertainty.BINS} bins of equal "
        "width, weighted by rows; of few rows it is above 0 even for a perfect model. "
        "NLL: mean negative log-likelihood of the gold label."
    )
    any_model = next(iter(numbers["calibration"].values()))
    validation_rows = any_model.get("validation_rows")
    if validation_rows:
        lowest, highest = uncertainty.TEMPERATURES
        text += (
            f" Scaled: with the temperature that was fitted on the {validation_rows} rows of the "
            f"validation split; one at an end of the search, {lowest:g} or {highest:g}, means that "
            "nothing could be fitted."
        )
    return [
        "## Calibration and selective prediction",
        text,
        markdown(result_tables.tabulate_calibration(numbers["calibration"])),
        "Accuracy if only the most confident rows are answered (answered: their share, n: their "
        f"number; brackets: {result_tables.LEVEL_TEXT} Wilson intervals):",
        markdown(result_tables.tabulate_coverage(numbers["coverage"])),
    ]


def list_robustness(robustness: dict[str, dict]) -> list[str]:
    """Return the blocks on prompt variants, of analysis.compare_variants; none if not asked."""
    if not robustness:
        return []
    negation = prompt_variants.NEGATION.replace("{topic}", "...")
    return [
        "## Robustness",
        "The same rows asked in another way. Changed: answers unlike those to the usual prompt. "
        "As expected: the same answer; for a negated topic, with pro and con flipped. Flipped: of "
        "the answers pro and con, those that became the other. Accuracy: against the gold labels, "
        "for a negated topic with pro and con flipped in them too; before: of the same rows with "
        f"the usual prompt. Brackets: {result_tables.LEVEL_TEXT} Wilson intervals. "
        "A model that always answers neu is perfectly robust: read the accuracy too.",
        f"Negated topic: `{negation}` Typing errors: two neighbouring letters are swapped in "
        f"{100 * prompt_variants.TYPO_SHARE:g} % of the words of four or more letters.",
        markdown(result_tables.tabulate_robustness(robustness)),
    ]


def describe_errors(table: list[types.EvaluationRecord]) -> list[str]:
    """Return the blocks on wrong rows: counts, and a few that fine-tuning fixed or broke."""
    header, rows = analysis.list_errors(table)
    errors = [dict(zip(header, row, strict=True)) for row in rows]
    blocks = [
        "## Errors",
        f"{len(errors)} of {len(table)} rows are wrong in some model: `errors.xlsx`.",
    ]
    for change in ("fixed", "broken"):
        changed = [error for error in errors if error["change"] == change]
        if changed:
            examples = [describe_example(error) for error in changed[:EXAMPLES]]
            blocks.append(f"{len(changed)} {change} by fine-tuning, for example:")
            blocks.append("\n".join(examples))
    return blocks


def describe_example(cells: dict[str, Any]) -> str:
    """Return a wrong row, {column: cell} of analysis.list_errors, as an item of a Markdown list."""
    text = formatting.format_code(text_width.shorten_text(cells["text"], EXAMPLE_WIDTH))
    topic = formatting.escape_markup(cells["topic"])
    parts = [f"gold: {cells['gold']}"]
    for column, value in cells.items():
        if column.endswith(" answer"):
            model = column.removesuffix(" answer")
            parts.append(formatting.escape_markup(f"{model}: {value}"))
    return f"- {topic} - {text} - {', '.join(parts)}"


def describe_topic_intervals(topics: int, advice: str = "") -> str:
    """Return what an interval over this many topics is worth, with advice if these are few."""
    if topics >= MANY_TOPICS:
        return "Intervals over topics speak about other topics, as far as those are like these."
    return (
        f"Intervals over topics are meant to speak about other topics, but {topics} are few: "
        "they come out too narrow and hold the true value in clearly less than "
        f"{result_tables.LEVEL_TEXT} of cases.{advice}"
    )


def describe_setup(run: dict) -> str:
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
    commit = ""
    git = described.get("git")
    if git:
        changes = ", whose files were changed" if git.get("changed") else ""
        commit = f", commit {formatting.format_code(git['commit'])}{changes}"
    machine = f"{run.get('device')}, Python {described.get('python')}, {', '.join(versions)}"
    return (
        f"Test split SHA-256 {formatting.format_code(run.get('test_sha256'))}, "
        f"prompt version {formatting.format_code(run.get('prompt_version'))}{commit}; "
        f"{formatting.escape_markup(machine)}. {bootstrap} "
        "All numbers: `evaluation.json`."
    )
