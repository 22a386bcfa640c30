"""Texts are measured, cut and wrapped by what they take on a screen, in any script."""

import pytest

from stance.common import formatting, text_width

CHINESE = "城市应该禁止私家车进入市中心"  # 14 characters of two columns
FAMILY = "👩\u200d👩\u200d👧"  # one emoji of three
THUMB = "👍🏽"  # with a skin tone


@pytest.mark.parametrize(
    "text, columns",
    [
        ("Zoos", 4), (CHINESE, 28), ("원자력", 6), ("ｆｕｌｌ", 8), ("café", 4), ("cafe\u0301", 4),
        ("שָׁלוֹם", 4), ("ไม่", 2), ("नहीं", 3), (FAMILY, 2), (THUMB, 2), ("🇩🇪", 2), ("", 0), ("a\u200bb", 2),
        ("\u0301", 0),
    ],
)  # fmt: skip
def test_width_is_that_of_a_terminal(text, columns):
    assert text_width.measure_width(text) == columns


@pytest.mark.parametrize("text", [CHINESE, "ab" * 30, FAMILY * 9, "नहीं " * 9, "ไม่" * 20])
def test_a_cut_text_fits_and_keeps_characters_whole(text):
    short = text_width.cut_text(text, 12)
    assert text_width.measure_width(short) <= 12 and short.endswith("...")
    kept = text_width.split_characters(short[:-3])
    assert kept == text_width.split_characters(text)[: len(kept)]
    assert text_width.cut_text(text, 200) == text


def test_words_are_kept_and_texts_without_spaces_break_anywhere():
    assert text_width.wrap_text("zoos should be banned", 10) == ["zoos", "should be", "banned"]
    assert text_width.wrap_text(CHINESE, 10) == [CHINESE[:5], CHINESE[5:10], CHINESE[10:]]
    assert text_width.wrap_text(f"a {CHINESE[:6]}", 10) == ["a", CHINESE[:5], CHINESE[5]]
    assert text_width.wrap_text("n\u00a0=\u00a01", 3) == ["n\u00a0=", "\u00a01"]
    assert text_width.wrap_text("  ", 10) == [] and text_width.wrap_text("字", 1) == ["字"]


def test_what_goes_beyond_the_lines_is_left_out():
    assert text_width.wrap_text(CHINESE, 10, 2) == [CHINESE[:5], f"{CHINESE[5:8]} ..."]
    assert text_width.shorten_text("one\ntwo  three", 20) == "one two three"
    assert text_width.shorten_text("one two three", 10) == "one tw ..."
    assert text_width.shorten_text("", 10) == ""


def test_columns_of_a_table_stand_below_each_other_in_any_script():
    rows = [["Zoos", "1.0"], [CHINESE, "10.0"], ["يجب حظر", "2.0"], [THUMB, "3.0"]]
    lines = formatting.format_table(["topic", "F1"], rows).split("\n")
    assert {text_width.measure_width(line) for line in lines} == {len(lines[1])}
    assert formatting.cut(CHINESE * 3) == CHINESE * 2 + "..."
