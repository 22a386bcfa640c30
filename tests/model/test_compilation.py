"""What the GPU path computes equals what bitsandbytes and the plain layers compute, as far as a CPU can show it."""

import random

import bitsandbytes
import functorch.compile
import pytest
import small_models
import torch
import transformers
from stopping import stop_message
from torch._dynamo.backends.common import aot_autograd

import finetune
from stance.model import compilation, cuda_graphs, loading, lora_linear, memory
from stance.training import fsdp, tree_trainer
from stance.tree import attention, prefix_tree


@pytest.fixture(scope="module")
def base(tiny_model):
    """The tiny model in 4-bit."""
    return loading.load_base(tiny_model)


def test_dequantised_weights_equal_those_of_bitsandbytes(base):
    linears = lora_linear.find_linears(base)
    assert len(linears) == 14  # seven in each of two layers
    for linear in linears:
        expected = bitsandbytes.functional.dequantize_4bit(
            linear.weight.data, linear.weight.quant_state
        )
        assert torch.equal(lora_linear.read_weight(linear), expected)
        restored = lora_linear.restore(
            lora_linear.list_tensors(linear), linear.in_features, torch.bfloat16
        )
        assert torch.equal(restored, expected)


def test_single_quantisation_is_read_too():
    torch.manual_seed(0)
    packed, state = bitsandbytes.functional.quantize_4bit(torch.randn(96, 128), quant_type="nf4")
    linear = bitsandbytes.nn.Linear4bit(128, 96, bias=False)
    linear.weight = bitsandbytes.nn.Params4bit(
        packed, requires_grad=False, quant_state=state, bnb_quantized=True
    )
    linear.weight.quant_state = state
    assert not state.nested
    restored = lora_linear.restore(lora_linear.list_tensors(linear), 128, torch.float32)
    assert torch.equal(restored, bitsandbytes.functional.dequantize_4bit(packed, state))


@pytest.mark.parametrize("keep_dense", [True, False], ids=["16-bit copies", "4-bit"])
def test_joined_products_equal_the_layers_of_peft(tmp_path, in_float32, allow_rounding, keep_dense):
    """Rounding is measured by the layers of peft, of all tokens together, of each alone, and in float32."""
    model = small_models.build_model(quantised=True, folder=tmp_path, sharpness=1)
    layers, exact_layers = pick_layers(model), pick_layers(in_float32(model))
    x = torch.randn(1, 7, layers[0].in_features, dtype=torch.bfloat16)
    seeds = [torch.randn(1, 7, layer.out_features, dtype=torch.bfloat16) for layer in layers]

    def differentiate(layers, dtype, apply):
        weights = [
            weight for layer in layers for weight in layer.parameters() if weight.requires_grad
        ]
        start = x.to(dtype, copy=True).requires_grad_()
        with torch.autocast(
            "cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16
        ):  # as in training
            outputs = apply(layers, start)
        return [
            *outputs,
            *torch.autograd.grad(outputs, [start, *weights], [seed.to(dtype) for seed in seeds]),
        ]

    def apply_singly(layers, x):
        return [torch.cat([layer(token) for token in x.split(1, 1)], 1) for layer in layers]

    def apply_each(layers, x):
        return [layer(x) for layer in layers]

    ways = [differentiate(layers, torch.bfloat16, apply) for apply in (apply_each, apply_singly)]
    ways.append(differentiate(exact_layers, torch.float32, apply_each))
    tolerances = [allow_rounding(one, small_models.relative) for one in zip(*ways, strict=True)]
    lora_linear.fuse_linears(model, keep_dense)
    results = differentiate(layers, torch.bfloat16, lora_linear.apply_joined)
    assert len(results) == 3 + 1 + 6
    for found, expected, tolerance in zip(results, ways[0], tolerances, strict=True):
        assert found.shape == expected.shape and found.dtype == expected.dtype
        assert small_models.relative(found, expected) <= tolerance
    for layer, expected, tolerance in zip(layers, ways[0], tolerances):
        assert (
            small_models.relative(layer.base_layer(x), expected) > 2 * tolerance
        )  # without its adapter


def pick_layers(model):
    """The first layer's projections to queries, keys and values, which all take the same input."""
    attention = model.get_base_model().get_decoder().layers[0].self_attn
    return [attention.q_proj, attention.k_proj, attention.v_proj]


def test_torch_accepts_the_operators(base):
    """Their shapes for the compiler are declared as PyTorch wants them, and they change none of their inputs."""
    linears = lora_linear.find_linears(base)[:2]
    weights = [tensor for linear in linears for tensor in lora_linear.list_tensors(linear)]
    width = linears[0].in_features
    shapes = (5, width), (5, 8), (8, width), *((linear.out_features, 4) for linear in linears)
    x, update, down, *ups = (
        torch.randn(shape, dtype=base.dtype, device=base.device) for shape in shapes
    )
    outputs = lora_linear.multiply_joined(x, update, ups, weights)
    for operator, inputs in (
        (lora_linear.multiply_joined, (x, update, ups, weights)),
        (lora_linear.multiply_joined, (x, update[:, :0], [], weights[: len(weights) // 2])),
        (lora_linear.multiply_back, (outputs, update, weights, down)),
    ):
        torch.library.opcheck(operator, inputs)


def compile_with(monkeypatch, backend):
    """Let torch.compile hand its graphs to another backend than the GPU's."""
    torch._dynamo.reset()  # it counts how often a function is compiled, over all tests
    compile_ = torch.compile
    monkeypatch.setattr(
        torch, "compile", lambda function, **options: compile_(function, backend=backend, **options)
    )


@pytest.mark.slow
def test_dense_and_checkpointed_layers_change_no_gradient(tmp_path, monkeypatch, measure_step):
    """Without compiling, which takes a minute on a CPU: the plain functions that are compiled on a GPU."""
    monkeypatch.setattr(torch, "compile", lambda function, **options: function)
    model = small_models.build_model(quantised=True, folder=tmp_path, sharpness=1).train()
    rows = small_models.random_rows(1)
    expected, tolerances = measure_step(model, rows)
    lora_linear.fuse_linears(model, keep_dense=True)
    check_step(tree_step(model, rows), expected, tolerances)
    compilation.compile_layers(model, checkpoint=True)
    check_step(tree_step(model, rows), expected, tolerances)


def tree_step(model, rows):
    """Return the loss and the gradients of the tree of rows."""
    with prefix_tree.compute_precision(model):
        loss = small_models.tree_loss(model, rows)[0]
    return loss.item(), small_models.gradients(model, loss)


@pytest.fixture
def measure_step(monkeypatch, in_float32, allow_rounding):
    """A function that returns tree_step of an uncompiled model, and the relative tolerances of its loss and gradients.

    Flat batches tell how much is rounding. A single adapter that is missing must show.
    """

    def measure(model, rows):
        losses, _, gradients = zip(
            *small_models.flat_steps(model, in_float32(model), rows), strict=True
        )
        tolerances = (
            allow_rounding(losses, small_models.mean_gap),
            allow_rounding(gradients, small_models.relative),
        )
        expected = tree_step(model, rows)
        layer = model.get_base_model().get_decoder().layers[1].mlp.up_proj
        with monkeypatch.context() as patch:
            patch.setitem(layer.scaling, "default", 0.0)
            assert small_models.relative(tree_step(model, rows)[1], expected[1]) > 2 * tolerances[1]
        return expected, tolerances

    return measure


def check_step(found, expected, tolerances):
    """The loss and the gradients of a step are those expected, within rounding."""
    loss, gradient = found
    assert loss == pytest.approx(expected[0], rel=tolerances[0])
    assert small_models.relative(gradient, expected[1]) <= tolerances[1]


@pytest.mark.slow
@pytest.mark.parametrize("double", [True, False], ids=["double quantisation", "single"])
def test_compiled_answers_are_those_of_the_plain_base(tmp_path, monkeypatch, measure_rows, double):
    compile_with(monkeypatch, "aot_eager")
    model = small_models.build_model(quantised=True, folder=tmp_path, sharpness=1).unload().eval()
    for linear in lora_linear.find_linears(model):
        if not double:
            state = linear.weight.quant_state
            scales = (
                bitsandbytes.functional.dequantize_blockwise(state.absmax, state.state2)
                + state.offset
            )
            state.absmax, state.nested, state.state2, state.offset = scales, False, None, None
    with torch.no_grad():
        expected, tolerance = measure_rows(model, 9)
        lora_linear.fuse_linears(model, keep_dense=False)
        compilation.compile_layers(model)
        found = forward_rows(model, 9)
    assert small_models.relative(found, expected) <= tolerance
    assert (
        small_models.relative(found.roll(1, 0), expected) > 2 * tolerance
    )  # the rows are unlike each other


def test_weights_of_another_kind_are_refused(base, monkeypatch, capsys):
    monkeypatch.setattr(lora_linear.find_linears(base)[3].weight.quant_state, "quant_type", "fp4")
    message = stop_message(capsys, lora_linear.fuse_linears, base, True)
    assert "weights in fp4 in blocks of 64" in message and "QUANT_TYPE" in message


@pytest.mark.slow
@pytest.mark.parametrize("keep_dense", [True, False], ids=["16-bit copies", "4-bit"])
@pytest.mark.parametrize(
    "dropout", [0.0, 1e-9], ids=["joined", "with dropout"]
)  # which drops nothing
def test_compiled_layers_change_no_gradient(
    tmp_path, monkeypatch, measure_step, keep_dense, dropout
):
    compile_with(monkeypatch, "aot_eager")
    model = small_models.build_model(quantised=True, folder=tmp_path, sharpness=1).train()
    for module in model.modules():
        if (
            isinstance(module, torch.nn.ModuleDict)
            and "default" in module
            and not len(list(module.parameters()))
        ):
            module["default"] = torch.nn.Dropout(dropout)
    rows = small_models.random_rows(1)
    model.enable_input_require_grads()
    expected, tolerances = measure_step(model, rows)
    lora_linear.fuse_linears(model, keep_dense)
    lora_linear.fuse_adapters(model)
    compilation.compile_layers(model.get_base_model(), checkpoint=not keep_dense)
    check_step(tree_step(model, rows), expected, tolerances)


def unlike_rows(count):
    """So many rows that have nothing in common but two tokens."""
    rng = random.Random(count)
    return [[1, 2, *rng.choices(range(3, 61), k=50)] for _ in range(count)]


def forward_rows(model, count):
    """Return the logits after each of unlike_rows, by a tree."""
    tree = prefix_tree.merge_prefixes(unlike_rows(count), pad_id=0)
    last = torch.tensor([nodes[-1] for nodes in tree.nodes])
    with prefix_tree.compute_precision(model):
        return prefix_tree.forward_tree(model, model.config, prefix_tree.tree_inputs(tree), last)


@pytest.fixture
def measure_rows(flat_ways, allow_rounding):
    """A function that returns forward_rows of a model and their relative tolerance, which flat batches tell."""

    def measure(model, count):
        model.set_attn_implementation("eager")
        ways = [logits[:, -1] for logits in flat_ways(model, unlike_rows(count))]
        model.set_attn_implementation(prefix_tree.ATTENTION)
        return forward_rows(model, count), allow_rounding(ways, small_models.relative)

    return measure


@pytest.mark.slow
def test_batches_of_any_size_share_one_compilation(tmp_path, monkeypatch):
    """Compiling takes half a minute on a GPU, and may not happen while a step is recorded."""
    graphs = []
    compile_with(monkeypatch, lambda graph, inputs: graphs.append(graph) or graph)
    monkeypatch.setattr(prefix_tree, "FEW_SHAPES", True)  # as on a GPU
    monkeypatch.setattr(
        prefix_tree, "SMALL_TREE", 0
    )  # without kernels, another row length is another kind of step
    monkeypatch.setattr(attention, "FAST_ROWS", 2)  # and so are few rows
    model = small_models.build_model(quantised=True, folder=tmp_path, sharpness=1).train()
    model.set_attn_implementation(prefix_tree.ATTENTION)
    model.enable_input_require_grads()
    lora_linear.fuse_linears(model, keep_dense=False)
    lora_linear.fuse_adapters(model)
    compilation.compile_layers(model.get_base_model())
    for count in (8, 6, 21, 33):
        forward_rows(model, count)
    with compilation.run_uncompiled(4), torch.no_grad():
        forward_rows(model, 1)
    assert len(graphs) == 2  # the two parts of a layer
    forward_rows(model, 2)  # one row of the tree: another kind for StepGraphs
    assert len(graphs) == 3  # only the part that sees rows


@pytest.mark.slow
def test_batches_of_one_kind_share_the_code_of_a_base_without_soft_cap(monkeypatch):
    """A compilation while a step is recorded ends the training, as one of 16 rows did on a GPU."""
    graphs = []
    compile_with(monkeypatch, lambda graph, inputs: graphs.append(graph) or graph)
    monkeypatch.setattr(prefix_tree, "FEW_SHAPES", True)  # as on a GPU
    monkeypatch.setattr(
        attention,
        "attend_by_library",
        lambda *values: attention.attend_plainly(*values, softcap=None),
    )
    model = small_models.build_qwen().train()
    model.enable_input_require_grads()
    lora_linear.fuse_adapters(model)
    compilation.compile_layers(model.get_base_model())
    kinds = set()
    late = []
    for count in (16, 17, 14, 30, 3, 2, 9, 5, 18, 1, 40, 7):
        rows = unlike_rows(count)
        tree = prefix_tree.merge_prefixes(rows, pad_id=0)
        inputs = prefix_tree.tree_inputs(tree)
        before = len(graphs)
        last = torch.tensor([nodes[-1] for nodes in tree.nodes])
        prefix_tree.forward_tree(model, model.config, inputs, last).sum().backward()
        kind = cuda_graphs.find_kind(inputs)
        if kind in kinds and len(graphs) > before:
            late.append((count, kind))
        kinds.add(kind)
    assert len(kinds) >= 3 and not late


@pytest.mark.slow
def test_packed_weights_are_dequantised_again_in_the_backward_pass(tmp_path, monkeypatch):
    """Kept from the forward pass, they would fill the memory that 4-bit weights save."""
    kept = []

    def note_outputs(graph, inputs):
        values = [
            node.meta["val"] for node in graph.graph.output_node().args[0] if node is not None
        ]
        kept.extend(str(tuple(value.shape)) for value in values if isinstance(value, torch.Tensor))
        return functorch.compile.make_boxed_func(graph)

    partition = functorch.compile.min_cut_rematerialization_partition
    compile_with(monkeypatch, aot_autograd(fw_compiler=note_outputs, partition_fn=partition))
    model = small_models.build_model(quantised=True, folder=tmp_path, sharpness=1).train()
    model.set_attn_implementation(prefix_tree.ATTENTION)
    model.enable_input_require_grads()
    weights = {
        str(shape) for linear in lora_linear.find_linears(model) for shape in both_ways(linear)
    }
    lora_linear.fuse_linears(model, keep_dense=False)
    lora_linear.fuse_adapters(model)
    compilation.compile_layers(model.get_base_model())
    forward_rows(model, 8).sum().backward()
    assert kept
    assert not weights.intersection(kept)


def both_ways(linear):
    """The shapes of a layer's weight and of its transpose."""
    return (linear.out_features, linear.in_features), (linear.in_features, linear.out_features)


@pytest.mark.slow
@pytest.mark.parametrize("training", [True, False], ids=["with gradients", "without"])
def test_the_short_adapter_forward_is_that_of_peft(tmp_path, measure_rows, training):
    model = small_models.build_model(quantised=True, folder=tmp_path, sharpness=1).eval()
    expected, tolerance = measure_rows(model, 5)
    lora_linear.fuse_adapters(model)
    with torch.set_grad_enabled(training):
        assert small_models.relative(forward_rows(model, 5), expected) <= tolerance
    with model.disable_adapter():
        alone = forward_rows(model, 5)
    assert small_models.relative(alone, expected) > 2 * tolerance
    assert torch.equal(alone, forward_rows(model.unload(), 5))


def test_short_norms_are_those_of_gemma(tmp_path):
    model = small_models.build_model(quantised=True, folder=tmp_path, sharpness=1).eval()
    norms = [module for module in model.modules() if type(module).__name__ == "Gemma2RMSNorm"]
    x = torch.randn(3, 5, norms[0].weight.numel(), dtype=torch.bfloat16)
    for norm in norms:
        torch.nn.init.normal_(norm.weight)
    expected = [norm(x) for norm in norms]
    compilation.fuse_norms(model)
    assert all("forward" in vars(norm) for norm in norms)
    for norm, value in zip(norms, expected, strict=True):
        assert norm(x).dtype == value.dtype and torch.allclose(
            norm(x).float(), value.float(), rtol=2**-7
        )


@pytest.mark.parametrize(
    "rows, free_gb, expected", [(3999, 99, None), (4000, 99, 1024), (4000, 15, None)]
)
def test_only_compiled_layers_take_large_batches(base, monkeypatch, rows, free_gb, expected):
    compiled = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(memory, "free_memory", lambda: free_gb * 1e9)
    monkeypatch.setattr(lora_linear, "fuse_linears", lambda model, keep_dense: None)
    monkeypatch.setattr(compilation, "fuse_norms", lambda model: None)
    monkeypatch.setattr(compilation, "compile_layers", compiled.append)
    assert compilation.prepare_scoring(base, rows) == expected
    assert len(compiled) == (rows == 4000)


@pytest.mark.parametrize(
    "free_gb, expected",
    [
        (100, {"dense_weights": True, "checkpoint": False, "graphs": True}),
        (30, {"dense_weights": False, "checkpoint": False, "graphs": True}),
        (9, {"dense_weights": False, "checkpoint": True, "graphs": True}),
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

    monkeypatch.setattr(lora_linear, "find_linears", lambda model: [Linear])
    monkeypatch.setattr(memory, "free_memory", lambda: free_gb * 1e9)
    plan = compilation.plan_training(Model, nodes=1450, checkpoint=None, dropout=False)
    assert {name: plan[name] for name in expected} == expected
    assert not compilation.plan_training(Model, nodes=1450, checkpoint=None, dropout=True)["graphs"]


def fail(error):
    """Fail as a recording does: CUDA ends it with an error that says nothing of the first."""
    with cuda_graphs.explain_recording():
        try:
            raise error
        finally:
            raise RuntimeError(
                "CUDA error: operation failed due to a previous error during capture\nSearch for ..."
            )


def test_a_recording_that_fails_says_why_and_what_to_do(capsys):
    message = stop_message(capsys, fail, ValueError("no such kernel\nmore"))
    assert (
        "(no such kernel)" in message
        and "CUDA_GRAPHS in stance/model/compilation.py to False" in message
    )
    with pytest.raises(torch.OutOfMemoryError):  # which finetune.py explains as lack of memory
        fail(torch.OutOfMemoryError("CUDA out of memory"))


@pytest.mark.gpu
@pytest.mark.parametrize("branches", [[], [[3]], [[3, 4], [5]]], ids=str)
def test_a_recorded_answer_equals_a_plain_one(
    tiny_model, load_plain, flat_ways, allow_rounding, branches
):
    sequences = [list(range(3, 3 + size)) for size in (9, 40, cuda_graphs.PREDICTION_NODES)]
    ways = [logits[:, -1] for logits in flat_ways(load_plain(tiny_model), sequences)]
    tolerance = allow_rounding(ways, small_models.relative)
    assert small_models.relative(ways[0].roll(1, 0), ways[0]) > 2 * tolerance  # of another sequence
    model = loading.load_base(tiny_model)
    cuda_graphs.record_predictions(model, branches, 1 + len(branches))
    for sequence in sequences:
        tree = prefix_tree.merge_prefixes([sequence], 0, cuda_graphs.PREDICTION_NODES, [branches])
        inputs = {name: tensor.cuda() for name, tensor in prefix_tree.tree_inputs(tree).items()}
        ends = [tree.nodes[0][-1], *(nodes[-1] for nodes in tree.branches[0])]
        logits_to_keep = torch.tensor(ends, device="cuda")
        with torch.no_grad(), prefix_tree.compute_precision(model):
            expected = prefix_tree.forward_tree(model, model.config, inputs, logits_to_keep)
            assert (
                small_models.relative(model.prediction_graph(inputs, logits_to_keep), expected)
                <= tolerance
            )


@pytest.mark.gpu
def test_recorded_steps_equal_plain_steps():
    weight = torch.nn.Parameter(torch.randn(8, 8, device="cuda"))

    def run_step(inputs):
        loss = (inputs["x"] @ weight).square().sum()
        loss.backward()
        return loss.detach()

    graphs = cuda_graphs.StepGraphs(run_step, [weight], lambda nodes: 0)
    for step, rows in enumerate((4, 4, 2, 4, 6, 2)):
        if step == 4:
            graphs.release()
        x = torch.randn(rows, 8, device="cuda")
        inputs = {"x": x, "input_ids": torch.zeros(1, rows), "suffix": torch.zeros(rows, 8)}
        weight.grad = None
        loss = graphs({name: tensor.to("cuda") for name, tensor in inputs.items()})
        expected = torch.autograd.grad((x @ weight).square().sum(), weight)[0]
        assert torch.allclose(weight.grad, expected, rtol=1e-4)
        assert torch.allclose(loss, (x @ weight).square().sum(), rtol=1e-4)
    assert len(graphs.graphs) == 2  # those of 6 and 2 rows, recorded since the release
    graphs.release()
    graphs({name: tensor.to("cuda") for name, tensor in inputs.items()})
    assert len(graphs.graphs) == 2  # the largest is recorded again, before a smaller one


def test_the_largest_step_is_recorded_first(monkeypatch):
    """Smaller ones then fit into its memory, and none is recorded twice unless memory was given back."""
    recorded = []
    monkeypatch.setattr(torch.cuda, "Stream", lambda: None)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: None)
    monkeypatch.setattr(cuda_graphs, "run_aside", lambda run, inputs, stream: run(inputs))
    monkeypatch.setattr(cuda_graphs, "replay_graph", lambda graph, places, inputs, result: graph)
    monkeypatch.setattr(
        cuda_graphs,
        "record_graph",
        lambda run, inputs, pool, stream: (recorded.append(run(inputs)), inputs, None),
    )
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(memory, "spare_memory", lambda: 7)
    weight = torch.nn.Parameter(torch.ones(2))
    count = lambda inputs: inputs["input_ids"].numel()  # noqa: E731
    graphs = cuda_graphs.StepGraphs(count, [weight], count)

    def step(rows):
        return graphs({"input_ids": torch.zeros(1, 8 * rows), "suffix": torch.zeros(rows, 8)})

    assert step(3) == 24 and recorded == []  # compiles
    for rows in (3, 2, 2, 3):
        step(rows)
    assert recorded == [24, 16] and torch.equal(weight.grad, torch.zeros(2))
    step(5)
    step(2)
    assert recorded == [24, 16, 40, 16]
    graphs.make_room(7)  # is there
    step(2)
    assert recorded == [24, 16, 40, 16]
    graphs.make_room(8)
    step(2)
    assert recorded == [24, 16, 40, 16, 40, 16]
    graphs(
        {"input_ids": torch.zeros(1, 7), "suffix": torch.zeros(1, 7)}
    )  # another kind, which fits beside them
    assert len(graphs.graphs) == 2
    graphs({"input_ids": torch.zeros(1, 9), "suffix": torch.zeros(1, 9)})
    assert graphs.graphs == {}
    graphs.forget()
    assert step(2) == 16 and len(recorded) == 6  # runs as it is, as if for the first time
    step(2)
    assert recorded[6:] == [16]


def test_a_step_of_another_kind_needs_its_activations_its_logits_and_a_reserve():
    config = transformers.Gemma2Config(
        vocab_size=100, hidden_size=8, intermediate_size=16, num_hidden_layers=2
    )
    inputs = {"input_ids": torch.zeros(1, 5), "loss_positions": torch.zeros(3)}
    size = memory.count_step_bytes(config, inputs) - memory.RESERVE_GB * 1e9
    assert size == memory.count_activation_bytes(config, 5) + 4 * 3 * 100 * torch.float32.itemsize


@pytest.mark.parametrize("sharded", [False, True])
def test_compilers_start_where_layers_are_compiled(monkeypatch, sharded):
    """Before weights load; a sharded base is not compiled."""
    started = []

    def load_base(name):
        raise LookupError(name)

    monkeypatch.setattr(compilation, "start_compilers", lambda: started.append(True))
    monkeypatch.setattr(tree_trainer, "encode_rows", lambda *args: {"input_ids": []})
    monkeypatch.setattr(loading, "load_base", load_base)
    monkeypatch.setattr(fsdp, "load_sharded_base", load_base)
    args = finetune.parse_args(["--base-model", "none"])
    with pytest.raises(LookupError):
        finetune.build_trainer(args, None, None, [], [], sharded)
    assert started == [True] * (not sharded)
