"""A model that answers with the first word of a sentence, for what does not hang on the answers."""

import csv

import pytest
import torch

import predict
import prompts
from stance.model import scoring


@pytest.fixture
def first_words(monkeypatch):
    """Replaces the model: of probability 0.7 is the label that a sentence begins with. The pairs that were asked."""
    asked = []

    def score(pairs, batch_size=None, bar=None):
        asked.extend(pairs)
        rows = []
        for _, text in pairs:
            index = prompts.LABELS.index(text.split()[0])
            rows.append([0.7 if place == index else 0.15 for place in range(3)])
        return scoring.Scores(torch.tensor(rows), None, None, 128)

    monkeypatch.setattr(predict, "load_scorer", lambda *words: score)
    return asked


@pytest.fixture
def label_rows(trained_run, first_words, tmp_path):
    """A function that labels rows of a .csv file by flags; returns (header, rows) of the output."""

    def label(header, rows, *flags):
        with open(tmp_path / "in.csv", "w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([header, *rows])
        paths = ["--input", str(tmp_path / "in.csv"), "--output", str(tmp_path / "out.csv")]
        predict.main(["--adapter", str(trained_run), *paths, *flags])
        with open(tmp_path / "out.csv", encoding="utf-8-sig", newline="") as file:
            first, *others = csv.reader(file)
        return first, others

    return label
