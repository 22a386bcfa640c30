"""Groups of rows that must not be split: equal sentences, equal posts, one author or thread. No
torch."""

from collections.abc import Hashable, Iterable

from stance.common.types import AnnotatedRow
from stance.corpus import cleaning


def gather_groups(rows: Iterable[AnnotatedRow]) -> dict[str, list[AnnotatedRow]]:
    """Return {key: rows} of the groups that must stay in one split, in the order of their first rows.

    Rows belong together if their sentences are equal, or are equal as posts
    (cleaning.normalise_post_key), or if they have the same value of --group-column; and so do all
    that are linked through others. The key is the smallest one of a group's sentences: of a group
    of equal sentences, their key.
    """
    sentences = {}  # rows by key of their sentence
    for row in rows:
        sentences.setdefault(cleaning.normalise_key(row["text"]), []).append(row)
    links = Links()  # of keys of sentences and posts, and of values of --group-column
    for key, members in sentences.items():
        for row in members:
            if cleaning.may_have_marks(row["text"]):
                links.join(key, cleaning.normalise_post_key(row["text"]))
            for group in row.get("groups", ()):
                links.join(key, ("group", group))
    if not links.parents:  # nothing but equal sentences, as in most corpora
        return sentences
    linked = {}  # keys of sentences by the root of their group
    for key in sentences:
        linked.setdefault(links.find(key), []).append(key)
    return {min(keys): [row for key in keys for row in sentences[key]] for keys in linked.values()}


class Links:
    """What is linked with what: union-find (Tarjan 1975) over hashable things."""

    def __init__(self) -> None:
        self.parents: dict[Hashable, Hashable] = {}

    def find(self, thing: Hashable) -> Hashable:
        """Return the thing that stands for all that are linked with this one."""
        root = thing
        while (parent := self.parents.get(root, root)) != root:
            root = parent
        while thing != root:  # the next search is short
            self.parents[thing], thing = root, self.parents[thing]
        return root

    def join(self, one: Hashable, other: Hashable) -> None:
        """Link two things."""
        root = self.find(one)
        if self.find(other) != root:
            self.parents[self.find(other)] = root
