"""Scaled dot-product attention.

Shape letters: B batch, H query heads, G key/value heads, N queries, M keys, D head width, E value width.
"""

from typing import Literal, overload

import torch
import torch.nn.functional as F
from torch import Tensor

from .dispatch import Choice, choose
from .kernels.fused import autocast, fused_attention
from .masks import merge_masks
from .recording import record
from .weights import attention_scores, log_sum_exp, softmax


@overload
def attention(
    q: Tensor, k: Tensor, v: Tensor, *, bias: Tensor | None = None, mask: Tensor | None = None, causal: bool = False,
    scale: float | None = None, dropout: float = 0.0, key_mask: Tensor | None = None, window: int | None = None,
    softcap: float | None = None, return_lse: Literal[False] = False, backend: str = "auto",
) -> Tensor: ...  # fmt: skip
@overload
def attention(
    q: Tensor, k: Tensor, v: Tensor, *, bias: Tensor | None = None, mask: Tensor | None = None, causal: bool = False,
    scale: float | None = None, dropout: float = 0.0, key_mask: Tensor | None = None, window: int | None = None,
    softcap: float | None = None, return_lse: Literal[True], backend: str = "auto",
) -> tuple[Tensor, Tensor]: ...  # fmt: skip


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    bias: Tensor | None = None,
    mask: Tensor | None = None,
    causal: bool = False,
    scale: float | None = None,
    dropout: float = 0.0,
    key_mask: Tensor | None = None,
    window: int | None = None,
    softcap: float | None = None,
    return_lse: bool = False,
    backend: str = "auto",
) -> Tensor | tuple[Tensor, Tensor]:
    """softmax(scale * q @ k^T + bias) @ v  (Vaswani et al. 2017, eq. 1), by the fastest kernel that is known to be.

    Args:
        q: (B, H, N, D).  k: (B, G, M, D).  v: (B, G, M, E). H must be a multiple of G (grouped queries).
        bias: float, broadcastable to (B, H, N, M); added to the scores, in score units (before the softmax).
        mask: bool, broadcastable to (B, H, N, M); True means "may attend".
        causal: query n sees keys 0 .. n + M - N (aligned bottom right, so it is right with a KV cache).
        scale: factor on q @ k^T; 1 / sqrt(D) by default.
        dropout: probability of zeroing a weight; the caller passes 0 in eval mode.
        key_mask: bool (B, M); False is padding, which no query sees, whatever is stored there, NaN included.
        window: query n sees only keys less than `window` places away from n + M - N; with `causal`, the last `window`.
        softcap: bounds scale * q @ k^T to (-softcap, softcap) by a tanh, before the bias (Gemma 2).
        return_lse: also return the logarithm of each softmax's denominator, natural, (B, H, N), at least float32;
            -inf for a query that may attend to no key.
        backend: "triton" for our kernels, "torch" for PyTorch's, "math" for the formula written out, which alone has
            second derivatives, "auto" for the rules of `explain`.

    Returns:
        (B, H, N, E). A query that may attend to no key gets zeros.

    Raises:
        ValueError: shapes that do not fit, a dropout outside [0, 1), a window or softcap that is not positive, an
            unknown backend.
        TypeError: a mask that is not bool (a float mask belongs into `bias`) or a bias that is not floating point.
        NotImplementedError: backend="triton" for what the kernels do not do; the message says what.
    """
    _check(q, k, v, bias, mask, dropout, key_mask, window, softcap)
    q, k, v = autocast(q, k, v)
    bias, mask = (x if x is None else x[(None,) * (4 - x.ndim)] for x in (bias, mask))
    causal = causal and q.shape[-2] > 1  # a single query is the newest: it sees every key
    path, _ = choose(q, k, v, bias=bias, mask=mask, causal=causal, scale=scale, dropout=dropout, key_mask=key_mask,
                     window=window, softcap=softcap, return_lse=return_lse, backend=backend)  # fmt: skip
    if path == "triton":
        scale = q.shape[-1] ** -0.5 if scale is None else scale
        out, lse = fused_attention(q, k, v, bias, mask, key_mask, scale, causal, window or 0, softcap or 0.0)
        return (out, lse) if return_lse else out
    if key_mask is not None:  # here masked scores are computed and multiplied by zero, which NaN survives
        k, v = (x.masked_fill(~key_mask[:, None, :, None], 0.0) for x in (k, v))
    if path == "plain":
        mask = merge_masks(q, k, mask, key_mask, causal, window)
        scores = attention_scores(q, k, bias, mask, scale, softcap)
        weights = F.dropout(record(softmax(scores).to(q.dtype)), dropout)
        out = weights @ v.repeat_interleave(q.shape[-3] // v.shape[-3], -3)
        return (out, log_sum_exp(scores)) if return_lse else out
    if mask is not None or key_mask is not None or window is not None or bias is not None or q.shape[-2] != k.shape[-2]:
        mask, causal = merge_masks(q, k, mask, key_mask, causal, window), False
    if bias is not None:
        mask = bias if mask is None else bias.masked_fill(~mask, float("-inf"))
    if mask is not None and mask.is_floating_point():
        mask = mask.to(q.dtype)
    grouped = q.shape[-3] != k.shape[-3]
    return F.scaled_dot_product_attention(q, k, v, mask, dropout, causal, scale=scale, enable_gqa=grouped)


def explain(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    bias: Tensor | None = None,
    mask: Tensor | None = None,
    causal: bool = False,
    scale: float | None = None,
    dropout: float = 0.0,
    key_mask: Tensor | None = None,
    window: int | None = None,
    softcap: float | None = None,
    return_lse: bool = False,
    backend: str = "auto",
) -> Choice:
    """Which path `attention` takes for these arguments, and why. Same arguments, same errors; computes nothing."""
    _check(q, k, v, bias, mask, dropout, key_mask, window, softcap)
    q, k, v = autocast(q, k, v)
    causal = causal and q.shape[-2] > 1
    return choose(q, k, v, bias=bias, mask=mask, causal=causal, scale=scale, dropout=dropout, key_mask=key_mask,
                  window=window, softcap=softcap, return_lse=return_lse, backend=backend)  # fmt: skip


def _check(
    q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, mask: Tensor | None, dropout: float,
    key_mask: Tensor | None, window: int | None, softcap: float | None,
) -> None:  # fmt: skip
    if not q.ndim == k.ndim == v.ndim == 4:
        raise ValueError(f"attention takes (batch, heads, tokens, width) tensors, got {_shapes(q, k, v)}")
    if q.shape[0] != k.shape[0] or k.shape[:-1] != v.shape[:-1] or q.shape[-1] != k.shape[-1]:
        raise ValueError(f"q, k and v do not fit together: {_shapes(q, k, v)}")
    if q.shape[1] % k.shape[1]:
        raise ValueError(
            f"{q.shape[1]} query heads are not a multiple of {k.shape[1]} key/value heads: {_shapes(q, k, v)}"
        )
    if not 0.0 <= dropout < 1.0:
        raise ValueError(f"dropout={dropout} is not in [0, 1)")
    if window is not None and window < 1:
        raise ValueError(f"window={window}: a query sees at least its own place, which is window=1")
    if softcap is not None and not 0 < softcap < float("inf"):
        raise ValueError(f"softcap={softcap} is not a positive number; leave it out for no cap")
    scores = (*q.shape[:-1], k.shape[-2])
    for name, extra in (("mask", mask), ("bias", bias)):
        if extra is None:
            continue
        if (extra.dtype == torch.bool) != (name == "mask") or (name == "bias" and not extra.is_floating_point()):
            raise TypeError(f"{name} is {extra.dtype}; a mask is bool (True: may attend), a bias is floating point")
        shape = (1,) * (4 - extra.ndim) + tuple(extra.shape)
        if extra.ndim > 4 or any(size not in (1, full) for size, full in zip(shape, scores, strict=False)):
            raise ValueError(f"{name} {tuple(extra.shape)} does not broadcast to the scores {scores}")
    if key_mask is not None and key_mask.dtype != torch.bool:
        raise TypeError(f"key_mask is {key_mask.dtype}; it is bool (False: padding)")
    if key_mask is not None and tuple(key_mask.shape) != (q.shape[0], k.shape[2]):
        raise ValueError(f"key_mask {tuple(key_mask.shape)} is not (batch, keys) = {(q.shape[0], k.shape[2])}")


def _shapes(q: Tensor, k: Tensor, v: Tensor) -> str:
    return f"q {tuple(q.shape)}, k {tuple(k.shape)}, v {tuple(v.shape)}"
