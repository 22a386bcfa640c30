"""Floors: what simple methods reach that learn from the train split without a language model. No torch."""

from collections import Counter

import sklearn.feature_extraction.text
import sklearn.linear_model
import sklearn.pipeline

import prompts

# ---------------------------------------------------------------- settings
NGRAMS = (1, 2)  # words and pairs of neighbouring words
PENALTIES = (
    0.1,
    1.0,
    10.0,
    100.0,
)  # inverse strengths of regularisation; the best on the validation split is taken
# --------------------------------------------------------------------------


def predict_baselines(train, val, test):
    """Return {baseline: one label for each test row}, fitted to rows with topic, text and label; val only chooses C."""
    return {"majority": answer_majority(train, test), "tf-idf": answer_tfidf(train, val, test)}


def answer_majority(train, test):
    """Return the most frequent label of the train rows for every test row; of equals, the first of prompts.LABELS."""
    counts = Counter(row["label"] for row in train)
    return [max(prompts.LABELS, key=counts.__getitem__)] * len(test)


def answer_tfidf(train, val, test):
    """Return the labels of a logistic regression over TF-IDF weights of topic and sentence."""
    if len({row["label"] for row in train}) == 1:  # nothing to regress on
        return answer_majority(train, test)
    models = [fit_tfidf(train, penalty) for penalty in PENALTIES]
    gold = [row["label"] for row in val]
    best = max(models, key=lambda model: model.score(join_texts(val), gold))
    return best.predict(join_texts(test)).tolist()


def fit_tfidf(rows, penalty):
    """Return the fitted pipeline for one inverse strength of regularisation."""
    model = sklearn.pipeline.make_pipeline(
        sklearn.feature_extraction.text.TfidfVectorizer(
            ngram_range=NGRAMS, sublinear_tf=True, token_pattern=r"\w+"
        ),
        sklearn.linear_model.LogisticRegression(C=penalty, max_iter=2000),
    )
    return model.fit(join_texts(rows), [row["label"] for row in rows])


def join_texts(rows):
    """Return topic and sentence of each row as one text."""
    return [f"{row['topic']}\n{row['text']}" for row in rows]
