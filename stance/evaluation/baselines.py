"""Baselines: what simple methods reach that learn from the train split without a language model.

No torch.
"""

from collections import Counter

import sklearn.feature_extraction.text
import sklearn.linear_model
import sklearn.pipeline

import prompts
from stance.common.types import Example

# ---------------------------------------------------------------- settings
NGRAMS = (1, 2)  # words and pairs of neighbouring words
PENALTIES = (0.1, 1.0, 10.0, 100.0)  # inverse strengths of regularisation; val chooses among them
# --------------------------------------------------------------------------


def predict_baselines(
    train: list[Example], val: list[Example], test: list[Example]
) -> dict[str, list[str]]:
    """Return {baseline: one label for each test row}.

    Both are fitted to the train rows. The val rows only choose the strength of regularisation.
    """
    return {"majority": predict_majority(train, test), "tf-idf": predict_tfidf(train, val, test)}


def predict_majority(train: list[Example], test: list[Example]) -> list[str]:
    """Return the most frequent label of the train rows for every test row.

    Of equally frequent labels it is the first of prompts.LABELS.
    """
    counts = Counter(row["label"] for row in train)
    most_frequent = max(prompts.LABELS, key=counts.__getitem__)
    return [most_frequent] * len(test)


def predict_tfidf(train: list[Example], val: list[Example], test: list[Example]) -> list[str]:
    """Return the labels of a logistic regression over TF-IDF weights of topic and sentence.

    Of PENALTIES, it takes the first with the highest accuracy on the val rows.
    """
    if len({row["label"] for row in train}) == 1:  # nothing to regress on
        return predict_majority(train, test)
    texts = join_texts(val)
    gold = [row["label"] for row in val]
    models = [fit_tfidf(train, penalty) for penalty in PENALTIES]
    best = max(models, key=lambda model: model.score(texts, gold))
    return best.predict(join_texts(test)).tolist()


def fit_tfidf(rows: list[Example], penalty: float) -> sklearn.pipeline.Pipeline:
    """Return the pipeline, fitted to rows, for one inverse strength of regularisation."""
    model = sklearn.pipeline.make_pipeline(
        sklearn.feature_extraction.text.TfidfVectorizer(
            ngram_range=NGRAMS, sublinear_tf=True, token_pattern=r"\w+"
        ),
        sklearn.linear_model.LogisticRegression(C=penalty, max_iter=2000),
    )
    return model.fit(join_texts(rows), [row["label"] for row in rows])


def join_texts(rows: list[Example]) -> list[str]:
    """Return topic and sentence of each row as one text."""
    return [f"{row['topic']}\n{row['text']}" for row in rows]
