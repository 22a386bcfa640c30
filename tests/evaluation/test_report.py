"""stance/evaluation/report.py and stance/evaluation/result_tables.py: the tables say what the numbers are, in Markdown, LaTeX and on the screen."""

import re

import openpyxl
import pytest
from test_analysis import (
    add_agreement,
    make_binary_table,
    make_many_topics,
    make_table,
    make_variants,
    mark_leaks,
)

from stance.common import formatting, run_files
from stance.common.run_files import find_text
from stance.evaluation import analysis, figures, report, result_tables

NOTE = "DEMO: a note that must not get lost."
RUN = {
    "mode": "score", "base_model": "google/gemma-2-9b-it", "adapter": "outputs/mine", "note": None, "device": "cpu",
    "splits_of_adapter": True, "test_sha256": "abc123", "prompt_version": "f00", "demo": False,
    "environment": {"python": "3.11", "versions": {"torch": "2.0", "trl": None}, "git": {"commit": "c0ffee"}},
}  # fmt: skip


def make_numbers(table):
    swapped = {"pro": "con", "con": "pro", "neu": "neu"}
    answers = {
        row["id"]: tuple(swapped[model["prediction"]] for model in row["models"].values())
        for row in table
    }
    return analysis.analyse(table, table, make_variants("negated topic", answers))


def read_markdown(text):
    """[[cells of a row, ...], ...] of the Markdown tables of a text."""
    tables = re.findall(r"(?:^\|.*\|\n?)+", text, re.MULTILINE)
    lines = [table.strip().split("\n") for table in tables]
    return [
        [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in table]
        for table in lines
    ]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """(folder, names of the files) of a report."""
    folder, table = tmp_path_factory.mktemp("report"), make_table()
    numbers = make_numbers(table)
    names = report.write_results(
        folder, {**RUN, "note": NOTE}, table, analysis.compute_model_metrics(table), numbers
    )
    return folder, names


@pytest.mark.slow
def test_all_files_are_written(written):
    folder, names = written
    found = [str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()]
    assert sorted([*names, "texts/README.md"]) == sorted(found)
    assert {"texts/report.md", "texts/errors.xlsx", "results.tex", "evaluation.json"} <= set(names)
    assert {"confusion.png", "topics.png", "reliability.png", "coverage.png"} <= set(names)


def test_the_report_has_every_section_and_picture(written):
    folder, names = written
    text = find_text(folder, "report.md").read_text(encoding="utf-8")
    titles = (
        "Results",
        "By label and topic",
        "Calibration and selective prediction",
        "Robustness",
        "Errors",
        "Pictures",
    )
    for title in (*titles, "How it was made"):
        assert f"\n## {title}\n" in text
    links = re.findall(r"!\[.+\]\((.+)\)", text)
    assert links == [f"../{name}" for name in names if name.endswith(".png")]
    assert all((folder / run_files.TEXTS / link).is_file() for link in links)
    for shown in (
        NOTE,
        "abc123",
        "c0ffee",
        "torch 2.0",
        "10,000 resamples",
        "google/gemma-2-9b-it",
    ):
        assert shown in text
    assert "files were changed" not in text and "the most probable of the three labels" in text
    assert "trl" not in text and "None" not in text


def test_every_table_of_the_report_is_whole(written):
    tables = read_markdown(find_text(written[0], "report.md").read_text(encoding="utf-8"))
    assert len(tables) == 2 + 2 + 1 + 2 * 2 + 3
    for table in tables:
        assert len({len(row) for row in table}) == 1


def test_results_show_values_and_intervals(written):
    table = make_table()
    intervals = analysis.analyse(table)["intervals"]
    shown = read_markdown(find_text(written[0], "report.md").read_text(encoding="utf-8"))[0]
    assert shown[0] == ["Model", "Accuracy", "Macro-F1", "Cohen's kappa"]
    for row, (name, part) in zip(shown[2:], intervals.items(), strict=True):
        cells = [
            f"{part[key]['value']:.3f} [{part[key]['rows'][0]:.3f}, {part[key]['rows'][1]:.3f}]"
            for key in part
        ]
        assert row == [name, *cells]


def test_scores_of_other_papers_have_a_table(written):
    text = find_text(written[0], "report.md").read_text(encoding="utf-8")
    [table] = [table for table in read_markdown(text) if table[0][1] == "SemEval-2016 F1"]
    assert table[0] == ["Model", "SemEval-2016 F1", "Weighted F1", "MCC"]
    # fine-tuned: gold pro pro con neu con neu, answers pro pro neu con con neu: F1 1, 1/2, 1/2;
    # MCC (6 * 4 - 12) / (36 - 12), as three gold labels and answers occur twice each
    assert table[-1] == ["fine-tuned", "0.750", "0.667", "0.500"]
    assert report.OTHER_SCORES_GUIDE in text


BINARY_NOTE = (
    "Macro-F1 is the mean over pro and con: no row has the gold label neu. Answers outside of these "
    "count as wrong: 6 of majority, 1 of tf-idf, 2 of base and 2 of fine-tuned."
)


def test_missing_gold_labels_are_said_in_the_report_and_the_caption(tmp_path):
    table = make_binary_table(perfect=False)
    result, numbers = analysis.compute_model_metrics(table), make_numbers(table)
    report.write_results(tmp_path, RUN, table, result, numbers)
    text = find_text(tmp_path, "report.md").read_text(encoding="utf-8")
    assert BINARY_NOTE in text and BINARY_NOTE in (tmp_path / "results.tex").read_text()
    topics = [table for table in read_markdown(text) if table[0][0] == "Topic"]
    assert [row[-3:] for row in topics[1][2:]] == [["3", "pro, con", "2"], ["3", "pro, con", "0"]]
    assert text.count(report.TOPIC_LABELS_GUIDE) == 2


def test_a_perfect_model_on_two_labels_in_the_report(tmp_path):
    table = make_binary_table()
    result, numbers = analysis.compute_model_metrics(table), make_numbers(table)
    shown = read_markdown(report.build_report(RUN, table, result, numbers, []))[0]
    assert shown[-1][2].startswith("1.000 [")


def test_all_gold_labels_need_no_note(written):
    for name in ("report.md", "results.tex"):
        text = find_text(written[0], name).read_text(encoding="utf-8")
        assert "Macro-F1 is the mean over" not in text.replace(report.TOPIC_LABELS_GUIDE, "")
    runs = analysis.compare_runs({"a": make_table()})
    assert "Macro-F1 is the mean" not in result_tables.describe_runs(runs)


def test_missing_gold_labels_are_said_below_the_runs():
    text = result_tables.describe_runs(analysis.compare_runs({"a": make_binary_table(False)}))
    assert text == (
        "One run, so without mean and standard deviation. Macro-F1 is the mean over pro and con: no "
        "row has the gold label neu. Answers outside of these count as wrong: 2 of base in a and 2 "
        "of fine-tuned in a."
    )


def test_latex_is_a_booktabs_table(written):
    text = (written[0] / "results.tex").read_text(encoding="utf-8")
    assert text.count(r"\begin{table}") == text.count(r"\end{table}") == 1
    body = text[text.index(r"\toprule") : text.index(r"\bottomrule")]
    lines = [line for line in body.splitlines() if "&" in line]
    assert len(lines) == 1 + 4 and all(
        line.count("&") == 3 and line.endswith(r"\\") for line in lines
    )
    assert (
        NOTE in text
        and r"95 \% bootstrap intervals" in text
        and "6 test sentences on 2 topics" in text
    )


def test_latex_escapes_what_latex_reads():
    text = formatting.format_latex(
        ["A_b", "50 %"], [["x & y", "$1"], ["~^\\", "#{}"]], "50 % & more", "tab:x"
    )
    assert (
        r"A\_b & 50 \% \\" in text
        and r"x \& y & \$1 \\" in text
        and r"\caption{50 \% \& more}" in text
    )
    assert r"\textasciitilde{}\textasciicircum{}\textbackslash{} & \#\{\} \\" in text
    rows = [["COVID-19 is <x|y>", "-0.1 [-0.2, +0.3]"], ["[One]\n\ntwo", "p < 0.001"]]
    text = formatting.format_latex(["a", "b"], rows, "", "tab:x")
    assert r"COVID-19 is \textless{}x\textbar{}y\textgreater{} & $-$0.1 [$-$0.2, +0.3] \\" in text
    assert (
        "\n{}[One] two & " in text and r"p \textless{} 0.001" in text
    )  # \\ before a bracket would take it as its own


def test_words_go_to_the_left_and_numbers_to_the_right():
    rows = [["a", "base", "0.500 [0.1, 0.9]", "-"], ["sd", "fine-tuned", "+0.1", ""]]
    assert r"\begin{tabular}{llrr}" in formatting.format_latex(
        ["Run", "Model", "F1", "n"], rows, "c", "tab:x"
    )
    assert "| --- | --- | ---: | ---: |" in formatting.format_markdown(
        ["Run", "Model", "F1", "n"], rows
    )
    assert formatting.format_table(["Run", "Model", "F1"], [row[:3] for row in rows]).splitlines()[
        -1
    ] == ("sd   fine-tuned              +0.1")


def test_markdown_survives_pipes_and_line_breaks():
    assert (
        formatting.format_markdown(["a", "b"], [["x|y", "1\n2"]])
        == "| a | b |\n| --- | ---: |\n| x\\|y | 1 2 |"
    )


def test_the_comparison_is_said_in_words():
    [comparison] = [
        part for part in analysis.analyse(make_table())["comparisons"] if part["first"] == "base"
    ]
    assert report.describe_comparison(comparison) == (
        "fine-tuned against base: 2 rows right only in fine-tuned, 1 only in base; McNemar's exact test p = 1.000"
    )
    header, rows = result_tables.tabulate_comparison(comparison)
    assert rows[0][:2] == ["Accuracy", "+0.167"] and re.fullmatch(
        r"\[[+-]0\.\d{3}, [+-]0\.\d{3}\]", rows[0][2]
    )
    assert (
        result_tables.format_p(0.00012) == "p < 0.001"
        and result_tables.format_p(0.0431) == "p = 0.043"
    )


def test_few_topics_are_warned_of():
    assert "too narrow" in report.describe_topic_intervals(5)
    assert "too narrow" not in report.describe_topic_intervals(40)


def test_robustness_in_the_report(written):
    tables = read_markdown(find_text(written[0], "report.md").read_text(encoding="utf-8"))
    [robustness] = [table for table in tables if table[0][0] == "Variant"]
    assert [row[:4] for row in robustness[2:]] == [
        ["negated topic", "base", "0.667", "1.000"],
        ["negated topic", "fine-tuned", "0.667", "1.000"],
    ]


def test_the_report_defines_what_it_measures(written):
    text = find_text(written[0], "report.md").read_text(encoding="utf-8")
    assert (
        "over 10 bins of equal width" in text
        and "fitted on the 6 rows of the validation split" in text
    )
    assert "`It is wrong to claim: ...`" in text and "in 15 % of the words" in text
    [coverage] = [table for table in read_markdown(text) if table[0][1] == "answered"]
    assert coverage[2][:3] == ["base", "1.000", "6"] and re.fullmatch(
        r"0\.500 \[0\.\d{3}, 0\.\d{3}\]", coverage[2][3]
    )


def test_a_changed_checkout_is_said():
    environment = {**RUN["environment"], "git": {"commit": "c0ffee", "changed": True}}
    assert "`c0ffee`, whose files were changed;" in report.describe_setup(
        {**RUN, "environment": environment}
    )
    assert "None" not in report.describe_evaluation({}, make_table()) + report.describe_setup({})
    assert "commit" not in report.describe_setup(
        {**RUN, "environment": {**environment, "git": None}}
    )


def test_examples_of_fixed_and_broken_rows(written):
    text = find_text(written[0], "report.md").read_text(encoding="utf-8")
    assert "4 of 6 rows are wrong in some model" in text
    assert (
        "2 fixed by fine-tuning, for example:" in text
        and "1 broken by fine-tuning, for example:" in text
    )
    assert "- Zoos - `Sentence 3.` - gold: con, base: con, fine-tuned: neu" in text


def test_errors_are_a_workbook(written):
    lines = list(
        openpyxl.load_workbook(find_text(written[0], "errors.xlsx")).active.iter_rows(
            values_only=True
        )
    )
    header, rows = analysis.list_errors(make_table())
    assert [list(line) for line in lines] == [header, *rows]


def test_a_report_of_generated_answers_has_no_calibration(tmp_path):
    table = make_table(scored=False, baselines=False)
    names = report.write_results(
        tmp_path, RUN, table, analysis.compute_model_metrics(table), analysis.analyse(table)
    )
    text = find_text(tmp_path, "report.md").read_text(encoding="utf-8")
    assert "Calibration" not in text and "Robustness" not in text and "reliability.png" not in names


def test_foreign_splits_are_said_in_the_report(tmp_path):
    table = make_table()
    numbers = analysis.compute_model_metrics(table), analysis.analyse(table)
    foreign = {**RUN, "splits_of_adapter": False}
    assert "may have seen test sentences" in report.build_report(foreign, table, *numbers, [])
    unseen = report.build_report({**foreign, "unseen_test": True}, table, *numbers, [])
    assert "may have seen" not in unseen and "none of the test sentences was trained on" in unseen
    own = report.build_report(RUN, table, *numbers, [])
    assert "may have seen" not in own and "was set aside before the training" in own
    assert "set aside" not in report.build_report(
        {**RUN, "splits_of_adapter": None}, table, *numbers, []
    )


def test_the_screen_shows_both_kinds_of_intervals():
    text = report.format_statistics(analysis.analyse(make_table()))
    for over in ("rows", "topics"):
        assert f"95 % bootstrap intervals over {over}\nModel " in text
    one_topic = [{**row, "topic": "Zoos"} for row in make_table()]
    few = report.describe_topic_intervals(2)
    assert "2 are few" in few and few + report.ADVICE in text
    text = report.format_statistics(analysis.analyse(one_topic))
    assert "intervals over topics" not in text and "are few" not in text


def test_tables_name_the_level_of_their_intervals(monkeypatch):
    table = make_table()
    numbers = analysis.analyse(table)
    monkeypatch.setattr(result_tables, "LEVEL_TEXT", "90 %")
    text = report.format_statistics(numbers) + report.build_report(
        RUN, table, analysis.compute_model_metrics(table), numbers, []
    )
    assert "90 % bootstrap intervals" in text and "90 % over topics" in text and "95 %" not in text


def test_an_interval_without_width_is_explained():
    table = make_table()
    for row in table:
        row["models"]["fine-tuned"]["prediction"] = row["label"]
    numbers = analysis.analyse(table)
    # Wilson's interval of 6 of 6 begins at 6 / (6 + 1.96^2)
    [sentence] = report.list_widthless(numbers["intervals"])
    assert (
        sentence.startswith("fine-tuned: an interval without width")
        and "[0.610, 1.000]" in sentence
    )
    assert sentence in report.format_statistics(numbers)
    assert sentence in report.build_report(
        RUN, table, analysis.compute_model_metrics(table), numbers, []
    )


def test_runs_side_by_side():
    header, rows = result_tables.tabulate_runs(
        analysis.compare_runs({"a": make_table(), "b": make_table()})
    )
    assert header == ["Run", "Model", "Accuracy", "Micro-F1", "Macro-F1", "n", "invalid"]
    assert [row[:3] for row in rows] == [
        ["a", "base", "0.500"], ["a", "fine-tuned", "0.667"], ["b", "base", "0.500"], ["b", "fine-tuned", "0.667"],
        ["mean", "fine-tuned", "0.667"], ["sd", "fine-tuned", "0.000"],
    ]  # fmt: skip


def test_one_run_has_no_spread():
    one, two = (
        analysis.compare_runs({name: make_table() for name in names}) for names in ("a", "ab")
    )
    assert [row[:2] for row in result_tables.tabulate_runs(one)[1]] == [
        ["a", "base"],
        ["a", "fine-tuned"],
    ]
    assert result_tables.describe_runs(one).startswith("One run, ")
    assert "sd: standard" in result_tables.describe_runs(two)


# ---------------------------------------------------------------- leaks, agreement, many topics


def build(table, **run):
    """(report.md, caption of results.tex) of records."""
    run, numbers = {**RUN, **run}, analysis.analyse(table)
    page = report.build_report(run, table, analysis.compute_model_metrics(table), numbers, [])
    return page, report.describe_caption(run, table, numbers)


LEAKS = "2 of 6 test rows are leaked: their sentences also stand in the train or validation split."


def test_leaked_rows_are_said_with_the_results_without_them():
    table = mark_leaks(make_table())
    page, caption = build(table, leaked_rows={"test": 2, "val": 0}, unseen_test=False)
    assert f"**{LEAKS}**\n\nWithout the leaked rows, n = 4:\n\n| Model |" in page
    assert "| fine-tuned | 0.750 [" in page.partition("Without the leaked rows")[2]
    assert "with rows whose sentence was learnt from" in page and "set aside" not in page
    reached = "Accuracy and macro-F1 on the other 4 rows: majority 0.500 and "
    assert LEAKS in caption and reached in caption and "fine-tuned 0.750 and " in caption
    assert "leaked" not in "".join(build(make_table(), leaked_rows={"test": 0, "val": 0}))


def test_only_leaked_rows_leave_nothing_to_show():
    page, caption = build([{**row, "leaked": True} for row in make_table()])
    assert "6 of 6 test rows are leaked" in page and "6 of 6 test rows are leaked" in caption
    assert "Without the leaked rows" not in page


def test_changed_records_are_said_to_be_so():
    page, caption = build(make_table(), changed_records=True)
    assert all("The records were changed after" in text for text in (page, caption))
    assert not any("were changed" in text for text in build(make_table()))


def test_a_table_by_agreement():
    page, _ = build(add_agreement(make_table()))
    section = page.partition("## By agreement of the annotators")[2].partition("\n## ")[0]
    assert "Rows without it: 1." in section
    [lines] = read_markdown(section)
    header = ["Agreement", "Model", "Accuracy", "Macro-F1", "n", "gold labels", "outside"]
    assert lines[0] == header
    assert ["full agreement", "base", "0.500", "0.667", "2", "pro", "1"] in lines
    assert ["not full", "fine-tuned", "0.333", "0.250", "3", "con, neu", "0"] in lines
    assert ["0.600", "fine-tuned", "1.000", "1.000", "1", "con", "0"] in lines
    assert "By agreement" not in build(make_table())[0]


def test_two_shares_of_agreement_have_no_lines_of_their_own():
    table = make_table()
    for row, share in zip(table, (1, 1, 1, 0.667, 0.667, 0.667)):
        row["agreement"] = share
    _, rows = result_tables.tabulate_agreement(analysis.compare_agreement(table))
    assert {row[0] for row in rows} == {"full agreement", "not full"}


def test_tables_name_the_twenty_largest_topics_and_all_others_as_one():
    table = make_many_topics(26)
    page, _ = build(table)
    shown = [lines for lines in read_markdown(page) if lines[0][0] == "Topic"]
    assert len(shown) == 2 and page.count(report.OTHER_TOPICS_GUIDE) == 2
    for lines in shown:
        assert [row[0] for row in lines[2:]] == [
            *(f"Topic {number:03}" for number in range(1, 21)),
            "6 other topics",
        ]
    others = shown[1][-1]  # 16 rows, of which gold is five times neu
    assert others[1].startswith("0.688 [") and others[4] == "16"
    assert report.OTHER_TOPICS_GUIDE not in build(make_many_topics(20))[0]


def test_pictures_do_not_grow_with_the_number_of_topics(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(figures, "plot_topics", lambda parts, path, note: drawn.append(parts))
    for topics in (26, 60):
        table = make_many_topics(topics)
        result = analysis.compute_model_metrics(table)
        report.draw_pictures(tmp_path, table, result, analysis.analyse(table), None)
    assert [list(parts["base"])[-1] for parts in drawn] == ["6 other topics", "40 other topics"]
    assert [len(parts["fine-tuned"]) for parts in drawn] == [21, 21]
