"""What the GPU path computes equals what bitsandbytes and the plain layers compute, as far as a CPU can show it."""

import bitsandbytes
import pytest
import torch

import acceleration
import modeling
import prefix_tree
import test_prefix_tree


@pytest.fixture(scope="module")
def base(tiny_model):
    """The tiny model in 4-bit."""
    return modeling.load_base(tiny_model)


def test_dequantised_weights_equal_those_of_bitsandbytes(base):
    linears = acceleration.find_linears(base)
    assert len(linears) == 14  # seven in each of two layers
    for linear in linears:
        expected = bitsandbytes.functional.dequantize_4bit(linear.weight.data, linear.weight.quant_state)
        assert torch.equal(acceleration.read_weight(linear), expected)


def test_single_quantisation_is_read_too():
    torch.manual_seed(0)
    packed, state = bitsandbytes.functional.quantize_4bit(torch.randn(96, 128), quant_type="nf4")
    linear = bitsandbytes.nn.Linear4bit(128, 96, bias=False)
    linear.weight = bitsandbytes.nn.Params4bit(packed, requires_grad=False, quant_state=state, bnb_quantized=True)
    linear.weight.quant_state = state
    assert not state.nested
    assert torch.equal(acceleration.read_weight(linear), bitsandbytes.functional.dequantize_4bit(packed, state))


def test_dense_and_checkpointed_layers_change_no_gradient(tmp_path, monkeypatch):
    """Without compiling, which takes a minute on a CPU: the plain functions that are compiled on a GPU."""
    monkeypatch.setattr(torch, "compile", lambda function, **options: function)
    model = test_prefix_tree.build_model(quantised=True, folder=tmp_path, sharpness=1).train()
    rows, results = test_prefix_tree.random_rows(1), []
    for prepare in (
        lambda: None,
        lambda: acceleration.fuse_linears(model, keep_dense=True),
        lambda: acceleration.compile_layers(model, keep_dense=True, checkpoint=True),
    ):
        prepare()
        with prefix_tree.compute_precision(model):
            loss = test_prefix_tree.tree_loss(model, rows)[0]
            results.append((loss.item(), test_prefix_tree.gradients(model, loss)))
    for loss, gradient in results[1:]:
        assert loss == pytest.approx(results[0][0], rel=1e-3)
        assert test_prefix_tree.relative(gradient, results[0][1]) < 1e-2


@pytest.mark.parametrize(
    "free_gb, expected",
    [
        (100, {"dense_weights": True, "checkpoint": False, "graphs": True}),
        (30, {"dense_weights": False, "checkpoint": False, "graphs": True}),
        (9, {"dense_weights": False, "checkpoint": True, "graphs": False}),
    ],
    ids=["80 GB card and more", "40 GB card", "16 GB card"],
)
def test_plan_follows_the_free_memory(monkeypatch, free_gb, expected):
    """For the size of gemma-2-9b after loading (6 GB) and a batch of 32 rows."""

    class Config:
        num_hidden_layers, hidden_size, intermediate_size = 42, 3584, 14336

    class Model:
        config = Config

    class Linear:
        in_features, out_features = 1000, 8_324_000

    monkeypatch.setattr(acceleration, "find_linears", lambda model: [Linear])
    monkeypatch.setattr(acceleration, "free_memory", lambda: free_gb * 1e9)
    plan = acceleration.plan_training(Model, nodes=1450, checkpoint=None, dropout=False)
    assert {name: plan[name] for name in expected} == expected
    assert not acceleration.plan_training(Model, nodes=1450, checkpoint=None, dropout=True)["graphs"]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs need a GPU")
def test_recorded_steps_equal_plain_steps():
    weight = torch.nn.Parameter(torch.randn(8, 8, device="cuda"))

    def run_step(inputs):
        loss = (inputs["x"] @ weight).square().sum()
        loss.backward()
        return loss.detach()

    graphs = acceleration.StepGraphs(run_step, [weight])
    for _ in range(4):
        x = torch.randn(4, 8, device="cuda")
        weight.grad = None
        loss = graphs({"x": x})
        expected = torch.autograd.grad((x @ weight).square().sum(), weight)[0]
        assert torch.allclose(weight.grad, expected, rtol=1e-4)
        assert torch.allclose(loss, (x @ weight).square().sum(), rtol=1e-4)
