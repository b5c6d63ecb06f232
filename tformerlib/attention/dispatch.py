"""Which path a call of `attention` takes, and why: rules and a measured table, no guesses."""

import functools
import json
import math
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd import forward_ad

from .kernels.fused import architecture, constant_when_compiled

OLDEST_TRITON = (3, 6)  # of the versions that were tried
OLDEST_INTERPRETER = (3, 7)  # an older one needs NumPy < 2.4
FEW = 16  # queries that a tile of the tensor cores takes at least

# Speed of our kernels over the best of PyTorch's, where both were timed on the same GPU: architecture -> head width ->
# "forward" or "training" -> "dense" or "causal" -> length -> ratio. Written by benchmarks/attention.py; empty until it
# ran on a GPU.
MEASURED: dict[str, dict[str, dict[str, dict[str, dict[str, float]]]]]
MEASURED = json.loads(Path(__file__).with_name("dispatch.json").read_text())


class Choice(NamedTuple):
    """path: "triton", our kernels; "sdpa", torch's scaled_dot_product_attention; "plain", softmax written out."""

    path: str
    reason: str

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


def choose(
    q: Tensor, k: Tensor, v: Tensor, *, bias: Tensor | None, mask: Tensor | None, causal: bool, scale: float | None,
    dropout: float, key_mask: Tensor | None, window: int | None, softcap: float | None, return_lse: bool, backend: str,
) -> Choice:  # fmt: skip
    """The path for a call of `attention` with these arguments.

    Raises:
        ValueError: an unknown backend.
        NotImplementedError: backend="triton" for what the kernels do not do.
    """
    if backend not in ("auto", "triton", "torch", "math"):
        raise ValueError(f"backend={backend!r} is none of 'auto', 'triton', 'torch', 'math'")
    torchs, why = "sdpa", ""
    if softcap is not None or return_lse:
        torchs = "plain"
    elif reason := _too_much_for_sdpa(q, k, v, bias, causal, scale):
        torchs, why = "plain", reason
    if backend == "math":
        return Choice("plain", "backend='math'")
    if backend == "torch":
        return Choice(torchs, why or "backend='torch'")
    if backend == "auto" and not q.is_cuda:
        return Choice(torchs, why or f"Triton has no compiler for a {q.device.type}")
    against = obstacle(q, k, v, bias, scale, dropout)
    if backend == "triton":
        if against:
            raise NotImplementedError(f"backend='triton': {against}")
        return Choice("triton", "backend='triton'")
    if against:
        return Choice(torchs, against)
    if interpreted():
        return Choice(torchs, "the kernels are interpreted (TRITON_INTERPRET=1), which is for teaching")
    if torchs == "plain":
        why = why or ("PyTorch has no fused kernel with a soft cap" if softcap else "PyTorch keeps the LSE")
        return Choice("triton", why)
    if q.dtype == torch.float32:
        return Choice(torchs, "float32: PyTorch's kernels are made for products without tensor cores, ours are not")
    if q.shape[2] < FEW:
        return Choice(torchs, "too few queries to fill a tile")
    if key_mask is not None:
        return Choice("triton", "key padding: one byte a key, and blocks of padding are skipped")
    if window is not None:
        return Choice("triton", "a sliding window: tiles outside it are skipped")
    if bias is not None and bias.requires_grad and torch.is_grad_enabled():
        return Choice("triton", "the gradient of a bias, which PyTorch's kernels store for every batch entry")
    if mask is not None or bias is not None:
        return Choice(torchs, "PyTorch's kernels take a mask or a bias without gradient")
    if causal and q.shape[2] != k.shape[2]:
        return Choice("triton", "causal and aligned bottom right: PyTorch's kernels would read a mask")
    ratio = measured(q, k, v, causal)
    if ratio >= 1.0:
        return Choice("triton", "measured at least as fast as PyTorch's kernels for this width and length")
    return Choice(
        torchs, "dense: PyTorch's were measured faster" if ratio else "dense: ours not measured on such a GPU"
    )


def _too_much_for_sdpa(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, causal: bool, scale: float | None) -> str:
    """Why PyTorch's fused function would give something else than the formula; "" if it would not."""
    if bias is not None and q.dtype in (torch.float16, torch.bfloat16) and bias.dtype not in (q.dtype,):
        return f"PyTorch's kernels would round the bias, {bias.dtype}, to {q.dtype}"
    if causal and scale is not None and not scale > 0:
        return f"PyTorch's kernels multiply hidden scores by scale={scale}, and -inf times it is no score"
    return "PyTorch's kernels have no forward derivative" if _dual(q, k, v) else ""


def _dual(*tensors: Tensor) -> bool:
    """Whether one of them carries a forward derivative."""
    inside = forward_ad._current_level >= 0  # unpack_dual compiles something at its first call, so not always
    return inside and any(forward_ad.unpack_dual(x).tangent is not None for x in tensors)


def obstacle(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, scale: float | None, dropout: float) -> str:
    """What keeps a call from the Triton kernels; "" if nothing does."""
    if missing := unavailable(q.device):
        return missing
    if not q.dtype == k.dtype == v.dtype:
        return f"q is {q.dtype}, k {k.dtype} and v {v.dtype}"
    if interpreted() and q.dtype == torch.bfloat16:
        return "the interpreter computes bfloat16 wrongly"
    if q.dtype == torch.float64 and not interpreted():
        return "float64 goes through PyTorch"
    if q.dtype not in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        return f"the kernels do not take {q.dtype}"
    if max(q.shape[3], v.shape[3]) > 256:
        return "a head is wider than 256"
    if min(*q.shape, *k.shape, *v.shape) == 0:
        return "a tensor is empty"
    if dropout > 0:
        return "the kernels have no dropout"
    if scale is not None and not (scale > 0 and math.isfinite(scale)):
        return "scale is not a positive number"
    if _dual(q, k, v):
        return "the kernels have no forward derivative"
    return ""


def measured(q: Tensor, k: Tensor, v: Tensor, causal: bool) -> float:
    """Our speed over PyTorch's best for the nearest length in the table; 0 if it says nothing of such a call."""
    if q.shape[3] != v.shape[3] or q.shape[1] != k.shape[1]:
        return 0.0
    kind = "training" if q.requires_grad and torch.is_grad_enabled() else "forward"
    row = MEASURED.get(str(architecture(q.device)), {}).get(str(q.shape[3]), {}).get(kind, {})
    lengths = row.get("causal" if causal else "dense", {})
    return lengths[min(lengths, key=lambda length: abs(math.log(int(length) / k.shape[2])))] if lengths else 0.0


@constant_when_compiled
def unavailable(device: torch.device) -> str:
    """Why Triton cannot run on this device; "" if it can."""
    return _unavailable(device)


@functools.cache
def _unavailable(device: torch.device) -> str:
    if find_spec("triton") is None:
        return "Triton is not installed"
    import triton

    oldest = OLDEST_INTERPRETER if interpreted() else OLDEST_TRITON
    if tuple(map(int, triton.__version__.split(".")[:2])) < oldest:
        what = "The interpreter of Triton" if interpreted() else "Triton"
        return f"{what} {triton.__version__} is older than {'.'.join(map(str, oldest))}"
    if interpreted():
        return ""
    if device.type != "cuda":
        return f"on a {device.type} kernels are interpreted: set TRITON_INTERPRET=1 before anything imports Triton"
    if torch.version.hip:
        return "the kernels were not tried on AMD GPUs"
    if architecture(device) < 80:
        return "GPUs older than sm_80 get no tensor-core instruction from Triton"
    return ""


@constant_when_compiled
def interpreted() -> bool:
    """Whether this process interprets the kernels on the CPU. Triton must be installed."""
    from .kernels.kernels import INTERPRETED

    return INTERPRETED
