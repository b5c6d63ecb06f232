"""Attention weights, on request: fast paths never form them, so they are computed only inside `record_attention`."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode, handle_torch_function, has_torch_function

from .masks import merge_masks
from .partition import fold_windows, region_mask
from .weights import attention_scores, attention_weights, softmax


@contextmanager
def record_attention() -> Iterator[list[Tensor]]:
    """Collects the weights, each (B, H, N, M), of every attention made inside the block, in call order.

    It listens to torch's own `scaled_dot_product_attention`, so models of timm or transformers are heard too, and to
    our kernels, beside which it computes the weights again (those of windows are (B, windows * heads, N, N)). Results
    are the same with and without it. Blocks nest: an outer block sees what an inner one sees. Each thread has its own:
    another thread's models are not recorded.
    """
    weights: list[Tensor] = []
    with _Recorder(weights):
        yield weights


def record(weights: Tensor) -> Tensor:
    """Shows weights (B, H, N, M) that were formed without `attention`, additive ones say, to `record_attention`."""
    if has_torch_function((weights,)):
        return handle_torch_function(record, (weights,), weights)
    return weights


class _Recorder(TorchFunctionMode):
    """Torch keeps a stack of modes for each thread and hands every call to the innermost one."""

    def __init__(self, weights: list[Tensor]) -> None:
        super().__init__()
        self.weights = weights

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is record:
            self.weights.append(args[0].detach())
        elif func is F.scaled_dot_product_attention:
            self.weights.append(_weights_of(*args, **kwargs).detach())
        elif func is torch.ops.tformerlib.attention.default:
            self.weights.append(_weights_of_ours(*args).detach())
        elif func is torch.ops.tformerlib.window_attention.default:
            self.weights.append(_weights_of_windows(*args).detach())
        return func(*args, **kwargs)


def _weights_of(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """Takes what torch's function takes; `value` and dropout do not change the weights."""
    if is_causal and query.shape[-2] != key.shape[-2]:  # torch aligns the first query with the first key, ours the last
        n, m = query.shape[-2], key.shape[-2]
        attn_mask, is_causal = torch.ones(n, m, dtype=torch.bool, device=query.device).tril(), False
    return attention_weights(query, key, attn_mask, is_causal, scale)


def _weights_of_ours(
    q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, mask: Tensor | None, key_mask: Tensor | None,
    scale: float, causal: bool, window: int, softcap: float,
) -> Tensor:  # fmt: skip
    """Takes what our custom op takes."""
    merged = merge_masks(q, k, mask, key_mask, causal, window or None)
    return softmax(attention_scores(q, k, bias, merged, scale, softcap or None)).to(q.dtype)


def _weights_of_windows(qkv: Tensor, bias: Tensor, window: int, shift: int, scale: float) -> Tensor:
    """Takes what our custom op takes; (B, windows * heads, window^2, window^2), as the copying path has."""
    q, k, _ = fold_windows(qkv, window, shift)
    height, width, heads = qkv.shape[1], qkv.shape[2], qkv.shape[4]
    mask = region_mask(window, shift, height, width, qkv.device).repeat_interleave(heads, 0)
    bias = bias.repeat(q.shape[1] // heads, 1, 1)
    return softmax(attention_scores(q, k, bias, mask, scale, None)).to(qkv.dtype)
