"""Training steps and single answers as CUDA graphs: the CPU then launches one graph, not thousands of kernels."""

import contextlib

import torch

from stance.common import errors
from stance.model import compilation, memory
from stance.tree import prefix_tree

# ---------------------------------------------------------------- settings
ANSWER_NODES = 256  # tokens of the one prompt whose forward pass is recorded; a longer one is computed as it comes
# --------------------------------------------------------------------------


def record_answers(model):
    """Record on a GPU how a model answers one prompt; neither it nor which adapter is active may change after that."""
    if torch.cuda.is_available() and compilation.CUDA_GRAPHS:
        model.answer_graph = AnswerGraph(model)


class AnswerGraph:
    """The forward pass over the tree of one prompt as a CUDA graph: operations take longer to launch than to run."""

    @torch.no_grad()
    def __init__(self, model):
        tree = prefix_tree.tree_inputs(prefix_tree.merge_prefixes([[0]], 0, ANSWER_NODES))
        inputs = {name: tensor.to(model.device) for name, tensor in tree.items()}
        inputs["logits_to_keep"] = torch.zeros(1, dtype=torch.long, device=model.device)

        def run(buffers):
            return prefix_tree.forward_tree(model, model.config, buffers, buffers["logits_to_keep"])

        stream = torch.cuda.Stream()
        with prefix_tree.compute_precision(model):
            run_aside(run, inputs, stream)  # a recording finds its kernels loaded
            self.graph, self.buffers, self.logits = record_graph(run, inputs, None, stream)
        self.graph.replay()  # the first time takes twice as long

    def __call__(self, inputs, logits_to_keep):
        """Return forward_tree's logits [1, vocabulary]."""
        return replay_graph(
            self.graph, self.buffers, {**inputs, "logits_to_keep": logits_to_keep}, self.logits
        )


def run_aside(run, inputs, stream):
    """Return run(inputs), computed on another stream in the order of this one."""
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        result = run(inputs)
    torch.cuda.current_stream().wait_stream(stream)
    return result


def record_graph(run, inputs, pool, stream):
    """Return (graph, input tensors, result) of run(inputs) on a stream that has run it before; it computes nothing."""
    buffers = {name: tensor.clone() for name, tensor in inputs.items()}
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, pool=pool, stream=stream):
        result = run(buffers)
    return graph, buffers, result


@contextlib.contextmanager
def explain_recording():
    """Stop with one line if a recording fails; memory that does not suffice stays an error of its own.

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


def replay_graph(graph, buffers, inputs, result):
    """Return the result of a recorded function of other inputs of the same shapes."""
    for name, tensor in inputs.items():
        buffers[name].copy_(tensor)
    graph.replay()
    return result.clone()


class StepGraphs:
    """Training steps recorded as CUDA graphs, one for each shape of batch, so that the CPU launches one graph a step.

    run_step(inputs) computes a loss and adds its gradients to the weights' grad; it must be the same function of the
    same tensors each time. The first batch of a kind runs as it is, which compiles the kernels for its other shapes.
    count_bytes(inputs): the GPU memory that it needs then.
    """

    def __init__(self, run_step, weights, count_bytes):
        self.run_step, self.weights, self.count_bytes = run_step, weights, count_bytes
        self.gradients = [torch.zeros_like(weight) for weight in weights]
        self.compiled = set()
        self.stream = (
            torch.cuda.Stream()
        )  # one for plain and recorded steps: each stream has workspaces of its own
        self.largest = None  # the inputs with most nodes so far
        self.release()

    def release(self):
        """Give the memory of all recorded steps back; they are recorded again when they come up."""
        torch.cuda.synchronize()  # a step may still run, and expandable segments are freed without waiting for it
        self.graphs = {}
        self.pool = (
            torch.cuda.graph_pool_handle()
        )  # one for all recorded steps: no two are alive at a time
        torch.cuda.empty_cache()

    def make_room(self, size):
        """Release all recorded steps unless so many bytes of GPU memory are free, beside what they keep."""
        if memory.spare_memory() < size:
            self.release()

    def forget(self):
        """Start anew, after a step that did not fit into the memory."""
        self.compiled.clear()
        self.largest = None
        self.release()

    def __call__(self, inputs):
        """Return the loss of a batch, its gradients added to the weights' grad."""
        if (
            self.weights[0].grad is None
        ):  # the optimiser starts each step so; graphs need the same memory each time
            torch._foreach_zero_(self.gradients)
            for weight, gradient in zip(self.weights, self.gradients, strict=True):
                weight.grad = gradient
        rows, length = inputs["suffix"].shape
        kind = (
            rows == 1,
            length,
        )  # code is compiled anew for a single row, and for another row length
        if kind not in self.compiled:
            self.compiled.add(kind)
            self.make_room(self.count_bytes(inputs))  # recorded steps share no memory with it
            return run_aside(self.run_step, inputs, self.stream)
        shape = list_shapes(inputs)
        if shape not in self.graphs:
            self.record(inputs)
        graph, buffers, loss = self.graphs[shape]
        return replay_graph(graph, buffers, inputs, loss)

    def record(self, inputs):
        """Record the step of these inputs, which computes nothing; the largest step first: others fit in its memory."""
        if self.largest is None or inputs["input_ids"].numel() > self.largest["input_ids"].numel():
            self.release()
            self.largest = inputs
        for one in [inputs] if self.graphs else [self.largest, inputs]:
            if list_shapes(one) not in self.graphs:
                with explain_recording():
                    self.graphs[list_shapes(one)] = record_graph(
                        self.run_step, one, self.pool, self.stream
                    )


def list_shapes(inputs):
    """Return the names and shapes of inputs."""
    return tuple((name, *tensor.shape) for name, tensor in inputs.items())
