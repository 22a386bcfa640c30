"""GPU memory that does not suffice, in one line; the bytes that training and scoring need stand in compilation.py."""

import contextlib
import logging

import torch

from stance.common import errors


@contextlib.contextmanager
def explain_memory(action, hint):
    """Stop in one line if the GPU memory does not suffice for an action.

    While weights load, transformers raises another error and logs this one for each weight: that report is held back.
    """
    reports, log = [], logging.getLogger("transformers.modeling_utils")

    def pass_other(entry):
        short = "out of memory" in entry.getMessage()
        reports.extend([entry] if short else [])
        return not short

    log.addFilter(pass_other)
    try:
        yield
    except RuntimeError as problem:
        # What went wrong in the recording of a CUDA graph is the context of the error that ends it.
        short = any(
            isinstance(error, torch.OutOfMemoryError) for error in (problem, problem.__context__)
        )
        if not reports and not short:
            raise
        errors.fail_below_bar(f"not enough GPU memory to {action}: {hint}")
    finally:
        log.removeFilter(pass_other)
