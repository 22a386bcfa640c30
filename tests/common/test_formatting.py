"""Texts in messages are quoted and cut."""

from stance.common import formatting


def test_long_texts_are_cut_for_messages():
    assert formatting.cut("x" * 60) == "x" * 60 and formatting.cut("x" * 61) == "x" * 57 + "..."
    assert formatting.quote('a "b"\n' + "x" * 60) == '"a \\"b\\"\\n' + "x" * 51 + '..."'
