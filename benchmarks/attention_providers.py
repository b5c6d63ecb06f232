"""Who is timed: ways to compute one call, each as a function of a case's inputs that returns its output.

A provider may refuse a call; its reason is recorded. Backends of PyTorch are pinned, so that none stands in for
another.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from tformerlib.attention import attention, window_attention
from tformerlib.attention.partition import fold_windows, region_mask, unfold_windows

from .attention_cases import AnyCase, Case, Inputs, eager

Forward = Callable[[], Tensor]
BACKENDS = {
    "SDPA math": SDPBackend.MATH,
    "SDPA flash": SDPBackend.FLASH_ATTENTION,
    "SDPA efficient": SDPBackend.EFFICIENT_ATTENTION,
    "SDPA cuDNN": SDPBackend.CUDNN_ATTENTION,
}
OURS = "ours"


def providers(case: AnyCase) -> dict[str, Callable[[Inputs], Forward]]:
    """By name; those of PyTorch's library first. Calling one prepares it (a compiler's work, a block mask), untimed."""
    if isinstance(case, Case):
        pinned = {name: _pinned(backend, _sdpa) for name, backend in BACKENDS.items()}
        return {**pinned, "eager": _eager, "compiled eager": _compiled_eager, "FlexAttention": _flex, OURS: _ours}
    pinned = {
        f"{name}, windows as heads": _pinned(backend, _folded_sdpa)
        for name, backend in BACKENDS.items()
        if name in ("SDPA math", "SDPA efficient", "SDPA cuDNN")
    }
    return {
        **pinned,
        "compiled SDPA, windows as heads": _compiled_folded,
        "eager": _eager_windows,
        "compiled eager": _compiled_windows,
        "FlexAttention": _flex_windows,
        OURS: _our_windows,
    }


def _call(inputs: Inputs) -> tuple[tuple[Tensor, ...], dict[str, Any]]:
    """q, k, v and the named rest."""
    both = inputs.leaves | inputs.fixed
    named = {name: both[name] for name in ("bias", "key_mask") if name in both}
    return tuple(both[name] for name in "qkv"), named | inputs.options


def _ours(inputs: Inputs) -> Forward:
    tensors, options = _call(inputs)
    return lambda: attention(*tensors, **options, backend="triton")


def _eager(inputs: Inputs) -> Forward:
    tensors, options = _call(inputs)
    return lambda: eager(*tensors, **options)


def _compiled(function: Callable[..., Tensor], *tensors: Tensor, **options: Any) -> Forward:
    torch.compiler.reset()  # one shape each: no case pays for, or profits from, another's guards
    compiled = torch.compile(function, dynamic=False, fullgraph=True)
    return lambda: compiled(*tensors, **options)


def _compiled_eager(inputs: Inputs) -> Forward:
    tensors, options = _call(inputs)
    return _compiled(eager, *tensors, **options)


def _pinned(backend: SDPBackend, make: Callable[[Inputs], Forward]) -> Callable[[Inputs], Forward]:
    def prepare(inputs: Inputs) -> Forward:
        forward = make(inputs)

        def run() -> Tensor:
            with sdpa_kernel(backend):
                return forward()

        return run

    return prepare


def _sdpa(inputs: Inputs) -> Forward:
    tensors, options = _call(inputs)
    mask = options.pop("bias", None)
    if mask is not None:
        mask = mask.expand(tensors[0].shape[0], -1, -1, -1)
    if "key_mask" in options:
        mask = options.pop("key_mask")[:, None, None]
    q, k, v = tensors
    return lambda: F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=options.get("causal", False))


def _flex(inputs: Inputs) -> Forward:
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    (q, k, v), options = _call(inputs)
    bias, key_mask = options.get("bias"), options.get("key_mask")
    score_mod = mask_mod = None
    if bias is not None:
        table = bias[0]

        def score_mod(score: Tensor, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
            return score + table[h, i, j]

    if key_mask is not None:

        def mask_mod(b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
            return key_mask[b, j]

    if options.get("causal"):

        def mask_mod(b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
            return i >= j

    blocks = None
    if mask_mod is not None:
        batch = q.shape[0] if key_mask is not None else None
        blocks = create_block_mask(mask_mod, batch, None, q.shape[2], k.shape[2], device=q.device)
    return _compiled(lambda q, k, v: flex_attention(q, k, v, score_mod=score_mod, block_mask=blocks), q, k, v)


# Windows


def _our_windows(inputs: Inputs) -> Forward:
    qkv, bias = inputs.leaves.values()
    return lambda: window_attention(qkv, bias, **inputs.options, backend="triton")


def regions_and_bias(qkv: Tensor, bias: Tensor, window: int, shift: int) -> Tensor:
    """(windows * heads, N, N): what is added to the scores of each window."""
    _, height, width, _, heads, _ = qkv.shape
    windows = (height // window) * (width // window)
    added = bias.repeat(windows, 1, 1)
    if shift:
        mask = region_mask(window, shift, height, width, qkv.device).repeat_interleave(heads, 0)
        added = added.masked_fill(~mask, float("-inf"))
    return added


def eager_windows(qkv: Tensor, bias: Tensor, *, window: int, shift: int) -> Tensor:
    """Roll, cut, attend, put back, as Swin's first code does."""
    q, k, v = fold_windows(qkv, window, shift)
    scores = q @ k.mT * q.shape[-1] ** -0.5 + regions_and_bias(qkv, bias, window, shift)
    return unfold_windows(scores.softmax(-1) @ v, window, shift, *qkv.shape[1:3])


def sdpa_windows(qkv: Tensor, bias: Tensor, *, window: int, shift: int) -> Tensor:
    """The same with PyTorch's attention; windows stand among the heads, so that one mask serves the batch."""
    q, k, v = fold_windows(qkv, window, shift)
    added = regions_and_bias(qkv, bias, window, shift).expand(q.shape[0], -1, -1, -1)
    return unfold_windows(F.scaled_dot_product_attention(q, k, v, added), window, shift, *qkv.shape[1:3])


def _eager_windows(inputs: Inputs) -> Forward:
    return lambda: eager_windows(*inputs.leaves.values(), **inputs.options)


def _compiled_windows(inputs: Inputs) -> Forward:
    return _compiled(eager_windows, *inputs.leaves.values(), **inputs.options)


def _folded_sdpa(inputs: Inputs) -> Forward:
    return lambda: sdpa_windows(*inputs.leaves.values(), **inputs.options)


def _compiled_folded(inputs: Inputs) -> Forward:
    return _compiled(sdpa_windows, *inputs.leaves.values(), **inputs.options)


def _flex_windows(inputs: Inputs) -> Forward:
    from torch.nn.attention.flex_attention import flex_attention

    qkv, bias = inputs.leaves.values()
    window, shift = inputs.options["window"], inputs.options["shift"]
    heads = qkv.shape[4]
    seen = region_mask(window, shift, qkv.shape[1], qkv.shape[2], qkv.device) if shift else None

    def run(qkv: Tensor, bias: Tensor) -> Tensor:
        def score_mod(score: Tensor, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
            score = score + bias[h % heads, i, j]
            return score if seen is None else torch.where(seen[h // heads, i, j], score, float("-inf"))

        q, k, v = fold_windows(qkv, window, shift)
        return unfold_windows(flex_attention(q, k, v, score_mod=score_mod), window, shift, *qkv.shape[1:3])

    return _compiled(run, qkv, bias)
