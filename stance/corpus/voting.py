"""Several annotators: the stance that most of them gave, and how far they agree. No torch."""

import itertools
from collections import Counter
from collections.abc import Iterable

from stance.common import formatting
from stance.common.types import AnnotatedRow
from stance.corpus import corpus_flags, duplicates, labels

# ---------------------------------------------------------------- settings
DIGITS = 3  # of the agreement, printed and recorded
SHOWN_PAIRS = 10  # of annotators whose kappa is printed, those with most sentences in common
# --------------------------------------------------------------------------


def count_votes(rows: Iterable[AnnotatedRow]) -> duplicates.Decided:
    """Return what the votes of rows decide, for each pair of topic and sentence together.

    rows: with votes, {annotator: (label or labels.DROP, stance as spelt)}. An annotator who gave
    one pair several labels has no vote there. The label with most votes wins; without one, the pair
    is a tie and left out. A row keeps the first spelling of its label, and as agreement its share.
    """
    kept, ties, dropped, contradicting, units = [], [], [], [], []
    for members in duplicates.gather_pairs(rows):
        votes, contradictions = collect_votes(members)
        first = members[0]
        contradicting += [{"row": first["row"], "annotator": name} for name in contradictions]
        units.append((first["topic"], {name: label for name, (label, _) in votes.items()}))
        counts = Counter(label for label, _ in votes.values()).most_common()
        if not counts or (len(counts) > 1 and counts[0][1] == counts[1][1]):
            cast = list_votes(members)
            ties.append({"topic": first["topic"], "text": first["text"], "votes": cast})
            continue
        label, winners = counts[0]
        if label == labels.DROP:
            dropped.append(first["row"])
            continue
        stance = next(stance for voted, stance in votes.values() if voted == label)
        share = round(winners / len(votes), DIGITS)
        decided = {**duplicates.join_rows(members), "label": label, "stance": stance}
        del decided["votes"]
        kept.append({**decided, "agreement": share})
    votes = duplicates.Votes(ties, dropped, contradicting, measure_agreement(units))
    return duplicates.Decided(kept, [], [], votes)


def decide_rows(
    rows: Iterable[AnnotatedRow], options: corpus_flags.CorpusOptions
) -> duplicates.Decided:
    """Return the rows of a corpus with each pair of topic and sentence once.

    Without annotators, equal pairs are merged or conflicts; with them, the majority decides.
    """
    if options.annotator_columns or options.annotator_column is not None:
        return count_votes(rows)
    return duplicates.merge_duplicates(rows)


def collect_votes(rows: list[AnnotatedRow]) -> tuple[dict[str, tuple[str, str]], list[str]]:
    """Return ({annotator: (label, stance)}, annotators who gave several labels) of one pair."""
    votes = {}
    contradicting = []
    for row in rows:
        for annotator, vote in row["votes"].items():
            if votes.setdefault(annotator, vote)[0] != vote[0]:
                contradicting.append(annotator)
    for annotator in contradicting:
        votes.pop(annotator, None)
    return votes, list(dict.fromkeys(contradicting))


def list_votes(rows: list[AnnotatedRow]) -> list[dict]:
    """Return a {row, annotator, stance} for each vote on one pair, in the order of the file."""
    found = []
    for row in rows:
        for annotator, (_, stance) in row["votes"].items():
            found.append({"row": row["row"], "annotator": annotator, "stance": stance})
    return found or [{"row": rows[0]["row"], "annotator": None, "stance": "no vote"}]


def measure_agreement(units: list[tuple[str, dict[str, str]]]) -> dict:
    """Return how far annotators agree on units, each (topic, {annotator: label}).

    krippendorff_alpha: nominal, over units with two votes or more (Krippendorff 2011).
    fleiss_kappa: over the units that have the most usual number of votes, whoever gave them (Fleiss
    1971). pairwise_kappa: Cohen's, of each two annotators over the units of both. full_agreement:
    share of units with two votes or more on which all votes are one, by topic and for all. None
    where there is nothing to compute.
    """
    rated = [(topic, votes) for topic, votes in units if len(votes) > 1]
    labels_of_units = [list(votes.values()) for _, votes in rated]
    usual = Counter(map(len, labels_of_units)).most_common(1)
    by_topic = {}
    for topic, votes in rated:
        by_topic.setdefault(topic, []).append(len(set(votes.values())) == 1)
    unanimous = [len(set(votes)) == 1 for votes in labels_of_units]
    complete = [votes for votes in labels_of_units if usual and len(votes) == usual[0][0]]
    return {
        "sentences": len(units),
        "with_several_votes": len(rated),
        "annotators": len({name for _, votes in units for name in votes}),
        "krippendorff_alpha": compute_alpha(labels_of_units),
        "fleiss_kappa": compute_fleiss(complete),
        "fleiss_votes": usual[0][0] if usual else None,
        "fleiss_sentences": len(complete),
        "pairwise_kappa": compute_pairwise([votes for _, votes in rated]),
        "full_agreement": _share(unanimous),
        "full_agreement_by_topic": {topic: _share(found) for topic, found in by_topic.items()},
    }


def _share(found: list[bool]) -> float | None:
    return round(sum(found) / len(found), DIGITS) if found else None


def build_task(units: list[list[str]]) -> object:
    """Return nltk's AnnotationTask of units, each the labels that it got.

    Whoever gave them does not matter for alpha and Fleiss' kappa, so that coders are numbered by
    their place in a unit.
    """
    from nltk.metrics.agreement import AnnotationTask  # takes a second, for these corpora alone

    data = []
    for item, votes in enumerate(units):
        data += [(f"coder {number}", item, label) for number, label in enumerate(votes)]
    return AnnotationTask(data=data)


def compute_alpha(units: list[list[str]]) -> float | None:
    """Return Krippendorff's alpha for nominal labels; None if all votes are one label.

    units: the labels of each, two at least.
    """
    if len(set(itertools.chain.from_iterable(units))) < 2:
        return None
    return round(build_task(units).alpha(), DIGITS)


def compute_fleiss(units: list[list[str]]) -> float | None:
    """Return Fleiss' kappa; None if all votes are one label.

    units: the labels of each, as many in all.
    """
    if len(set(itertools.chain.from_iterable(units))) < 2:
        return None
    return round(build_task(units).pi(), DIGITS)


def compute_pairwise(units: list[dict[str, str]]) -> list[dict]:
    """Return a {annotators, sentences, kappa} of each two annotators, most sentences first.

    units: {annotator: label}. kappa is None if both gave all their sentences one label.
    """
    from sklearn.metrics import cohen_kappa_score

    pairs = {}  # labels of both by their names
    for votes in units:
        for two in itertools.combinations(sorted(votes), 2):
            pairs.setdefault(two, []).append([votes[name] for name in two])
    found = []
    for two, both in sorted(pairs.items(), key=lambda item: (-len(item[1]), item[0])):
        first, second = zip(*both, strict=True)
        kappa = None
        if len({*first, *second}) > 1:
            kappa = round(float(cohen_kappa_score(first, second)), DIGITS)
        found.append({"annotators": list(two), "sentences": len(both), "kappa": kappa})
    return found


def format_agreement(decided: duplicates.Decided) -> str:
    """Return the lines on votes and agreement that prepare_data.py prints."""
    ties = decided.votes.ties
    agreement = decided.votes.agreement
    what = f"{agreement['sentences']:,} sentences, {agreement['annotators']:,} annotators"
    lines = [
        f"votes: {what}; {len(decided.rows):,} sentences have a majority, {len(ties):,} ties are left out"
    ]
    if ties:
        found = []
        for tie in ties:
            found.append(" / ".join(f"{vote['row']} {vote['stance']}" for vote in tie["votes"]))
        lines.append(f"  rows {formatting.list_first(found)}")
    if decided.votes.dropped:
        lines.append(
            f"  left out, as --labels drops them: {formatting.count_rows(decided.votes.dropped)}"
        )
    if decided.votes.contradicting:
        names = [f"{one['row']} {one['annotator']}" for one in decided.votes.contradicting]
        lines.append(f"  several stances of one annotator: {formatting.list_first(names)}")
    lines.append(
        f"agreement: Krippendorff's alpha {format_share(agreement['krippendorff_alpha'])}, "
        f"Fleiss' kappa {format_share(agreement['fleiss_kappa'])} "
        f"({agreement['fleiss_sentences']:,} sentences with {agreement['fleiss_votes']} votes), "
        f"all agree on {format_share(agreement['full_agreement'])}"
    )
    pairs = [
        f"{' and '.join(pair['annotators'])} {format_share(pair['kappa'])} ({pair['sentences']:,})"
        for pair in agreement["pairwise_kappa"][:SHOWN_PAIRS]
    ]
    if pairs:
        lines.append(f"  Cohen's kappa: {', '.join(pairs)}")
    topics = agreement["full_agreement_by_topic"]
    if 1 < len(topics) <= formatting.SHOWN:
        shares = [
            f"{formatting.quote(topic)} {format_share(share)}" for topic, share in topics.items()
        ]
        lines.append(f"  all agree, by topic: {', '.join(shares)}")
    return "\n".join(lines)


def format_share(share: float | None) -> str:
    """Return a number of agreement as text; "-" where there is none."""
    return "-" if share is None else f"{share:.{DIGITS}f}"
