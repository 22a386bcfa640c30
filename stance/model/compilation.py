"""What makes the GPU fast, and what of it fits into the memory.

Copies of weights, compiled layers, recorded steps, short norms. Nothing here changes the
experiment: a compiled layer computes the same function with fewer roundings. A CPU runs the layers
as they are.
"""

import contextlib
import functools
import inspect
import types
from collections.abc import Callable

import peft
import torch
import torch._inductor.async_compile
import torch.fx.experimental._config
import torch.utils.checkpoint
import transformers

from stance.model import gemma2, lora_linear, memory

# ---------------------------------------------------------------- settings
COMPILE = True  # compile the decoder layers: 10 to 25 s at a first start, faster from then on
COMPILE_MIN_ROWS = 4000  # rows to score from which layers are compiled; training always compiles
COMPILED_BATCH_SIZE = 1024  # rows a forward pass of compiled layers, if the memory is there
COMPILED_BATCH_GB = 16.0  # GPU memory that has to be left for it
# Record training steps and single answers, which then wait no more for the CPU; takes memory.
CUDA_GRAPHS = True
# Keep bfloat16 copies of the 4-bit weights (16.6 GB for 9B); None: if the memory is there.
DENSE_WEIGHTS = None
# --------------------------------------------------------------------------


def plan_training(
    model: torch.nn.Module, nodes: int, checkpoint: bool | None, dropout: bool
) -> dict[str, bool]:
    """Return the fastest way to train that fits into the free GPU memory.

    nodes: tokens of a micro-batch's tree. checkpoint: None to decide here. dropout: whether the
    adapter has any. The plan has "dense_weights" (keep bfloat16 copies of the weights),
    "checkpoint" (compute activations again in the backward pass), "compiled" and "graphs" (record
    steps).
    """
    dense = memory.count_dense_bytes(model)
    activations = memory.count_activation_bytes(model.config, nodes)
    # Adapter, gradients and optimiser take about 1 % of the weights' memory.
    free = memory.free_memory() - memory.RESERVE_GB * 1e9 - 4 * 0.01 * dense
    keep_dense = DENSE_WEIGHTS
    if keep_dense is None:
        keep_dense = free > dense + (0 if checkpoint else activations)
    if checkpoint is None:
        checkpoint = free < activations + (dense if keep_dense else 0)
    graphs = COMPILE and CUDA_GRAPHS and not dropout  # a recorded dropout would repeat itself
    return {
        "dense_weights": keep_dense,
        "checkpoint": checkpoint,
        "compiled": COMPILE,
        "graphs": graphs,
    }


def normalise(norm: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Gemma2RMSNorm.forward by PyTorch's own operation: a third of the operations.

    x [..., X] to the same shape; float32 inside, like the original.
    """
    if torch.compiler.is_compiling():
        return type(norm).forward(norm, x)
    return torch.nn.functional.rms_norm(x.float(), x.shape[-1:], norm.scale, norm.eps).type_as(x)


def fuse_norms(model: torch.nn.Module) -> None:
    """Give the norms of a Gemma-2 model that is not compiled a forward of few operations.

    Their weights must not change after that.
    """
    for module in model.modules():
        if isinstance(module, transformers.models.gemma2.modeling_gemma2.Gemma2RMSNorm):
            module.register_buffer("scale", 1 + module.weight.detach().float(), persistent=False)
            module.forward = types.MethodType(normalise, module)


def start_compilers() -> None:
    """Start the processes that compile kernels side by side.

    It takes them seconds, in which weights can load. Does nothing on a CPU.
    """
    if COMPILE and torch.cuda.is_available():
        torch._inductor.async_compile.AsyncCompile.use_process_pool()


def compile_layers(
    model: torch.nn.Module, checkpoint: bool = False, preserve_rng: bool = False
) -> None:
    """Compile each decoder layer, after fuse_linears; equal layers share one compilation.

    checkpoint: keep only each layer's input in training and compute the layer again in the backward
    pass. preserve_rng: draw the same dropout again there.
    """
    torch._dynamo.config.specialize_float = True  # scaling and soft cap are constants, not symbols
    # Sizes equal by chance in one batch differ in the next.
    torch.fx.experimental._config.use_duck_shape = False
    layers = model.get_decoder().layers
    compile_part = functools.partial(torch.compile, dynamic=True, fullgraph=True)
    if all(gemma2.can_split(layer) for layer in layers):
        forwards = gemma2.split_layers(model, compile_part)
    else:
        forwards = []
        for layer in layers:
            # Newer transformers wrap a layer's forward in a checkpoint of their own.
            unwrapped = inspect.unwrap(type(layer).forward)
            forwards.append(compile_part(types.MethodType(unwrapped, layer)))
    for layer, forward in zip(layers, forwards, strict=True):
        if checkpoint:
            forward = functools.partial(checkpoint_forward, forward, preserve_rng)
        layer.forward = forward


def checkpoint_forward(
    forward: Callable, preserve_rng: bool, hidden: torch.Tensor, **options: object
) -> torch.Tensor:
    """Call a layer's forward so that its activations are computed again in the backward pass."""
    if not torch.is_grad_enabled():
        return forward(hidden, **options)
    return torch.utils.checkpoint.checkpoint(
        forward, hidden, use_reentrant=False, preserve_rng_state=preserve_rng, **options
    )


def run_uncompiled(rows: int) -> contextlib.AbstractContextManager:
    """Return the context in which few rows are scored without compiling for them."""
    if rows < COMPILE_MIN_ROWS:
        return torch.compiler.set_stance("force_eager")
    return contextlib.nullcontext()


def prepare_scoring(model: torch.nn.Module, rows: int) -> int | None:
    """Make a loaded model fast for scoring this many rows on a GPU; does nothing on a CPU.

    Returns the rows a forward pass for which that is fastest; None: scoring.SCORE_BATCH_SIZE.
    """
    if not torch.cuda.is_available():
        return None
    keep_dense = DENSE_WEIGHTS
    if keep_dense is None:
        needed = memory.count_dense_bytes(model) + memory.RESERVE_GB * 1e9
        keep_dense = memory.free_memory() > needed
    lora_linear.fuse_linears(model, keep_dense)
    for module in model.modules():
        # Done once, what autocast would do to adapters at each use.
        if isinstance(module, peft.tuners.lora.LoraLayer):
            torch.nn.ModuleList([module.lora_A, module.lora_B]).to(torch.bfloat16)
    if not COMPILE or rows < COMPILE_MIN_ROWS:
        fuse_norms(model)
        return None
    compile_layers(model)
    if memory.free_memory() > COMPILED_BATCH_GB * 1e9:
        return COMPILED_BATCH_SIZE
    return None
