"""The kernels on a GPU: precision in bf16, fp16 and fp32, repeatability, large offsets, torch.compile, memory checks.

Exact values come from the formula in float64, which test_kernels.py holds against the oracle. An error is judged by
FlashAttention's rule: at most twice what the same formula loses when PyTorch computes it in the same precision.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tformerlib.attention import attention, dispatch, explain, record_attention, window_attention
from tformerlib.attention.masks import merge_masks


def why_not() -> str:
    if not torch.cuda.is_available():
        return "no GPU here"
    if missing := dispatch.unavailable(torch.device("cuda")):
        return missing
    return "TRITON_INTERPRET is set: kernels would run on the CPU" if dispatch.interpreted() else ""


REASON = why_not()
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(bool(REASON), reason=REASON)]

DTYPES = [torch.bfloat16, torch.float16, torch.float32]
PAIRS = [(1, 1), (239, 1), (3, 799), (799, 3), (113, 203), (128, 217), (197, 197), (1023, 1024), (1024, 1023)]


def formula(q: Tensor, k: Tensor, v: Tensor, *, bias=None, mask=None, key_mask=None, causal=False, window=None,
            softcap=None, scale=None) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Attention and its log-sum-exp as written, in the precision of q."""
    merged = merge_masks(q, k, mask, key_mask, causal, window)
    k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], 1) for x in (k, v))
    scores = (q @ k.mT) * (q.shape[-1] ** -0.5 if scale is None else scale)
    if softcap is not None:
        scores = softcap * (scores / softcap).tanh()
    if bias is not None:
        scores = scores + bias.to(q.dtype)
    nothing = None
    if merged is not None:
        nothing = ~merged.expand(scores.shape).any(-1, keepdim=True)
        scores = scores.masked_fill(~merged, float("-inf")).masked_fill(nothing, 0.0)
    weights, lse = scores.softmax(-1), scores.logsumexp(-1)
    if nothing is not None:
        weights, lse = weights.masked_fill(nothing, 0.0), lse.masked_fill(nothing[..., 0], float("-inf"))
    return weights @ v, lse


def results(function: Callable, leaves: dict[str, Tensor], dtype: torch.dtype, **options) -> list[Tensor]:
    """Outputs and gradients, in float64, of function at `leaves` cast to dtype (a bias stays float32 at least)."""
    cast = {
        name: x.to(torch.promote_types(dtype, torch.float32) if name == "bias" else dtype).detach().requires_grad_()
        for name, x in leaves.items()
    }
    q, k, v = (cast.pop(name) for name in "qkv")
    out, lse = function(q, k, v, **cast, **options)
    generator = torch.Generator("cuda").manual_seed(1)
    direction, along = (torch.randn(x.shape, generator=generator, device="cuda") for x in (out, lse))
    total = (out * direction.to(out.dtype)).sum() + (lse * along.to(lse.dtype)).masked_fill(lse.isneginf(), 0).sum()
    gradients = torch.autograd.grad(total, [q, k, v, *cast.values()], materialize_grads=True)
    return [x.double() for x in (out, lse.masked_fill(lse.isneginf(), -7.0), *gradients)]


def ours(q: Tensor, k: Tensor, v: Tensor, **options) -> tuple[Tensor, Tensor]:
    return attention(q, k, v, return_lse=True, backend="triton", **options)


def check(leaves: dict[str, Tensor], dtype: torch.dtype, **options) -> None:
    leaves = {name: x.to(dtype).double() for name, x in leaves.items()}  # what all three start from
    exact = results(formula, leaves, torch.float64, **options)
    for name, a, b, x in zip(
        ["out", "lse", *leaves], results(ours, leaves, dtype, **options), results(formula, leaves, dtype, **options),
        exact, strict=True,
    ):  # fmt: skip
        assert a.isfinite().all(), name
        rounding = ((x.to(dtype) + 0.3 - 0.3).double() - x).abs().max() + 8 * torch.finfo(torch.float32).eps
        error, allowed = (a - x).abs().max(), 2 * (b - x).abs().max() + 2 * rounding
        assert error <= allowed, f"{name}: {error:.2e} > {allowed:.2e}, {options.keys()}"


def random(n: int, m: int, *, batch=2, heads=4, groups=4, width=64, value_width=None) -> dict[str, Tensor]:
    """q, k and v as a layer splits its heads: (B, N, heads, width) in memory."""
    torch.manual_seed(n * 10_000 + m + width)
    return {
        name: torch.randn(batch, length, h, w, device="cuda").transpose(1, 2)
        for name, length, h, w in zip("qkv", (n, m, m), (heads, groups, groups),
                                      (width, width, value_width or width), strict=True)
    }  # fmt: skip


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("n, m", PAIRS)
def test_odd_lengths(n, m, causal, dtype):
    check(random(n, m), dtype, causal=causal)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width, value_width", [(16, 16), (32, 64), (40, 40), (72, 72), (80, 80), (96, 96), (128, 128),
                                                (192, 128), (256, 256)])  # fmt: skip
def test_head_widths(width, value_width, dtype):
    check(random(200, 330, width=width, value_width=value_width), dtype, causal=True)


def options_of(kind: str, n: int, m: int) -> tuple[dict[str, Any], Any]:
    """Options of a kind of call, and the shape of its bias."""
    lengths = torch.tensor([[m // 2], [0]], device="cuda")
    padding = torch.arange(m, device="cuda") < lengths
    kinds: dict[str, tuple[dict[str, Any], Any]] = {
        "padding": ({"key_mask": padding}, None),
        "padding on the left": ({"key_mask": ~padding}, None),
        "padding with holes": ({"key_mask": padding & (torch.arange(m, device="cuda") % 3 > 0)}, None),
        "mask": ({"mask": torch.rand(2, 1, n, m, device="cuda") > 0.3, "causal": True}, None),
        "window": ({"window": 60}, None),
        "causal window": ({"window": 60, "causal": True, "key_mask": padding}, None),
        "soft cap": ({"softcap": 3.0}, (2, 4, n, m)),
        "own bias": ({"causal": True}, (2, 4, n, m)),
        "bias for the batch": ({}, (1, 4, n, m)),
        "bias for heads and batch, padding": ({"key_mask": padding}, (1, 1, n, m)),
        "bias of keys": ({}, (2, 1, 1, m)),
        "bias of queries": ({"scale": 0.2}, (1, 4, n, 1)),
    }  # fmt: skip
    return kinds[kind]


KINDS = [
    "padding", "padding on the left", "padding with holes", "mask", "window", "causal window", "soft cap", "own bias",
    "bias for the batch", "bias for heads and batch, padding", "bias of keys", "bias of queries",
]  # fmt: skip


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n, m, width", [(300, 517, 64), (512, 512, 128), (49, 49, 32)])
def test_masks_and_biases(kind, n, m, width, dtype):
    options, shape = options_of(kind, n, m)
    bias = {} if shape is None else {"bias": torch.randn(shape, device="cuda")}
    check(random(n, m, groups=2, width=width) | bias, dtype, **options)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("window, shift, side, width", [(7, 0, 28, 32), (7, 3, 56, 32), (8, 4, 32, 24), (4, 2, 8, 64),
                                                        (7, 3, 7, 128)])  # fmt: skip
def test_windows(window, shift, side, width, dtype):
    torch.manual_seed(side)
    qkv = torch.randn(5, side, side, 3, 3, width, device="cuda").to(dtype)
    bias = torch.randn(3, window**2, window**2, device="cuda")
    if dtype == torch.float32 and width > 32:
        with pytest.raises(NotImplementedError, match="float32 head is wider than 32"):
            window_attention(qkv, bias, window=window, shift=shift, backend="triton")
        return
    direction = torch.randn(5, side, side, 3, width, device="cuda")

    def run(backend: str, dtype: torch.dtype) -> list[Tensor]:
        leaves = [
            x.to(wide).requires_grad_() for x, wide in ((qkv, dtype), (bias, torch.promote_types(dtype, bias.dtype)))
        ]
        out = window_attention(*leaves, window=window, shift=shift, backend=backend)
        return [x.double() for x in (out, *torch.autograd.grad(out, leaves, direction.to(out.dtype)))]

    for name, a, b, exact in zip(
        ("out", "qkv", "bias"), run("triton", dtype), run("torch", dtype), run("torch", torch.float64), strict=True
    ):
        # torch's own kernels keep scores in float32: grant one step of the dtype beside twice their error
        step = torch.finfo(dtype).eps * exact.abs().max()
        error, allowed = (a - exact).abs().max(), 2 * (b - exact).abs().max() + step
        assert error <= allowed, f"{name}: {error:.2e} > {allowed:.2e}"


def test_a_hundred_runs_agree_bit_for_bit():
    leaves = random(333, 517, heads=8, groups=2) | {"bias": torch.randn(1, 8, 333, 517, device="cuda")}
    padding = torch.arange(517, device="cuda") < torch.tensor([[400], [517]], device="cuda")
    qkv, table = torch.randn(16, 28, 28, 3, 6, 32, device="cuda").bfloat16(), torch.randn(6, 49, 49, device="cuda")

    def windows() -> list[Tensor]:
        inputs = [qkv.detach().requires_grad_(), table.detach().requires_grad_()]
        out = window_attention(*inputs, window=7, shift=3, backend="triton")
        return [out, *torch.autograd.grad(out.square().sum(), inputs)]

    first = results(ours, leaves, torch.bfloat16, key_mask=padding), windows()
    for _ in range(100):
        again = results(ours, leaves, torch.bfloat16, key_mask=padding), windows()
        assert all(map(torch.equal, first[0], again[0])) and all(map(torch.equal, first[1], again[1]))


def test_offsets_beyond_32_bits():
    """Two batch entries, then rows, that lie more than 2^31 elements apart."""
    torch.manual_seed(0)
    store = torch.empty(2**31 + 2**24, dtype=torch.bfloat16, device="cuda")
    for shape, strides in (
        ((2, 2, 200, 64), (2**31, 200 * 64, 64, 1)),
        ((1, 1, 2100, 64), (0, 0, 2**20 + 64, 1)),
    ):
        parts = [store[2**16 * i :].as_strided(shape, strides) for i in range(3)]
        near = [torch.randn(shape, device="cuda", dtype=torch.bfloat16).requires_grad_() for _ in parts]
        for part, x in zip(parts, near, strict=True):
            part.copy_(x.detach())
        far = [part.detach().requires_grad_() for part in parts]
        outs = [attention(*x, causal=True, backend="triton") for x in (near, far)]
        assert torch.equal(*outs)
        gradients = [torch.autograd.grad(out.sum(), x) for out, x in zip(outs, (near, far), strict=True)]
        assert all(map(torch.equal, *gradients))
    far_map = store.as_strided((2, 14, 14, 3, 2, 32), (2**31, 14 * 192, 192, 64, 32, 1))
    near_map = torch.randn(far_map.shape, device="cuda", dtype=torch.bfloat16)
    far_map.copy_(near_map)
    table = torch.randn(2, 49, 49, device="cuda")
    assert torch.equal(*(window_attention(x, table, window=7, shift=3, backend="triton") for x in (near_map, far_map)))


class Layer(nn.Module):
    """Both kinds of attention in one graph."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.bias = nn.Linear(64, 192), nn.Parameter(torch.randn(2, 49, 49))

    def forward(self, x: Tensor, key_mask: Tensor) -> Tensor:  # (B, 14, 14, 64)
        qkv = self.qkv(x).unflatten(-1, (3, 2, 32))
        x = x + window_attention(qkv, self.bias, window=7, shift=3).flatten(-2)
        q, k, v = self.qkv(x).flatten(1, 2).unflatten(-1, (3, 2, 32)).permute(2, 0, 3, 1, 4)
        return attention(q, k, v, key_mask=key_mask).transpose(1, 2).flatten(-2)


@pytest.mark.parametrize("autocast", [False, True])
def test_compiles_without_graph_break(autocast):
    torch.manual_seed(0)
    layer = Layer().cuda()
    x, key_mask = torch.randn(4, 14, 14, 64, device="cuda"), torch.rand(4, 196, device="cuda") > 0.3
    grown = []
    for function in (layer, torch.compile(layer, fullgraph=True)):
        with torch.autocast("cuda", torch.bfloat16, enabled=autocast):
            out = function(x, key_mask)
        assert out.dtype == (torch.bfloat16 if autocast else torch.float32)
        grown.append([out.float(), *torch.autograd.grad(out.float().square().mean(), list(layer.parameters()))])
    tolerance = 3e-2 if autocast else 1e-4
    torch.testing.assert_close(*grown, atol=tolerance, rtol=tolerance)


def test_a_cuda_graph_replays():
    q = torch.randn(2, 4, 300, 64, device="cuda", dtype=torch.bfloat16)
    padding = torch.arange(300, device="cuda") < torch.tensor([[100], [300]], device="cuda")
    expected = attention(q, q, q, key_mask=padding, backend="triton")
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = attention(q, q, q, key_mask=padding, backend="triton")
    out.zero_()
    graph.replay()
    assert torch.equal(out, expected)


def test_recording_and_explaining():
    q = torch.randn(2, 2, 50, 32, device="cuda", dtype=torch.float16)
    padding = torch.arange(50, device="cuda") < torch.tensor([[30], [50]], device="cuda")
    assert explain(q, q, q, key_mask=padding).path == "triton"
    with record_attention() as weights:
        out = attention(q, q, q, key_mask=padding)
    torch.testing.assert_close(weights[0] @ q, out, atol=2e-3, rtol=2e-3)


PROBE = """
import torch
from tformerlib.attention import attention, window_attention
q, k = torch.randn(1, 2, 70, 80, device="cuda").half(), torch.randn(1, 1, 133, 80, device="cuda").half()
bias, padding = torch.randn(1, 2, 70, 133, device="cuda"), torch.arange(133, device="cuda")[None] < 101
for options in ({"bias": bias}, {"bias": bias[:, :, :1], "key_mask": padding}, {"causal": True, "window": 40}):
    leaves = [x.detach().requires_grad_() for x in (q, k, options.get("bias", q))]
    if "bias" in options:
        options["bias"] = leaves[2]
    out = attention(leaves[0], leaves[1], leaves[1], backend="triton", **options)
    torch.autograd.grad(out.sum(), leaves, allow_unused=True)
qkv, table = torch.randn(1, 14, 14, 3, 2, 24, device="cuda").half(), torch.randn(2, 49, 49, device="cuda")
window_attention(qkv.requires_grad_(), table.requires_grad_(), window=7, shift=3, backend="triton").sum().backward()
torch.cuda.synchronize()
"""


@pytest.mark.skipif(shutil.which("compute-sanitizer") is None, reason="compute-sanitizer is not installed")
def test_compute_sanitizer_finds_nothing():
    command = ["compute-sanitizer", "--tool", "memcheck", "--error-exitcode", "7", sys.executable, "-c", PROBE]
    root = Path(__file__).parents[2]
    environment = os.environ | {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1", "PYTHONPATH": str(root)}
    found = subprocess.run(command, capture_output=True, text=True, cwd=root, env=environment, check=False)
    if "Device not supported" in found.stdout:
        pytest.skip("compute-sanitizer does not support this machine")
    assert found.returncode == 0, found.stdout[-3000:] + found.stderr[-2000:]
