"""Scaled dot-product attention.

Shape letters: B batch, H query heads, G key/value heads, N queries, M keys, D head width, E value width.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


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
) -> Tensor:
    """softmax(scale * q @ k^T + bias) @ v  (Vaswani et al. 2017, eq. 1), by the fastest kernel available.

    Args:
        q: (B, H, N, D).  k: (B, G, M, D).  v: (B, G, M, E). H must be a multiple of G (grouped queries).
        bias: float, broadcastable to (B, H, N, M); added to the scores, in score units (before the softmax).
        mask: bool, broadcastable to (B, H, N, M); True means "may attend".
        causal: query n sees keys 0 .. n + M - N (aligned bottom right, so it is right with a KV cache).
        scale: factor on q @ k^T; 1 / sqrt(D) by default.
        dropout: probability of zeroing a weight; the caller passes 0 in eval mode.

    Returns:
        (B, H, N, E). A query that may attend to no key gets zeros.

    Raises:
        ValueError: shapes that do not fit, or a dropout outside [0, 1).
        TypeError: a mask that is not bool (a float mask belongs into `bias`) or a bias that is not floating point.
    """
    _check(q, k, v, bias, mask, dropout)
    n, m = q.shape[-2], k.shape[-2]
    if causal and (n != m or mask is not None or bias is not None):
        below = torch.ones(n, m, dtype=torch.bool, device=q.device).tril(m - n)
        mask, causal = (below if mask is None else mask & below), False
    if bias is not None:
        mask = bias if mask is None else bias.masked_fill(~mask, float("-inf"))
    if mask is not None and mask.is_floating_point():
        mask = mask.to(q.dtype)
    grouped = q.shape[-3] != k.shape[-3]
    return F.scaled_dot_product_attention(q, k, v, mask, dropout, causal, scale=scale, enable_gqa=grouped)


def _check(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, mask: Tensor | None, dropout: float) -> None:
    shapes = f"q {tuple(q.shape)}, k {tuple(k.shape)}, v {tuple(v.shape)}"
    if not q.ndim == k.ndim == v.ndim == 4:
        raise ValueError(f"attention takes (batch, heads, tokens, width) tensors, got {shapes}")
    if q.shape[0] != k.shape[0] or k.shape[:-1] != v.shape[:-1] or q.shape[-1] != k.shape[-1]:
        raise ValueError(f"q, k and v do not fit together: {shapes}")
    if q.shape[1] % k.shape[1]:
        raise ValueError(f"{q.shape[1]} query heads are not a multiple of {k.shape[1]} key/value heads: {shapes}")
    if not 0.0 <= dropout < 1.0:
        raise ValueError(f"dropout={dropout} is not in [0, 1)")
    scores = (*q.shape[:-1], k.shape[-2])
    for name, extra in (("mask", mask), ("bias", bias)):
        if extra is None:
            continue
        if (extra.dtype == torch.bool) != (name == "mask") or (name == "bias" and not extra.is_floating_point()):
            raise TypeError(f"{name} is {extra.dtype}; a mask is bool (True: may attend), a bias is floating point")
        shape = (1,) * (4 - extra.ndim) + tuple(extra.shape)
        if extra.ndim > 4 or any(size not in (1, full) for size, full in zip(shape, scores, strict=False)):
            raise ValueError(f"{name} {tuple(extra.shape)} does not broadcast to the scores {scores}")
