"""Texts in messages are quoted and cut."""

import sys

import pytest
from stopping import stop_message

from stance.common import errors, formatting, streams


def test_long_texts_are_cut_for_messages():
    assert formatting.cut("x" * 60) == "x" * 60 and formatting.cut("x" * 61) == "x" * 57 + "..."
    assert formatting.quote('a "b"\n' + "x" * 60) == '"a \\"b\\"\\n' + "x" * 51 + '..."'


def test_names_that_fit_keep_their_order_and_others_are_the_smallest():
    sizes = {"b": 1, "c": 5, "a": 1}
    assert formatting.choose_largest(sizes, 3) == (["b", "c", "a"], [])
    assert formatting.choose_largest(sizes, 2) == (["c", "a"], ["b"])
    many = {f"t{number:02}": number for number in range(23)}
    named, others = formatting.choose_largest(many)
    assert named == [f"t{number:02}" for number in range(22, 2, -1)]
    assert others == ["t02", "t01", "t00"]


def test_others_are_counted():
    assert formatting.name_others(1) == "1 other topic"
    assert formatting.name_others(43184) == "43,184 other topics"


EVIL = [
    "\x1b]0;title\x07", "\x1b[2J", "a\x9b31m", "\u202eabc", "\u2066a\u2069", "a\rb", "a\x00b", "\ud800", "\x08\x7f",
    "a\u2028b", "a\x85b", "two\nlines\r\n\x0b three",
]  # fmt: skip


@pytest.mark.parametrize("text", EVIL, ids=ascii)
def test_no_control_character_passes_any_door_to_a_screen_or_page(text):
    shown = [
        formatting.quote(text),
        formatting.join_lines(text),
        formatting.escape_markup(text),
        formatting.format_code(text),
        formatting.format_table([text], [[text]]).replace("\n", ""),
        formatting.format_markdown([text], [[text]]).replace("\n", ""),
        formatting.format_latex([text], [[text]], text, "tab:a").replace("\n", ""),
    ]
    for one in shown:
        assert one.isprintable()


def test_a_line_break_in_a_topic_is_a_blank_in_tables():
    assert formatting.format_table(["Topic"], [["one\ntwo"]]).splitlines()[-1] == "one two"
    assert formatting.format_markdown(["Topic"], [["one\n\ntwo"]]).splitlines()[-1] == "| one two |"


@pytest.mark.parametrize("text", [
    "[a](javascript:alert(1))", "![a](http://x.org/p.png)", "<script>x</script>", "<img src=x onerror=y>",
    "&lt;b&gt;", "**bold** _it_ ~~x~~ `code` $x$", "a | b", "http://x.org www.x.org me@x.org",
    "[a][b]", "<!-- x", "# a", "- a", "1. a", "+ a", "> a", "---", "=== ", "a\\",
])  # fmt: skip
def test_markdown_and_html_in_texts_are_inert(text):
    markdown_it = pytest.importorskip("markdown_it")
    page = formatting.escape_markup(text)
    html = markdown_it.MarkdownIt("gfm-like", {"linkify": False}).render(page)
    assert html == f"<p>{markdown_it.common.utils.escapeHtml(text.strip())}</p>\n"
    assert "http://" not in page and "www." not in page and "@" not in page


def test_code_in_markdown_cannot_be_left():
    assert formatting.format_code("a`<b>`\nc") == "`a'<b>' c`"


def test_intervals_and_names_stay_as_they_are():
    for text in ("0.333 [0.000, 0.667]", "-0.05", "LORA_R 16", "fine-tuned", "Vegans are right."):
        assert formatting.escape_markup(text) == text


def test_what_scripts_print_moves_no_cursor_but_keeps_colours_and_bars(capsys):
    stream = streams.PlainStream(sys.stdout, has_colors=True)
    print("\033[32mpro\033[0m \x1b]0;title\x07\n", end="", file=stream)
    stream.write("\rbar 50%\r")
    assert capsys.readouterr().out == "\033[32mpro\033[0m \\x1b]0;title\\x07\n\rbar 50%\r"


def test_texts_of_files_change_no_colours_on_stdout(capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdout", sys.stdout)  # both streams come back after the test
    monkeypatch.setattr(sys, "stderr", sys.stderr)
    streams.make_plain()
    print("\033[31mred")
    print("\033[31mof a library", file=sys.stderr)
    printed = capsys.readouterr()
    assert printed.out == "\\x1b[31mred\n"
    assert printed.err == "\033[31mof a library\n"


def test_an_error_is_one_line_whatever_a_file_is_called(capsys):
    message = stop_message(capsys, errors.fail, "a\nb\x1b[31m.csv not found: check its path")
    assert message == "error: a b\\x1b[31m.csv not found: check its path\n"
