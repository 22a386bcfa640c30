"""Texts in messages are quoted and cut."""

from stance.common import formatting


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
