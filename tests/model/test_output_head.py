"""Logits in float32: labels that tie in bfloat16 do not, and both modes of scoring read the same ones."""

import copy

import peft
import pytest
import small_models
import torch
import transformers
from stopping import stop_message

from stance.model import chat, loading, output_head, scoring
from stance.tree import prefix_tree

LOGIT = 12.0  # of the labels: bfloat16 numbers there are 0.0625 apart


@pytest.fixture(scope="module")
def tokenizer(tiny_model):
    return loading.load_tokenizer(tiny_model)


@pytest.fixture(scope="module")
def encoded(tokenizer):
    pairs = [("Vegans are right.", f"yes {word} good {word}") for word in "abcdefgh"]
    return chat.encode_examples(tokenizer, pairs)


def read_hidden(model, encoded):
    """The last hidden states [n, X], as they are, after each of n prompts alone."""
    with torch.no_grad():
        states = [model.model(input_ids=torch.tensor([ids])) for ids in encoded]
    return torch.stack([state.last_hidden_state[0, -1] for state in states])


@pytest.fixture(scope="module")
def tied_model(tiny_model, tokenizer, encoded):
    """A bfloat16 model whose labels are one step of one weight apart: con is most probable, then pro, then neu."""
    model = transformers.AutoModelForCausalLM.from_pretrained(
        tiny_model, dtype=torch.bfloat16, attn_implementation="eager"
    ).eval()
    direction = read_hidden(model, encoded).float().mean(0)
    row = (LOGIT * direction / direction.square().sum()).bfloat16()
    place = direction.abs().argmax()
    step = (row[place].abs() * 2**-7).float()  # a step of bfloat16, or two
    rows = [row.clone() for _ in range(3)]
    rows[1][place] += (step * direction[place].sign()).bfloat16()
    rows[2][place] -= (step * direction[place].sign()).bfloat16()
    with torch.no_grad():
        model.lm_head.weight[chat.label_token_ids(tokenizer)] = torch.stack(rows)
    model.set_attn_implementation(prefix_tree.ATTENTION)
    return model


def exact_logits(model, hidden):
    """Capped logits [n, vocabulary] by float64."""
    logits = hidden.double() @ model.lm_head.weight.double().T
    cap = model.config.final_logit_softcapping
    return cap * torch.tanh(logits / cap)


def test_labels_that_tie_in_bfloat16_do_not_tie(tied_model, tokenizer, encoded):
    ids = chat.label_token_ids(tokenizer)
    tied_model.set_attn_implementation("eager")
    hidden = read_hidden(tied_model, encoded)
    with torch.no_grad():
        rounded = torch.stack(
            [tied_model(input_ids=torch.tensor([row])).logits[0, -1, ids] for row in encoded]
        )
        with output_head.float32_logits(tied_model):
            capped = torch.stack(
                [tied_model(input_ids=torch.tensor([row])).logits[0, -1] for row in encoded]
            )
    tied_model.set_attn_implementation(prefix_tree.ATTENTION)
    assert rounded.dtype == torch.bfloat16 and capped.dtype == torch.float32
    assert (rounded[:, 0] == rounded[:, 1]).any()
    torch.testing.assert_close(capped.double(), exact_logits(tied_model, hidden), rtol=0, atol=1e-4)

    scores = scoring.score_prompts(tied_model, tokenizer, encoded)
    pro, con, neu = scores.probabilities.T
    assert (con > pro).all() and (pro > neu).all()
    assert (scores.label_mass > 0.5).all()  # so that a label is what generate writes


def test_both_modes_agree(tied_model, tokenizer, encoded):
    scores = scoring.score_prompts(tied_model, tokenizer, encoded)
    labels = [scoring.pick_label(row) for row in scores.probabilities.tolist()]
    first_words = []
    for reply in scoring.generate_replies(tied_model, tokenizer, encoded):
        first_words.append(tokenizer.decode(tokenizer(reply)["input_ids"][1:2]))
    assert first_words == labels == ["con"] * len(encoded)


@pytest.mark.parametrize("chunk", [7, 61, 100])
@pytest.mark.parametrize("adapted", [False, True])
def test_the_head_is_computed_in_parts(monkeypatch, chunk, adapted):
    """Also where an adapter is on the head, or other rows are asked for than one at the end."""
    monkeypatch.setattr(output_head, "CHUNK_TOKENS", chunk)
    model = small_models.build_model().get_base_model().to(torch.bfloat16).eval()
    if adapted:
        lora = peft.LoraConfig(r=2, target_modules=["lm_head"])
        model = peft.get_peft_model(model, lora).eval()
    ids = torch.tensor([[5, 6, 7], [8, 9, 10]])
    before = model.get_output_embeddings()
    with torch.no_grad():
        rounded = model(input_ids=ids).logits
        with output_head.float32_logits(model):
            found = model(input_ids=ids).logits
        again = model(input_ids=ids).logits
    assert found.dtype == torch.float32 and found.shape == (2, 3, 61)
    assert 0 < (found - rounded.float()).abs().max() < 2**-7  # the soft cap is 3
    assert torch.equal(again, rounded) and model.get_output_embeddings() is before


def test_a_float32_model_stays_as_it_is():
    model = small_models.build_model().eval()
    ids = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        expected = model(input_ids=ids).logits
        with output_head.float32_logits(model):
            assert torch.equal(model(input_ids=ids).logits, expected)


def test_a_forward_of_a_hook_comes_back():
    model = small_models.build_model().to(torch.bfloat16)
    head = model.get_output_embeddings()
    head.forward = hook = lambda hidden: hidden
    with pytest.raises(KeyError), output_head.float32_logits(model):
        assert head.forward is not hook
        raise KeyError
    assert head.forward is hook


def test_a_bias_is_added():
    head = torch.nn.Linear(8, 5).bfloat16()
    hidden = torch.randn(2, 3, 8).bfloat16()
    found = output_head.multiply_in_float32(head, hidden)
    expected = hidden.double() @ head.weight.double().T + head.bias.double()
    torch.testing.assert_close(found.double(), expected, rtol=1e-6, atol=1e-6)


# ---------------------------------------------------------------- logits that are no numbers


@pytest.fixture(params=[torch.float32, torch.bfloat16])
def dtype(request):
    return request.param


@pytest.fixture(params=[float("nan"), float("inf"), float("-inf")])
def broken_model(request, dtype, tied_model, tokenizer):
    """A model that predicts no finite number for con; a soft cap makes a number of infinity."""
    model = copy.deepcopy(tied_model).to(dtype)
    head = torch.nn.Linear(*reversed(model.lm_head.weight.shape), bias=False).to(dtype)
    with torch.no_grad():
        head.weight.copy_(model.lm_head.weight)
        head.weight[chat.label_token_ids(tokenizer)[1], 0] = request.param
    model.lm_head = head
    return model


@pytest.mark.slow
@pytest.mark.parametrize("adapter", [None, "outputs/mine"])
@pytest.mark.parametrize("run", [scoring.score_prompts, scoring.generate_replies])
def test_logits_that_are_no_numbers_stop(
    broken_model, tokenizer, encoded, tiny_model, capsys, run, adapter
):
    """Each comparison with NaN is false, so that the first label, pro, would win."""
    if adapter is not None:
        broken_model.adapter_folder = adapter
    with pytest.raises(SystemExit) as stopped:
        run(broken_model, tokenizer, encoded)
    message = capsys.readouterr().err.splitlines()[-1]
    where = tiny_model if adapter is None else f"{adapter} on {tiny_model}"
    remedy = "download it again" if adapter is None else "lower learning rate"
    assert stopped.value.code == 2 and remedy in message
    assert message.startswith(f"error: {where} predicts no finite numbers for 8 of 8 prompts: ")


def test_scoring_without_a_bar_stops_in_one_line(broken_model, tokenizer, encoded, capsys):
    assert "8 of 8" in stop_message(capsys, scoring.score_prompts, broken_model, tokenizer, encoded)
