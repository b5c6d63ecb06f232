"""Attention inside the windows of a map of tokens, as Swin does it (Liu et al. 2021, sec. 3.2)."""

import torch
from torch import Tensor

from .dispatch import interpreted, unavailable
from .dot_product import attention
from .kernels.fused import autocast
from .kernels.fused_window import fused_window_attention, span
from .partition import fold_windows, region_mask, unfold_windows
from .recording import record

LARGEST_TILE = 64  # tokens of a window whose scores one program holds whole


def window_attention(
    qkv: Tensor,
    bias: Tensor,
    *,
    window: int,
    shift: int = 0,
    scale: float | None = None,
    size: tuple[int, int] | None = None,
    backend: str = "auto",
) -> Tensor:
    """softmax(scale * q k^T + bias) v inside windows of window x window tokens.

    With `shift`, the grid of windows stands `shift` tokens further down and right, and wraps around. Tokens that only
    wrapping brought together do not see each other: they are masked, where the official code adds -100 to their
    scores; float32 weights are the same unless scores differ by more than about 80.

    Args:
        qkv: (B, H, W, 3, heads, D), a projection of every token.
        bias: (heads, window^2, window^2), added to the scores of every window; its gradient is summed in a fixed order.
        shift: 0 <= shift < window.
        scale: factor on q @ k^T; 1 / sqrt(D) by default.
        size: rows and columns of the map that are tokens, if the rest, below and to the right, is padding. No token
            attends to padding; what stands in the padding's own rows of the result has no meaning.
        backend: "triton" for one kernel that reads and writes the map in place; "torch" for roll, cut, attend and put
    padded = size is not None and tuple(size) != (height, width)
    against = "backend='torch'"
    if backend == "triton" or (backend == "auto" and qkv.is_cuda):
        against = "the map has padding" if padded else obstacle(qkv, window)

    Returns:
        (B, H, W, heads, D): flatten(-2) joins the heads without a copy.

    Raises:
        ValueError: a window that does not divide H and W: pad the map and say its `size`. Also: shapes that do not
            fit, an unknown backend.
        NotImplementedError: backend="triton" for what the kernel does not do; the message says what.
    """
    _check(qkv, bias, window, shift, size)
    if backend not in ("auto", "triton", "torch"):
        raise ValueError(f"backend={backend!r} is none of 'auto', 'triton', 'torch'")
    (qkv,) = autocast(qkv)
    if backend == "auto" and qkv.is_cuda and qkv.dtype == torch.float32:
        backend = "torch"  # products of float32 get no tensor cores in the kernel
    height, width, heads = qkv.shape[1], qkv.shape[2], qkv.shape[4]
    scale = qkv.shape[-1] ** -0.5 if scale is None else scale
    padded = size is not None and tuple(size) != (height, width)
    against = "backend='torch'"
    if backend == "triton" or (backend == "auto" and qkv.is_cuda):
        against = "the map has padding" if padded else obstacle(qkv, window)
    if not against and (backend == "triton" or not interpreted()):
        return fused_window_attention(qkv, bias, window, shift, scale)
    if backend == "triton":
        raise NotImplementedError(f"backend='triton': {against}")
    q, k, v = fold_windows(qkv, window, shift)
    windows = (height // window) * (width // window)
    mask = None
    if shift or padded:
        mask = region_mask(window, shift, height, width, qkv.device, size).repeat_interleave(heads, 0)
    bias = bias.repeat(windows, 1, 1)
    if backend == "auto" and not qkv.is_cuda and _is_trained(bias) and bias.dtype == qkv.dtype:
        # no fused kernel there has this gradient; written out it needs no care for empty rows: a token sees itself
        scores = (q * scale) @ k.mT
        scores += bias if mask is None else bias.masked_fill(~mask, float("-inf"))
        out = record(scores.softmax(-1)) @ v
    else:
        out = attention(q, k, v, bias=bias, mask=mask, scale=scale, backend=backend)
    return unfold_windows(out, window, shift, height, width)


def _is_trained(bias: Tensor) -> bool:
    return bias.requires_grad and torch.is_grad_enabled()


def obstacle(qkv: Tensor, window: int) -> str:
    """What keeps a call from the Triton kernel; "" if nothing does."""
    if missing := unavailable(qkv.device):
        return missing
    if interpreted() and qkv.dtype == torch.bfloat16:
        return "the interpreter computes bfloat16 wrongly"
    if qkv.dtype == torch.float64 and not interpreted():
        return "float64 goes through PyTorch"
    if qkv.dtype not in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        return f"the kernel does not take {qkv.dtype}"
    if window**2 > LARGEST_TILE:
        return "a window of more than 64 tokens does not fit one tile"
    if qkv.shape[-1] > 128:
        return "a head is wider than 128"
    if qkv.dtype == torch.float32 and qkv.shape[-1] > 32 and not interpreted():
        return "a float32 head is wider than 32, which does not fit a program's registers"
    if qkv.numel() == 0:
        return "qkv is empty"
    if span(qkv) >= 2**31:
        return "one map reaches over more than 2^31 elements"
    return ""


def _check(qkv: Tensor, bias: Tensor, window: int, shift: int, size: tuple[int, int] | None) -> None:
    if qkv.ndim != 6 or qkv.shape[3] != 3:
        raise ValueError(f"qkv is (batch, height, width, 3, heads, head width), got {tuple(qkv.shape)}")
    _, height, width, _, heads, _ = qkv.shape
    if window < 1 or height % window or width % window:
        raise ValueError(f"window={window} does not divide the map {(height, width)}: pad it, and say its size")
    if not 0 <= shift < window:
        raise ValueError(f"shift={shift} is not in [0, window={window})")
    if size is not None and not (0 < size[0] <= height and 0 < size[1] <= width):
        raise ValueError(f"size={size} is not a part of the map {(height, width)}")
    if tuple(bias.shape) != (heads, window**2, window**2) or not bias.is_floating_point():
        expected = (heads, window**2, window**2)
        raise ValueError(
            f"bias {tuple(bias.shape)} of {bias.dtype} is not (heads, window^2, window^2) = {expected}, float"
        )
