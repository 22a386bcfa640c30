"""What makes the GPU fast: NF4 layers that torch.compile can fuse, compiled layers, and steps as CUDA graphs.

Nothing here changes the experiment: dequantised weights equal those of bitsandbytes bit by bit, and a compiled layer
computes the same function with fewer roundings. A CPU runs the layers as they are.
"""

import contextlib
import functools
import inspect
import types

import bitsandbytes
import peft
import torch
import torch._functorch.config
import torch.fx.experimental._config
import torch.utils.checkpoint

# ---------------------------------------------------------------- settings
COMPILE = True  # compile the decoder layers: about 30 s once, then twice the speed or more
COMPILE_MIN_ROWS = 4000  # rows to score from which compiling pays; training always compiles
CUDA_GRAPHS = True  # record training steps, which frees small batches from the speed of the CPU; takes memory
DENSE_WEIGHTS = None  # keep bfloat16 copies of the 4-bit weights (16.6 GB for 9B); None: if the memory is there
RESERVE_GB = 3.0  # GPU memory that planning leaves free
# --------------------------------------------------------------------------


def plan_training(model, nodes, checkpoint, dropout):
    """Return the fastest that fits into the free GPU memory: {"dense_weights", "checkpoint", "compiled", "graphs"}.

    nodes: tokens of a micro-batch's tree. checkpoint: None to decide here. dropout: whether the adapter has any.
    """
    config, dense = model.config, count_dense_bytes(model)
    activations = count_activation_bytes(config, nodes)
    free = free_memory() - RESERVE_GB * 1e9 - 4 * 0.01 * dense  # adapter, gradients and optimiser: about 1 % of weights
    keep_dense = DENSE_WEIGHTS if DENSE_WEIGHTS is not None else free > dense + (0 if checkpoint else activations)
    if checkpoint is None:
        checkpoint = free < activations + (dense if keep_dense else 0)
    graphs = COMPILE and CUDA_GRAPHS and not dropout  # a recorded dropout would repeat itself
    return {"dense_weights": keep_dense, "checkpoint": checkpoint, "compiled": COMPILE, "graphs": graphs}


def count_activation_bytes(config, nodes):
    """Return the bytes that training keeps of the forward pass over so many nodes, without checkpoints.

    Measured for gemma-2-9b with compiled layers: about 220 kB a node and layer.
    """
    return nodes * config.num_hidden_layers * 2 * (5 * config.intermediate_size + 11 * config.hidden_size)


def free_memory():
    """Return the bytes of GPU memory that are free, or held by PyTorch without use."""
    return torch.cuda.mem_get_info()[0] + torch.cuda.memory_reserved() - torch.cuda.memory_allocated()


def count_dense_bytes(model):
    """Return the bytes that bfloat16 copies of all 4-bit weights take."""
    return sum(2 * linear.in_features * linear.out_features for linear in find_linears(model))


def find_linears(model):
    """Return the 4-bit linear layers of a model."""
    return [module for module in model.modules() if isinstance(module, bitsandbytes.nn.Linear4bit)]


def dequantise_nf4(packed, code, absmax, blocksize, shape, dtype):
    """Return the weight that bitsandbytes packed: 4-bit indices into code, scaled by block.

    packed: uint8 [numel / 2, 1], first of two indices in the high bits; code: float32 [16]; absmax: float32
    [numel / blocksize]. Layout: bitsandbytes.functional.QuantState.
    """
    packed = packed.view(-1, 1)
    high = torch.arange(2, device=packed.device) == 0  # no bit operations: the compiler would keep what they return
    index = torch.where(high, packed.div(16, rounding_mode="floor"), packed % 16)
    return (code[index.int()].view(-1, blocksize) * absmax[:, None]).to(dtype).view(shape)


def dequantise_absmax(quantised, code, absmax, blocksize, offset):
    """Return the float32 block scales that double quantisation packed into uint8 indices into code [256]."""
    count = quantised.numel()
    values = torch.nn.functional.pad(code[quantised.int()].view(-1), (0, -count % blocksize))
    return (values.view(-1, blocksize) * absmax[:, None]).view(-1)[:count] + offset


def read_weight(linear):
    """Return the weight of a bitsandbytes Linear4bit in its compute dtype, by plain tensor operations."""
    state, absmax = linear.weight.quant_state, linear.weight.quant_state.absmax
    if state.nested:
        second = state.state2
        absmax = dequantise_absmax(absmax, second.code, second.absmax, second.blocksize, state.offset)
    return dequantise_nf4(linear.weight.data, state.code, absmax, state.blocksize, state.shape, state.dtype)


def packed_forward(linear, x):
    """Linear4bit.forward that dequantises inside a compiled graph; outside of one, that of bitsandbytes."""
    if not torch.compiler.is_compiling():
        return type(linear).forward(linear, x)
    return torch.nn.functional.linear(x, read_weight(linear), linear.bias)


def dense_forward(linear, x):
    """Linear4bit.forward on weights dequantised once."""
    return torch.nn.functional.linear(x, linear.dense_weight, linear.bias)


def fuse_linears(model, keep_dense):
    """Give every 4-bit linear layer a forward that can be compiled; keep_dense: dequantise all of them now, once."""
    for linear in find_linears(model):
        if keep_dense:
            linear.register_buffer("dense_weight", read_weight(linear), persistent=False)
        linear.forward = types.MethodType(dense_forward if keep_dense else packed_forward, linear)


def adapted_forward(layer, x):
    """LoRA forward without PEFT's copies and casts: the base layer's output + B(scaling * A(dropout(x)))."""
    output = layer.base_layer(x)
    if layer.disable_adapters:
        return output
    for name in layer.active_adapters:
        update = layer.lora_A[name](layer.lora_dropout[name](x)) * layer.scaling[name]
        output = output + layer.lora_B[name](update)
    return output


def fuse_adapters(model):
    """Give every LoRA layer of a PEFT model the short forward; its result may differ by a rounding of bfloat16."""
    for module in model.modules():
        if isinstance(module, peft.tuners.lora.LoraLayer):
            module.forward = types.MethodType(adapted_forward, module)


def compile_layers(model, keep_dense, checkpoint=False, preserve_rng=False):
    """Compile each decoder layer, after fuse_linears with the same keep_dense; equal layers share one compilation.

    checkpoint: keep only each layer's input in training and compute the layer again in the backward pass.
    preserve_rng: draw the same dropout again there.
    """
    torch._dynamo.config.specialize_float = True  # scaling and soft cap are constants, not symbols
    torch.fx.experimental._config.use_duck_shape = False  # sizes equal by chance in one batch differ in the next
    # Weights that are not kept are dequantised again in the backward pass: else each layer would keep them until then.
    torch._functorch.config.aggressive_recomputation = not keep_dense
    for layer in model.get_decoder().layers:
        forward = inspect.unwrap(type(layer).forward)  # newer transformers wrap it in a checkpoint of their own
        forward = torch.compile(types.MethodType(forward, layer), dynamic=True, fullgraph=True)
        layer.forward = functools.partial(checkpoint_forward, forward, preserve_rng) if checkpoint else forward


def checkpoint_forward(forward, preserve_rng, hidden, **options):
    """Call a layer so that its activations are computed again in the backward pass."""
    if not torch.is_grad_enabled():
        return forward(hidden, **options)
    return torch.utils.checkpoint.checkpoint(
        forward, hidden, use_reentrant=False, preserve_rng_state=preserve_rng, **options
    )


def run_uncompiled(rows):
    """Return the context in which few rows are scored without compiling for them."""
    return torch.compiler.set_stance("force_eager") if rows < COMPILE_MIN_ROWS else contextlib.nullcontext()


def prepare_scoring(model, rows):
    """Make a loaded model fast for scoring this many rows on a GPU; does nothing on a CPU."""
    if not torch.cuda.is_available():
        return
    keep_dense = DENSE_WEIGHTS
    if keep_dense is None:
        keep_dense = free_memory() > count_dense_bytes(model) + RESERVE_GB * 1e9
    fuse_linears(model, keep_dense)
    if COMPILE and rows >= COMPILE_MIN_ROWS:
        compile_layers(model, keep_dense)


class StepGraphs:
    """Training steps recorded as CUDA graphs, one for each shape of batch, so that the CPU launches one graph a step.

    run_step(inputs) computes a loss and adds its gradients to the weights' grad; it must be the same function of the
    same tensors each time. The first batch of a kind runs as it is, which compiles the kernels for its other shapes.
    """

    def __init__(self, run_step, weights):
        self.run_step, self.weights = run_step, weights
        self.gradients = [torch.zeros_like(weight) for weight in weights]
        self.compiled = set()
        self.stream = torch.cuda.Stream()  # one for plain and recorded steps: each stream has workspaces of its own
        self.release()

    def release(self):
        """Give the memory of all recorded steps back; they are recorded again when they come up."""
        self.graphs, self.largest = {}, 0
        self.pool = torch.cuda.graph_pool_handle()  # one for all recorded steps: no two are alive at a time
        torch.cuda.empty_cache()

    def __call__(self, inputs):
        """Return the loss of a batch, its gradients added to the weights' grad."""
        if self.weights[0].grad is None:  # the optimiser starts each step so; graphs need the same memory each time
            torch._foreach_zero_(self.gradients)
            for weight, gradient in zip(self.weights, self.gradients, strict=True):
                weight.grad = gradient
        rows, length = inputs["chain"].shape
        kind = (rows == 1, length)  # code is compiled anew for a single row, and for another row length
        if kind not in self.compiled:
            self.compiled.add(kind)
            self.stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self.stream):
                loss = self.run_step(inputs)
            torch.cuda.current_stream().wait_stream(self.stream)
            return loss
        shape = tuple((name, *tensor.shape) for name, tensor in inputs.items())
        if shape not in self.graphs:
            self.graphs[shape] = self.record(inputs)
        graph, places, loss = self.graphs[shape]
        for name, tensor in inputs.items():
            places[name].copy_(tensor)
        graph.replay()
        return loss.clone()

    def record(self, inputs):
        """Return (graph, input tensors, loss) of a step; recording computes nothing."""
        size = inputs["input_ids"].numel()
        if size > self.largest:  # smaller graphs fit into the memory of the largest, so that is recorded before them
            self.release()
            self.largest = size
        places = {name: tensor.clone() for name, tensor in inputs.items()}
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self.pool, stream=self.stream):
            loss = self.run_step(places)
        return graph, places, loss
