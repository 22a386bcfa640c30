"""The precision in which models are kept and computed, on a GPU and on a CPU."""

import torch

from stance.common import errors

# ---------------------------------------------------------------- settings
# "float32" or "bfloat16": what is computed in without a GPU; None: what the CPU multiplies natively
CPU_DTYPE = None
# QLoRA as published, and the only precision an adapter of this project is trained or used in
QUANT_TYPE = "nf4"  # 4-bit NormalFloat
DOUBLE_QUANT = True  # quantise the quantisation constants too: 0.4 bits less per weight
# --------------------------------------------------------------------------


def compute_dtype() -> torch.dtype:
    """Return the dtype in which models compute.

    bfloat16 on a GPU; on a CPU what CPU_DTYPE names, or else what the CPU multiplies natively.
    """
    if torch.cuda.is_available():
        return torch.bfloat16
    if CPU_DTYPE is None:
        return torch.bfloat16 if multiplies_bfloat16() else torch.float32
    dtypes = {"float32": torch.float32, "bfloat16": torch.bfloat16}
    if CPU_DTYPE not in dtypes:
        errors.fail(
            f'CPU_DTYPE {CPU_DTYPE!r} is unknown: write "float32", "bfloat16" or None in stance/model/precision.py'
        )
    return dtypes[CPU_DTYPE]


def multiplies_bfloat16() -> bool:
    """Return whether the CPU has instructions that multiply bfloat16, and oneDNN uses them.

    Without such instructions PyTorch emulates them, at a small part of the speed of float32.
    """
    if not torch.backends.mkldnn.is_available():
        return False
    capabilities = torch.cpu.get_capabilities()
    native = ("avx512_bf16", "amx_bf16", "bf16")  # the last is Arm's
    return any(capabilities.get(name, False) for name in native)


def describe_precision() -> dict[str, str | bool]:
    """Return the precision of the base as run records hold it."""
    compute = str(compute_dtype()).removeprefix("torch.")
    return {"quant_type": QUANT_TYPE, "double_quant": DOUBLE_QUANT, "compute": compute}
