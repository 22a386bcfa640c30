"""The topics of the corpus that several test files train on."""

CORPUS_TOPICS = (
    "Vegans are right.",
    "The minimum wage should be raised.",
    "There should be more gun control.",
)
