"""Attention weights, on request: fast paths never form them, so they are computed only inside `record_attention`."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode, handle_torch_function, has_torch_function

from .weights import attention_weights


@contextmanager
def record_attention() -> Iterator[list[Tensor]]:
    """Collects the weights, each (B, H, N, M), of every attention made inside the block, in call order.

    It listens to torch's own `scaled_dot_product_attention`, so models of timm or transformers are heard too, and
    results are the same with and without it. Blocks nest: an outer block sees what an inner one sees. Each thread
    has its own: another thread's models are not recorded.
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
    return attention_weights(query, key, attn_mask, is_causal, scale)
