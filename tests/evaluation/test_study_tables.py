"""stance/evaluation/study_tables.py where gold labels are missing; tests/tools/test_study.py has the rest."""

from typing import NamedTuple

import pytest

from stance.evaluation import study_tables


class Run(NamedTuple):
    """What study_tables reads of a run of tools/study.py."""

    seed: int = 0
    topic: str | None = None
    topics: tuple[str, ...] = ()
    fraction: float = 1.0


def make_rows(topic, gold, tuned):
    """Records of one topic; the base always answers neu."""
    rows = []
    for place, (label, answer) in enumerate(zip(gold, tuned, strict=True)):
        models = {"base": {"prediction": "neu"}, "fine-tuned": {"prediction": answer}}
        baselines = {"majority": "pro", "tf-idf": "pro"}
        row = {"id": f"{topic}{place}", "topic": topic, "text": "s", "label": label}
        rows.append({**row, "models": models, "baselines": baselines})
    return rows


GOLD = {"Atoms": ["pro", "con"] * 10, "Zoos": ["pro", "con", "neu"] * 7}


@pytest.fixture
def tables():
    """Runs without Atoms, without Zoos, on both: always right."""
    rows = {topic: make_rows(topic, gold, gold) for topic, gold in GOLD.items()}
    tables = {Run(topic=topic): part for topic, part in rows.items()}
    return {Run(): [*rows["Atoms"][:4], *rows["Zoos"][:6]], **tables}


def test_topics_are_scored_over_the_labels_in_their_gold(tables):
    result = study_tables.compare_topics(tables)
    for topic, cell in result["by_topic"].items():
        assert [cell[part]["macro_f1"] for part in ("cross", "in", "cross_same")] == [1, 1, 1], (
            topic
        )
    # The base answers neu 20 times where gold is never neu. Zoos: neu 2*7/(7+21), the others 0.
    assert result["by_topic"]["Atoms"]["base"] == {
        "n": 20, "outside": 20, "macro_f1": 0, "accuracy": 0,
    }  # fmt: skip
    assert result["by_topic"]["Zoos"]["base"]["macro_f1"] == pytest.approx(1 / 2 / 3)
    assert result["mean"]["cross"]["macro_f1"] == 1
    assert result["gold_labels"]["Atoms"]["in"] == ["pro", "con"]
    for parts in result["pictured"].values():
        for topic, part in parts.items():
            assert part["macro_f1"]["value"] in (0, pytest.approx(1 / 6), 1), topic


def test_missing_gold_labels_are_said(tables):
    titled_tables = study_tables.list_topics(study_tables.compare_topics(tables))
    macro, accuracy, *_ = titled_tables
    assert macro.guide == accuracy.guide and macro.guide.endswith(
        "Macro-F1 is the mean over the labels in the gold of the rows. "
        "Atoms: pro and con; answers outside of these count as wrong: 20 of base and 0 of "
        "cross-topic. Atoms there: pro and con; answers outside of these count as wrong: 0 of "
        "cross-topic and 0 of in-topic."
    )
    screen = study_tables.format_screen(titled_tables)
    assert "Macro-F1: each topic held out in turn, mean over the labels in the gold of" in screen
    assert "Accuracy: each topic held out in turn\n" in screen


def test_a_curve_over_two_labels():
    table = make_rows("Atoms", GOLD["Atoms"], GOLD["Atoms"])
    curve = study_tables.trace_curve({Run(): table}, {Run(): 80})
    [run] = curve[0]["runs"]
    assert run["fine-tuned"]["macro_f1"]["value"] == 1
    assert run["fine-tuned"]["macro_f1"]["rows"] == [1, 1]
    [shown] = study_tables.list_curve(curve)
    assert shown.title == "Learning curve on 20 test rows, macro-F1 over pro and con"
    assert shown.guide.endswith(
        "no row has the gold label neu. Answers outside of these count as wrong: 20 of base, 0 of "
        "fine-tuned and 0 of tf-idf."
    )


def test_all_gold_labels_need_no_note(tables):
    zoos = make_rows("Zoos", GOLD["Zoos"], GOLD["Zoos"])
    bees = make_rows("Bees", GOLD["Zoos"], GOLD["Zoos"])
    runs = {Run(): [*zoos, *bees], Run(topic="Zoos"): zoos, Run(topic="Bees"): bees}
    macro, *_ = study_tables.list_topics(study_tables.compare_topics(runs))
    assert macro.guide == study_tables.TOPICS_GUIDE
    assert macro.title == "Macro-F1: each topic held out in turn"
    [shown] = study_tables.list_curve(study_tables.trace_curve({Run(): zoos}, {Run(): 80}))
    assert shown.guide == study_tables.CURVE_GUIDE and shown.title.endswith("21 test rows")


def test_tables_and_pictures_name_the_twenty_largest_topics():
    """Of 23 topics, all with the gold labels pro and con; the adapter is right, the base never."""
    rows = {}
    for number in range(23):
        gold = ["pro", "con"] * (1 + (number > 2))  # two rows in the first three, else four
        rows[f"T{number:02}"] = make_rows(f"T{number:02}", gold, gold)
    tables = {Run(topic=topic): part for topic, part in rows.items()}
    whole = {Run(): [row for part in rows.values() for row in part[:2]]}
    result = study_tables.compare_topics({**whole, **tables})
    macro, *_ = study_tables.list_topics(result)
    names = [row[0] for row in macro.rows]
    assert names == [
        *(f"T{number:02}" for number in range(3, 23)), "mean of 3 other topics", "mean of topics",
    ]  # fmt: skip
    assert macro.rows[-2][2:4] == ["0.000", "1.000"]
    picked = study_tables.pick_pictured(result)
    for parts in picked.values():
        assert len(parts) == 21 and list(parts)[-1] == "3 other topics"
    assert picked["base, all rows"]["3 other topics"]["n"] == 6
    assert len(result["by_topic"]) == len(result["pictured"]["base, all rows"]) == 23
