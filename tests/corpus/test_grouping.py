"""Which rows must stay in one split."""

import pytest

from stance.corpus import cleaning, grouping


def make_row(text, topic="T.", **more):
    return {"topic": topic, "text": text, **more}


def gather(*rows):
    found = grouping.gather_groups(rows)
    return sorted(sorted(row["text"] for row in group) for group in found.values())


@pytest.mark.parametrize(
    "text",
    [
        "RT @user: Guns kill people https://t.co/a1",
        "@a @b Guns kill people",
        "Guns kill people http…",
        "RT RT @x guns KILL people www.example.org/x?y",
        "@x RT @y: #Guns kill #people",
        '"RT @x: Guns kill people"',
    ],
)
def test_posts_are_equal_but_for_their_marks(text):
    assert cleaning.normalise_post_key(text) == cleaning.normalise_key("Guns kill people")


@pytest.mark.parametrize(
    "text", ["RT", "https://t.co/a", "@a @b", "The art of RT", "a@b.org wrote", "RTL is a channel"]
)
def test_a_text_keeps_what_is_not_a_mark(text):
    assert cleaning.normalise_post_key(text) == cleaning.normalise_key(text)


def test_equal_sentences_and_posts_are_one_group():
    rows = [
        make_row("Guns kill."),
        make_row("guns kill", "Other topic."),
        make_row("RT @a: Guns kill."),
        make_row("@b guns kill"),
        make_row("Guns do not kill."),
    ]
    assert sorted(map(len, gather(*rows))) == [1, 4]


def test_two_posts_are_one_group_though_no_sentence_is_their_bare_text():
    assert len(gather(make_row("RT @a: Guns kill."), make_row("@b Guns kill. http://x.org"))) == 1


def test_groups_of_a_column_are_linked_through_others():
    rows = [
        make_row("One.", groups=["ann"]),
        make_row("Two.", groups=["ann", "bob"]),  # merged of both
        make_row("Three.", groups=["bob"]),
        make_row("Four.", groups=[]),
        make_row("Five.", groups=[]),
    ]
    assert gather(*rows) == [["Five."], ["Four."], ["One.", "Three.", "Two."]]


def test_a_group_of_equal_sentences_is_named_by_their_key():
    found = grouping.gather_groups([make_row("One!"), make_row("ONE"), make_row("RT @a Two")])
    assert list(found) == ["one", "rt a two"]
