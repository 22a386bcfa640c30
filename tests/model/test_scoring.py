"""Scores from the tree equal those of a plain forward, row by row; replies equal those of plain generate."""

import random
from pathlib import Path

import pytest
import torch
import transformers

import prompts
from stance.corpus import annotations, splitting
from stance.model import adapters, chat, cuda_graphs, loading, scoring
from stance.tree import prefix_tree

SAMPLE = Path(__file__).resolve().parents[2] / "data" / "stance_corpus_sample.xlsx"
END_OF_TURN = 107


@pytest.fixture(scope="module")
def tokenizer(tiny_model):
    return loading.load_tokenizer(tiny_model)


@pytest.fixture(scope="module")
def encoded(tokenizer):
    """40 prompts of five topics in random order, among them an equal pair and a very long one."""
    rows = random.Random(1).sample(annotations.read_corpus(SAMPLE), 38)
    pairs = [(row["topic"], row["text"]) for row in rows]
    return chat.encode_examples(tokenizer, [*pairs, pairs[3], (pairs[0][0], "yes good " * 100)])


@pytest.fixture(scope="module")
def exact_model(tiny_model):
    """The tiny model in float32 without quantisation, in which the order of additions hardly matters."""
    model = transformers.AutoModelForCausalLM.from_pretrained(
        tiny_model, dtype=torch.float32, attn_implementation="eager"
    )
    model.set_attn_implementation(prefix_tree.ATTENTION)
    return model.eval()


@pytest.fixture(scope="module")
def exact_plain(tiny_model):
    return transformers.AutoModelForCausalLM.from_pretrained(
        tiny_model, dtype=torch.float32, attn_implementation="eager"
    ).eval()


@pytest.fixture(scope="module")
def exact_scores(exact_model, tokenizer, encoded):
    return scoring.score_prompts(exact_model, tokenizer, encoded)


@pytest.fixture(scope="module")
def tuned_model(tiny_model, trained_run):
    """Base and adapter as evaluate.py and predict.py load them."""
    return adapters.load_adapter(loading.load_base(tiny_model), trained_run)


@pytest.fixture(scope="module")
def tuned_prompts(tokenizer, data_dir):
    rows = splitting.load_split(Path(data_dir) / "test.jsonl") + splitting.load_split(
        Path(data_dir) / "val.jsonl"
    )
    return chat.encode_examples(tokenizer, [(row["topic"], row["text"]) for row in rows])


@pytest.fixture(scope="module")
def tuned_flat(tiny_model, trained_run, load_plain, flat_labels, tokenizer, tuned_prompts):
    """(probabilities, tolerance), (label mass, tolerance) of tuned_prompts, by transformers and peft alone."""
    return flat_labels(load_plain(tiny_model, trained_run), tokenizer, tuned_prompts)


def flat_scores(flat_logits, model, tokenizer, encoded):
    """(probabilities, label mass, negative log-likelihoods) from one plain forward for each prompt."""
    label_ids = tokenizer.convert_tokens_to_ids(list(prompts.LABELS))
    logits = torch.stack([flat_logits(model, ids)[-1] for ids in encoded])
    every = logits.softmax(1)[:, label_ids]
    return logits[:, label_ids].softmax(1), every.sum(1), -every.log()


def gap(probabilities):
    """[n] how far the best label is ahead of the second."""
    best = probabilities.topk(2).values
    return best[:, 0] - best[:, 1]


# ---------------------------------------------------------------- scoring


def test_float32_scores_equal_a_plain_forward(
    exact_scores, exact_plain, tokenizer, encoded, flat_logits
):
    probabilities, mass, nll = flat_scores(flat_logits, exact_plain, tokenizer, encoded)
    assert [tensor.shape for tensor in exact_scores[:3]] == [(40, 3), (40,), (40, 3)]
    assert (exact_scores.probabilities - probabilities).abs().max() <= 1e-5
    assert (exact_scores.label_mass - mass).abs().max() <= 1e-5
    assert (exact_scores.nll - nll).abs().max() <= 1e-4
    assert (
        probabilities.std(0).min() > 1e-3
    )  # rows differ by more than the tolerance, so a wrong order would show


def test_scores_are_probabilities(exact_scores):
    assert torch.allclose(exact_scores.probabilities.sum(1), torch.ones(40))
    assert torch.allclose((-exact_scores.nll).exp().sum(1), exact_scores.label_mass)
    assert ((exact_scores.label_mass > 0) & (exact_scores.label_mass < 1)).all()


@pytest.mark.slow
def test_4_bit_scores_are_those_of_a_plain_forward_within_rounding(
    tuned_model, tokenizer, tuned_prompts, tuned_flat
):
    (probabilities, tolerance), (mass, mass_tolerance) = tuned_flat
    scores = scoring.score_prompts(tuned_model, tokenizer, tuned_prompts)
    assert (scores.probabilities - probabilities).abs().max() <= tolerance
    assert (scores.label_mass - mass).abs().max() <= mass_tolerance
    assert (
        probabilities.std(0).min() > 2 * tolerance
    )  # rows differ by more, so a wrong order would show
    with tuned_model.disable_adapter():
        base = scoring.score_prompts(tuned_model, tokenizer, tuned_prompts)
    assert (base.probabilities - probabilities).abs().max() > 2 * tolerance
    assert (base.label_mass - mass).abs().max() > 2 * mass_tolerance
    decided = gap(probabilities) > tolerance
    assert decided.float().mean() > 0.8
    assert torch.equal(scores.probabilities.argmax(1)[decided], probabilities.argmax(1)[decided])
    assert (
        len(probabilities.argmax(1).unique()) >= 2
    )  # the adapter answers differently to different sentences


def test_shuffled_prompts_keep_their_scores(exact_model, exact_scores, tokenizer, encoded):
    order = random.Random(2).sample(range(len(encoded)), len(encoded))
    scores = scoring.score_prompts(exact_model, tokenizer, [encoded[place] for place in order])
    assert (scores.probabilities - exact_scores.probabilities[order]).abs().max() <= 1e-5
    assert (scores.nll - exact_scores.nll[order]).abs().max() <= 1e-4


def test_equal_prompts_get_equal_scores(exact_scores, encoded):
    assert encoded[3] == encoded[38]
    assert (
        exact_scores.nll[3] - exact_scores.nll[38]
    ).abs().max() <= 1e-5  # their places in the tree differ


@pytest.mark.parametrize("size", [1, 7])
def test_batch_size_does_not_change_float32_scores(
    exact_model, exact_scores, tokenizer, encoded, monkeypatch, size
):
    monkeypatch.setattr(scoring, "SCORE_BATCH_SIZE", size)
    scores = scoring.score_prompts(exact_model, tokenizer, encoded)
    assert (scores.probabilities - exact_scores.probabilities).abs().max() <= 1e-5
    assert (scores.label_mass - exact_scores.label_mass).abs().max() <= 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("size", [1, 7])
def test_batch_size_does_not_change_4_bit_decisions(
    tuned_model, tokenizer, tuned_prompts, tuned_flat, monkeypatch, size
):
    """But for ties, which rounding decides."""
    (_, tolerance), _ = tuned_flat
    expected = scoring.score_prompts(tuned_model, tokenizer, tuned_prompts).probabilities
    monkeypatch.setattr(scoring, "SCORE_BATCH_SIZE", size)
    probabilities = scoring.score_prompts(tuned_model, tokenizer, tuned_prompts).probabilities
    decided = gap(expected) > tolerance
    assert torch.equal(probabilities.argmax(1)[decided], expected.argmax(1)[decided])
    assert (probabilities - expected).abs().max() <= tolerance


@pytest.fixture
def small_memory(monkeypatch):
    """A function that lets forward passes of more rows than it is told run out of memory; returns sizes that ran."""
    score_batch, sizes = scoring._score_batch, []

    def limit(most):
        def score(model, tokenizer, sequences, paths):
            if len(sequences) > most:
                raise torch.OutOfMemoryError("CUDA out of memory")
            sizes.append(len(sequences))
            return score_batch(model, tokenizer, sequences, paths)

        monkeypatch.setattr(scoring, "_score_batch", score)
        return sizes

    return limit


def test_a_batch_that_memory_does_not_hold_is_halved(
    exact_model, exact_scores, tokenizer, encoded, small_memory, capsys
):
    """From the row where it happened on: no row is lost, doubled or out of order."""
    sizes = small_memory(9)
    scores = scoring.score_prompts(exact_model, tokenizer, encoded, batch_size=32)
    assert sizes == [8] * 5 and scores.batch_size == 8
    assert (scores.probabilities - exact_scores.probabilities).abs().max() <= 1e-5
    assert [line.split(":")[0] for line in capsys.readouterr().out.splitlines()] == [
        "out of memory with 32 rows a forward pass", "out of memory with 16 rows a forward pass",
    ]  # fmt: skip


def test_memory_that_runs_out_on_the_way_keeps_what_is_scored(
    exact_model, exact_scores, tokenizer, encoded, monkeypatch
):
    score_batch, sizes = scoring._score_batch, []

    def score(model, tokenizer, sequences, paths):
        sizes.append(len(sequences))
        if len(sizes) == 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return score_batch(model, tokenizer, sequences, paths)

    monkeypatch.setattr(scoring, "_score_batch", score)
    scores = scoring.score_prompts(exact_model, tokenizer, encoded, batch_size=8)
    assert sizes == [8, 8, 8, 4, 4, 4, 4, 4, 4]
    assert (scores.probabilities - exact_scores.probabilities).abs().max() <= 1e-5


def test_a_prompt_too_long_for_the_memory_stops(
    exact_model, tokenizer, encoded, small_memory, capsys
):
    small_memory(0)
    with pytest.raises(SystemExit) as stopped:
        scoring.score_prompts(exact_model, tokenizer, encoded[:3])
    assert stopped.value.code == 2
    error = capsys.readouterr().err.splitlines()[-1]
    length = len(min(encoded[:3]))
    assert (
        error
        == f"error: a prompt of {length:,} tokens does not fit into the memory: shorten or split its sentence"
    )


@pytest.mark.parametrize(
    "row, label", [([0.2, 0.5, 0.3], "con"), ([0.4, 0.2, 0.4], "pro"), ([0.1, 0.2, 0.7], "neu")]
)
def test_the_label_of_highest_probability(row, label):
    assert scoring.pick_label(row) == label


def test_one_prompt_alone(exact_model, exact_scores, tokenizer, encoded):
    scores = scoring.score_prompts(exact_model, tokenizer, encoded[5:6])
    assert (scores.probabilities - exact_scores.probabilities[5:6]).abs().max() <= 1e-5


@pytest.mark.parametrize("training", [True, False])
def test_scoring_leaves_the_model_as_it_was(exact_model, tokenizer, encoded, monkeypatch, training):
    """Even a model in training is scored without dropout, which the attention of the tree refuses."""
    for layer in exact_model.model.layers:
        monkeypatch.setattr(layer.self_attn, "attention_dropout", 0.1)
    exact_model.train(training)
    scores = scoring.score_prompts(exact_model, tokenizer, encoded[:2])
    assert exact_model.training is training
    assert not scores.nll.requires_grad
    assert exact_model.config._attn_implementation == prefix_tree.ATTENTION
    exact_model.eval()


# ---------------------------------------------------------------- generating


def generate_alone(model, tokenizer, ids):
    """The reply of plain greedy generate to one prompt, without padding."""
    output = model.generate(
        torch.tensor([ids], device=model.device),
        attention_mask=torch.ones(1, len(ids), dtype=torch.long, device=model.device),
        max_new_tokens=scoring.MAX_NEW_TOKENS,
        do_sample=False,
    )
    return tokenizer.decode(output[0, len(ids) :], skip_special_tokens=True)


def test_replies_are_those_of_plain_generate(exact_model, exact_plain, tokenizer, encoded):
    """Prompts of unequal length, several batches: padding must not change a reply, nor batches their order."""
    chosen = encoded[-11:]
    assert len(chosen) > scoring.GENERATE_BATCH_SIZE and len(set(map(len, chosen))) > 5
    expected = [generate_alone(exact_plain, tokenizer, ids) for ids in chosen]
    assert scoring.generate_replies(exact_model, tokenizer, chosen) == expected
    assert exact_model.config._attn_implementation == prefix_tree.ATTENTION


@pytest.mark.parametrize(
    "settings",
    [
        {"bos_token_id": "x"},
        {"eos_token_id": [[], {}]},
        {"repetition_penalty": 1000.0},
        {"suppress_tokens": list(range(200))},
        {"min_new_tokens": 5, "num_beams": 3},
    ],
)
def test_replies_are_greedy_whatever_the_base_says(
    exact_model, tokenizer, encoded, monkeypatch, settings
):
    """In its generation_config.json, which a stranger wrote; Qwen's punishes words of the prompt."""
    expected = scoring.generate_replies(exact_model, tokenizer, encoded[:3])
    given = transformers.GenerationConfig()
    for name, value in settings.items():
        setattr(given, name, value)
    monkeypatch.setattr(exact_model, "generation_config", given)
    assert scoring.generate_replies(exact_model, tokenizer, encoded[:3]) == expected
    assert exact_model.generation_config is given


@pytest.mark.slow
def test_replies_of_the_adapter_are_the_labels_that_scoring_finds(
    tuned_model, tokenizer, tuned_prompts, tuned_flat, monkeypatch
):
    """Ties aside, which rounding decides. Nothing comes after the label, for its turn ends there."""
    (_, tolerance), _ = tuned_flat
    generate, outputs = tuned_model.generate, []

    def keep_output(**options):
        output = generate(**options)
        outputs.extend(output[:, options["input_ids"].shape[1] :].tolist())
        return output

    monkeypatch.setattr(tuned_model, "generate", keep_output)
    replies = scoring.generate_replies(tuned_model, tokenizer, tuned_prompts)
    probabilities = scoring.score_prompts(tuned_model, tokenizer, tuned_prompts).probabilities
    decided = (gap(probabilities) > tolerance).nonzero().flatten().tolist()
    assert len(decided) > len(replies) / 2
    expected = [prompts.LABELS[probabilities[row].argmax()] for row in decided]
    assert [replies[row] for row in decided] == expected
    for row in decided:
        end = outputs[row].index(END_OF_TURN)
        assert set(outputs[row][end + 1 :]) <= {tokenizer.pad_token_id}


def test_replies_stop_after_a_few_tokens(exact_model, tokenizer, encoded, monkeypatch):
    monkeypatch.setattr(scoring, "MAX_NEW_TOKENS", 3)
    for reply in scoring.generate_replies(exact_model, tokenizer, encoded[:3]):
        assert reply and len(tokenizer(reply, add_special_tokens=False).input_ids) <= 3


def test_a_recorded_forward_pass_serves_single_short_prompts(
    exact_model, exact_scores, tokenizer, encoded, monkeypatch
):
    """The recording itself needs a GPU; here the plain function stands in for it."""
    sizes = []

    def answer(inputs, logits_to_keep):
        sizes.append(len(inputs["prefix_end"]))
        return prefix_tree.forward_tree(exact_model, exact_model.config, inputs, logits_to_keep)

    monkeypatch.setattr(exact_model, "prediction_graph", answer, raising=False)
    found = torch.cat(
        [scoring.score_prompts(exact_model, tokenizer, [ids]).nll for ids in encoded[:3]]
    )
    assert sizes == [cuda_graphs.PREDICTION_NODES] * 3
    assert torch.allclose(found, exact_scores.nll[:3], atol=1e-4)
    scoring.score_prompts(exact_model, tokenizer, encoded[:2])
    scoring.score_prompts(exact_model, tokenizer, [encoded[0] * 9])
    assert len(sizes) == 3
