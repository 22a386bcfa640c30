"""Training steps and single answers as CUDA graphs.

The CPU then launches one graph, not thousands of kernels. Inputs are the tensors of a tree by name,
as prefix_tree.tree_inputs makes them, with what a step or an answer needs beside them.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch

from stance.common import errors
from stance.model import compilation, memory, output_head
from stance.tree import attention, prefix_tree

# ---------------------------------------------------------------- settings
# Tokens of the one prompt whose forward pass is recorded; a longer one is computed as it comes.
PREDICTION_NODES = 256
# --------------------------------------------------------------------------


class Recording(NamedTuple):
    """A function of tensors that a CUDA graph computes; replay_graph runs it."""

    graph: torch.cuda.CUDAGraph
    buffers: dict[str, torch.Tensor]  # its inputs, into which others are copied
    result: torch.Tensor  # into which each replay writes


def record_predictions(
    model: torch.nn.Module, branches: Sequence[list[int]] = (), count: int = 1
) -> None:
    """Record on a GPU how a model answers one prompt, as its prediction_graph; does nothing on a
    CPU.

    Neither the model nor which adapter is active may change after that. branches: token ids of what
    goes on from the prompt. count: the nodes that predict.
    """
    if torch.cuda.is_available() and compilation.CUDA_GRAPHS:
        model.prediction_graph = PredictionGraph(model, branches, count)


def prediction_inputs(branches: Sequence[list[int]], count: int) -> dict[str, torch.Tensor]:
    """Return inputs of the shapes that each short prompt has with these branches.

    branches, count: those of record_predictions.
    """
    tree = prefix_tree.merge_prefixes([[0]], 0, PREDICTION_NODES, [list(branches)])
    logits_to_keep = torch.zeros(count, dtype=torch.long)
    return {**prefix_tree.tree_inputs(tree), "logits_to_keep": logits_to_keep}


class PredictionGraph:
    """The forward pass over the tree of one prompt, of PREDICTION_NODES nodes, as a CUDA graph.

    For a single prompt, operations take longer to launch than to run.
    """

    @torch.no_grad()
    def __init__(self, model: torch.nn.Module, branches: Sequence[list[int]] = (), count: int = 1):
        """Record it for trees with these branches, and so many predicting nodes."""
        inputs = {
            name: tensor.to(model.device)
            for name, tensor in prediction_inputs(branches, count).items()
        }

        def run(buffers: dict[str, torch.Tensor]) -> torch.Tensor:
            return prefix_tree.forward_tree(model, model.config, buffers, buffers["logits_to_keep"])

        stream = torch.cuda.Stream()
        with prefix_tree.compute_precision(model), output_head.float32_logits(model):
            run_aside(run, inputs, stream)  # a recording finds its kernels loaded
            self.graph, self.buffers, self.logits = record_graph(run, inputs, None, stream)
        self.graph.replay()  # the first time takes twice as long

    def __call__(
        self, inputs: dict[str, torch.Tensor], logits_to_keep: torch.Tensor
    ) -> torch.Tensor:
        """Return forward_tree's float32 logits [count, vocabulary] at the nodes of logits_to_keep
        [count]."""
        inputs = {**inputs, "logits_to_keep": logits_to_keep}
        return replay_graph(self.graph, self.buffers, inputs, self.logits)


def run_aside(
    run: Callable[[dict[str, torch.Tensor]], torch.Tensor],
    inputs: dict[str, torch.Tensor],
    stream: torch.cuda.Stream,
) -> torch.Tensor:
    """Return run(inputs), computed on another stream in the order of this one."""
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        result = run(inputs)
    torch.cuda.current_stream().wait_stream(stream)
    return result


def record_graph(
    run: Callable[[dict[str, torch.Tensor]], torch.Tensor],
    inputs: dict[str, torch.Tensor],
    pool: tuple[int, int] | None,
    stream: torch.cuda.Stream,
) -> Recording:
    """Record run(inputs), which computes nothing.

    pool: the memory that recordings share, torch.cuda.graph_pool_handle(); None: memory of its own.
    stream: one that has run it before.
    """
    buffers = {name: tensor.clone() for name, tensor in inputs.items()}
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, pool=pool, stream=stream):
        result = run(buffers)
    return Recording(graph, buffers, result)


@contextlib.contextmanager
def explain_recording() -> Iterator[None]:
    """Fail with one line if a recording fails; torch.OutOfMemoryError stays an error of its own.

    What went wrong in a recording is the context of the error with which CUDA ends it.
    """
    try:
        yield
    except RuntimeError as problem:
        cause = problem.__context__ or problem
        if isinstance(cause, torch.OutOfMemoryError):
            raise cause from None
        reason = str(cause).strip().partition("\n")[0]
        hint = "set CUDA_GRAPHS in stance/model/compilation.py to False and start again"
        errors.fail(f"a training step cannot be recorded as a CUDA graph ({reason}): {hint}")


def replay_graph(
    graph: torch.cuda.CUDAGraph,
    buffers: dict[str, torch.Tensor],
    inputs: dict[str, torch.Tensor],
    result: torch.Tensor,
) -> torch.Tensor:
    """Return the result of a recorded function of other inputs of the same shapes.

    graph, buffers, result: those of its Recording.
    """
    for name, tensor in inputs.items():
        buffers[name].copy_(tensor)
    graph.replay()
    return result.clone()


class StepGraphs:
    """Training steps recorded as CUDA graphs, so that the CPU launches one graph a step.

    There is a graph for each shape of batch. The first batch of a kind runs as it is, which
    compiles the kernels for the kind's other shapes.
    """

    def __init__(
        self,
        run_step: Callable[[dict[str, torch.Tensor]], torch.Tensor],
        weights: Sequence[torch.nn.Parameter],
        count_bytes: Callable[[dict[str, torch.Tensor]], float],
    ):
        """Allocate the gradients; nothing is recorded yet.

        run_step(inputs) computes a loss and adds its gradients to the weights' grad; it must be the
        same function of the same tensors each time. weights: all that are trained.
        count_bytes(inputs): the GPU memory that a step needs that runs as it is.
        """
        self.run_step = run_step
        self.weights = weights
        self.count_bytes = count_bytes
        self.gradients = [torch.zeros_like(weight) for weight in weights]
        self.compiled = set()  # kinds of batches
        # One for plain and recorded steps: each stream has workspaces of its own.
        self.stream = torch.cuda.Stream()
        self.largest = None  # the inputs with most nodes so far
        self.release()

    def release(self) -> None:
        """Give the memory of all recorded steps back; they are recorded again when they come up."""
        # A step may still run, and expandable segments are freed without waiting for it.
        torch.cuda.synchronize()
        self.graphs = {}  # recordings by the shapes of their inputs
        # One for all recorded steps: no two are alive at a time.
        self.pool = torch.cuda.graph_pool_handle()
        torch.cuda.empty_cache()

    def make_room(self, size: float) -> None:
        """Release all recorded steps unless so many bytes of GPU memory are free beside them."""
        if memory.spare_memory() < size:
            self.release()

    def forget(self) -> None:
        """Start anew, after a step that did not fit into the memory."""
        self.compiled.clear()
        self.largest = None
        self.release()

    def __call__(self, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        """Return the loss of a batch, its gradients added to the weights' grad."""
        # The optimiser starts each step without gradients; graphs need the same memory each time.
        if self.weights[0].grad is None:
            torch._foreach_zero_(self.gradients)
            for weight, gradient in zip(self.weights, self.gradients, strict=True):
                weight.grad = gradient
        kind = find_kind(inputs)
        if kind not in self.compiled:
            self.compiled.add(kind)
            self.make_room(self.count_bytes(inputs))  # recorded steps share no memory with it
            return run_aside(self.run_step, inputs, self.stream)
        shape = list_shapes(inputs)
        if shape not in self.graphs:
            self.record(inputs)
        graph, buffers, loss = self.graphs[shape]
        return replay_graph(graph, buffers, inputs, loss)

    def record(self, inputs: dict[str, torch.Tensor]) -> None:
        """Record the step of these inputs, which computes nothing.

        The largest step is recorded first: others fit in its memory.
        """
        if self.largest is None or inputs["input_ids"].numel() > self.largest["input_ids"].numel():
            self.release()
            self.largest = inputs
        steps = [inputs] if self.graphs else [self.largest, inputs]
        for step in steps:
            shape = list_shapes(step)
            if shape not in self.graphs:
                with explain_recording():
                    self.graphs[shape] = record_graph(self.run_step, step, self.pool, self.stream)


def find_kind(inputs: dict[str, torch.Tensor]) -> tuple[bool, bool, int]:
    """Return the kind of a batch: batches of one kind run the same compiled code.

    Code is compiled anew for a single row, for few rows, for many, and for another row length.
    """
    rows, length = inputs["suffix"].shape
    return rows == 1, rows >= attention.FAST_ROWS, length


def list_shapes(inputs: dict[str, torch.Tensor]) -> tuple[tuple, ...]:
    """Return the names and shapes of inputs."""
    return tuple((name, *tensor.shape) for name, tensor in inputs.items())
