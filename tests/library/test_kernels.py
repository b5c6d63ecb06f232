"""The Triton kernels, run by the interpreter, and PyTorch's path beside them: both against the float64 oracle.

Without a GPU these are the kernels themselves, not a model of them. What they compile to is looked at below; what only
a GPU shows is in test_gpu.py.
"""

import importlib.util
import json
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from torch import Tensor

from tformerlib import attention as package
from tformerlib.attention import (
    attention,
    attention_reference,
    attention_weights,
    dispatch,
    explain,
    record_attention,
    window_attention,
)
from tformerlib.attention.kernels import tiles
from tformerlib.attention.kernels.compile_only import compile_kernels
from tformerlib.attention.kernels.fused import Launch, autocast, fused_attention, near, parts
from tformerlib.attention.kernels.fused_window import fused_window_attention, span

REASON = dispatch.unavailable(torch.device("cpu"))
interpreted = pytest.mark.skipif(bool(REASON), reason=REASON)
BACKENDS = ["torch", pytest.param("triton", marks=interpreted)]
TOLERANCE = {torch.float32: 2e-5, torch.float64: 1e-9}  # the tanh of the kernels is a series, right to about 1e-11

# queries, keys, query heads, key heads, head width, value width, options; interpreted tiles are 16 x 16
CASES: dict[str, tuple[int, int, int, int, int, int, dict[str, Any]]] = {
    "plain": (20, 35, 2, 2, 24, 8, {}),
    "causal, grouped, fewer queries than keys": (20, 35, 4, 2, 40, 20, {"causal": True}),
    "causal, rows that see nothing": (35, 18, 2, 2, 5, 16, {"causal": True, "bias": (2, 2, 35, 18)}),
    "mask and a bias for all": (18, 20, 2, 1, 16, 16, {"mask": (1, 2, 18, 20), "causal": True, "bias": (2, 1, 18, 20)}),
    "padding with holes, window": (20, 50, 2, 2, 16, 16, {"key_mask": "holes", "window": 9, "bias": (2, 1, 50)}),
    "padding, causal window, soft cap": (
        35, 50, 2, 2, 16, 16, {"key_mask": "tail", "window": 20, "causal": True, "softcap": 2.0, "bias": (35, 1)},
    ),
    "padding, shared bias": (18, 60, 2, 2, 16, 16, {"key_mask": "tail", "bias": (1, 2, 18, 60)}),
    "soft cap, one number as bias": (17, 17, 2, 2, 16, 16, {"softcap": 1.5, "bias": (1, 1), "scale": 0.7}),
}  # fmt: skip


def problem(case: str, dtype: torch.dtype) -> tuple[list[Tensor], dict[str, Any]]:
    """Wide random inputs, heads split as layers leave them; some row of a mask, some entry of padding sees nothing."""
    n, m, heads, groups, width, value_width, given = CASES[case]
    torch.manual_seed(len(case))
    q, k, v = (
        (2 * torch.randn(2, length, h, w, dtype=dtype)).transpose(1, 2).requires_grad_()
        for length, h, w in ((n, heads, width), (m, groups, width), (m, groups, value_width))
    )
    options = dict(given)
    if "bias" in given:
        options["bias"] = torch.randn(given["bias"], dtype=dtype, requires_grad=True)
    if "mask" in given:
        options["mask"] = torch.rand(given["mask"]) > 0.3
        options["mask"][0, 0, 3] = False
    if "key_mask" in given:
        holes = given["key_mask"] == "holes"
        options["key_mask"] = torch.arange(m) < torch.tensor([[m - 1], [0 if holes else m // 3]])
        if holes:
            options["key_mask"] &= torch.rand(2, m) > 0.3
    return [q, k, v], options


def outputs_and_gradients(function: Callable, tensors: list[Tensor], **options) -> list[Tensor]:
    """Output, log-sum-exp where it is finite, and the gradients of both by q, k, v and bias."""
    out, lse = function(*tensors, return_lse=True, **options)
    leaves = [*tensors, *([options["bias"]] if "bias" in options else [])]
    generator = torch.Generator().manual_seed(1)
    direction = torch.randn(out.shape, generator=generator, dtype=torch.float64).to(out.dtype)
    along = torch.randn(lse.shape, generator=generator, dtype=torch.float64).to(lse.dtype)
    total = (out * direction).sum() + (lse * along).masked_fill(lse.isneginf(), 0).sum()
    return [out, lse.masked_fill(lse.isneginf(), -7.0), *torch.autograd.grad(total, leaves, materialize_grads=True)]


@pytest.fixture
def watched(monkeypatch) -> None:
    """Looks on while the interpreter runs kernels: every access must lie in a tensor of the launch, no two programs may
    write to one place, none may read what the launch writes, and outputs must be filled. So no race, no stray access.
    """
    if REASON:
        return
    from triton.runtime import interpreter

    builder, run = interpreter.InterpreterBuilder, Launch.run
    load, store = builder.create_masked_load, builder.create_masked_store
    loads: list[np.ndarray] = []
    stores: dict[int, list[np.ndarray]] = {}

    def watched_load(self, pointers, mask, *rest):
        loads.append(pointers.data[np.broadcast_to(mask.data, pointers.data.shape)])
        return load(self, pointers, mask, *rest)

    def watched_store(self, pointers, value, mask, *rest):
        addresses = pointers.data[np.broadcast_to(mask.data, pointers.data.shape)]
        stores.setdefault(self.grid_idx[0], []).append(addresses)
        return store(self, pointers, value, mask, *rest)

    def watched_run(launch: Launch) -> None:
        loads.clear()
        stores.clear()
        run(launch)
        read = np.unique(np.concatenate([x.ravel() for x in loads]))
        owned = [np.unique(np.concatenate([x.ravel() for x in written])) for written in stores.values()]
        written = np.sort(np.concatenate(owned))
        assert (np.diff(written) > 0).all(), f"{launch.kernel.__name__}: two programs write to one place"
        assert not np.isin(read, written).any(), f"{launch.kernel.__name__}: a program reads what a program writes"
        for addresses in (read, written):
            inside = np.zeros(addresses.shape, bool)
            for x in filter(torch.is_tensor, launch.args.values()):
                span = 1 + sum((size - 1) * stride for size, stride in zip(x.shape, x.stride(), strict=True))
                here = (addresses >= x.data_ptr()) & (addresses < x.data_ptr() + span * x.element_size())
                inside |= here
                zeroed = x is launch.args.get("DBias") and launch.kernel.__name__ == "attention_backward"
                if addresses is written and here.any() and not zeroed:
                    assert here.sum() == x.numel(), f"{launch.kernel.__name__}: an output is not filled"
            assert inside.all(), f"{launch.kernel.__name__}: an access outside of every tensor"

    monkeypatch.setattr(builder, "create_masked_load", watched_load)
    monkeypatch.setattr(builder, "create_masked_store", watched_store)
    monkeypatch.setattr(Launch, "run", watched_run)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("case, dtype", [*((c, torch.float64) for c in CASES), ("padding, shared bias", torch.float32)])
def test_equals_the_oracle(case, dtype, backend, watched):
    tensors, options = problem(case, dtype)
    ours = outputs_and_gradients(attention, tensors, backend=backend, **options)
    oracle = outputs_and_gradients(attention_reference, tensors, **options)
    for a, b in zip(ours, oracle, strict=True):
        torch.testing.assert_close(a.double(), b.double(), atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])


@interpreted
@settings(max_examples=12, deadline=None, derandomize=True, phases=[Phase.generate])  # shrinking would take minutes
@given(
    batch=st.integers(1, 2),
    groups=st.integers(1, 2),
    per_group=st.integers(1, 2),
    n=st.integers(1, 40),
    m=st.integers(1, 40),
    width=st.sampled_from([1, 16, 24, 33]),
    causal=st.booleans(),
    shared=st.booleans(),
    window=st.none() | st.integers(1, 40),
    padded=st.booleans(),
    seed=st.integers(0, 99),
)
def test_any_shape_and_strides(batch, groups, per_group, n, m, width, causal, shared, window, padded, seed):
    torch.manual_seed(seed)
    q = torch.randn(batch, n, groups * per_group, width, dtype=torch.float64).transpose(1, 2)
    k = torch.randn(1 if shared else batch, groups, width, m, dtype=torch.float64).mT  # the last axis is not contiguous
    v = torch.randn(1 if shared else batch, m, groups, width, dtype=torch.float64).transpose(1, 2)
    k, v = (x.expand(batch, -1, -1, -1) for x in (k, v))
    key_mask = (torch.rand(batch, m) > 0.5) if padded else None
    ours, torchs = (
        attention(q, k, v, causal=causal, window=window, key_mask=key_mask, return_lse=True, backend=backend)
        for backend in ("triton", "torch")
    )
    torch.testing.assert_close(ours, torchs, atol=1e-12, rtol=1e-12)


@interpreted
def test_gradcheck_of_the_kernels():
    torch.manual_seed(0)
    q, k, v = (torch.randn(1, h, n, 3, dtype=torch.float64, requires_grad=True) for h, n in ((2, 5), (1, 18), (1, 18)))
    bias = torch.randn(1, 2, 1, 18, dtype=torch.float64, requires_grad=True)
    mask = torch.arange(18)[None] < 17

    def everything(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        return attention(q, k, v, bias=bias, key_mask=mask, causal=True, softcap=1.0, return_lse=True, backend="triton")

    assert torch.autograd.gradcheck(everything, (q, k, v, bias), fast_mode=True)
    qkv = torch.randn(1, 2, 4, 3, 1, 3, dtype=torch.float64, requires_grad=True)
    table = torch.randn(1, 4, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda x, b: window_attention(x, b, window=2, shift=1, backend="triton"), (qkv, table), fast_mode=True
    )


@interpreted
@pytest.mark.parametrize("n, m", [(1, 1), (35, 1), (1, 35), (23, 41)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_errs_at_most_twice_as_much_as_torch_does(n, m, dtype):
    """FlashAttention's rule: an error is judged by what the same formula loses in the same precision."""
    torch.manual_seed(n)
    q, k, v = (torch.randn(1, 2, length, 24).to(dtype).requires_grad_() for length in (n, m, m))
    ours, torchs = (outputs_and_gradients(attention, [q, k, v], backend=b) for b in ("triton", "torch"))
    for a, b, exact in zip(ours, torchs, outputs_and_gradients(attention_reference, [q, k, v]), strict=True):
        rounding = ((exact.to(dtype) + 0.3 - 0.3) - exact).abs().max()
        rounding += 8 * torch.finfo(torch.float32).eps  # with one key torch's weight is 1, ours exp2 of a difference
        assert (a - exact).abs().max() <= 2 * (b - exact).abs().max() + 2 * rounding


@pytest.mark.parametrize("backend", BACKENDS)
def test_padding_may_hold_anything(backend):
    q, k, v = (torch.randn(2, 2, n, 8) for n in (5, 20, 20))
    key_mask = torch.arange(20) < torch.tensor([[7], [0]])
    clean = attention(q, k, v, key_mask=key_mask, backend=backend)
    k, v = (x.masked_fill(~key_mask[:, None, :, None], float("nan")).requires_grad_() for x in (k, v))
    out = attention(q.requires_grad_(), k, v, key_mask=key_mask, backend=backend)
    torch.testing.assert_close(out, clean, atol=0, rtol=0)
    assert (out[1] == 0).all()  # an entry of padding alone
    gradients = torch.autograd.grad(out.sum(), (q, k, v))  # a sum's gradient has stride 0
    assert all(g.isfinite().all() for g in gradients)
    assert all((g.transpose(1, 2)[~key_mask] == 0).all() for g in gradients[1:])


@interpreted
def test_nan_among_real_keys_is_not_hidden():
    q, k, v = torch.randn(3, 1, 1, 4, 8).unbind(0)
    k[0, 0, 2, 0] = float("nan")
    assert attention(q, k, v, backend="triton").isnan().all()


MUTATIONS = {
    "missing rescale": ("o0 * rescale[:, None]", "o0"),
    "top-left causal": ("position = rows + (M - N)", "position = rows"),
    "base-2 log-sum-exp": ("(m + tl.log2(l)) * LN2", "m + tl.log2(l)"),
    "padding ignored": ("mask=key_ok, other=0) != 0", "mask=key_ok, other=0) >= 0"),
    "a tile skipped": ("d = tl.maximum(tl.cdiv(tl.maximum(high, 0), BLOCK), a)", "d = tl.maximum(high // BLOCK, a)"),
}


@contextmanager
def mutated(source: types.ModuleType, old: str, new: str, folder: Path) -> Iterator[None]:
    """Puts kernels with a planted bug in place of the real ones; the interpreter needs their source in a file."""
    text = Path(str(source.__file__)).read_text()
    assert old in text, f"{source.__name__} no longer says {old!r}"
    file = folder / "planted.py"
    file.write_text(text.replace(old, new).replace("from .kernels", "from tformerlib.attention.kernels.kernels"))
    spec = importlib.util.spec_from_file_location("planted", file)
    assert spec and spec.loader
    planted = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(planted)
    with pytest.MonkeyPatch.context() as patch:
        for name in vars(planted):
            if name.startswith(("attention_", "window_")):
                patch.setattr(source, name, getattr(planted, name))
        yield


@interpreted
@pytest.mark.parametrize("bug", MUTATIONS)
def test_the_oracle_catches_planted_bugs(bug, tmp_path):
    from tformerlib.attention.kernels import kernels

    torch.manual_seed(0)
    q, k, v = (torch.randn(1, 1, n, 8, dtype=torch.float64) for n in (17, 40, 40))
    options = {"causal": "causal" in bug, "return_lse": True}
    if bug == "padding ignored":
        options["key_mask"] = torch.arange(40)[None] != 20
    ours, oracle = attention(q, k, v, backend="triton", **options), attention_reference(q, k, v, **options)
    torch.testing.assert_close(ours, oracle, atol=1e-9, rtol=1e-9)
    with mutated(kernels, *MUTATIONS[bug], tmp_path):
        wrong = attention(q, k, v, backend="triton", **options)
    with pytest.raises(AssertionError, match="not close"):
        torch.testing.assert_close(wrong, oracle, atol=1e-3, rtol=1e-3)


@interpreted
@pytest.mark.parametrize(
    "old, new, message",
    [
        ("mask=(rows < N) & (keys < M), other=0.0)", "mask=keys < M, other=0.0)", "outside of every tensor"),
        ("block = blocks - 1 - block", "block = 0", "two programs write to one place"),
        ("store_rows(O + ", "if block > 0:\n        store_rows(O + ", "not filled"),
    ],
)
def test_the_watch_catches_planted_bugs(old, new, message, watched, tmp_path):
    from tformerlib.attention.kernels import kernels

    q, bias = torch.randn(1, 1, 33, 8), torch.randn(1, 1, 33, 33)
    with mutated(kernels, old, new, tmp_path), pytest.raises(AssertionError, match=message):
        attention(q, q, q, bias=bias, causal=True, backend="triton")


# Windows


def official_windows(qkv: Tensor, bias: Tensor, window: int, shift: int) -> Tensor:
    """Swin's own recipe, from its description: number the regions by slices, roll, attend window by window."""
    batch, height, width, _, heads, head_dim = qkv.shape
    regions = torch.zeros(height, width)
    borders = (slice(0, -window), slice(-window, -shift), slice(-shift, None)) if shift else (slice(None),)
    for i, rows in enumerate(borders):
        for j, columns in enumerate(borders):
            regions[rows, columns] = 3 * i + j
    rolled, out = qkv.roll((-shift, -shift), (1, 2)), qkv.new_empty(batch, height, width, heads, head_dim)
    for y in range(0, height, window):
        for x in range(0, width, window):
            tile = (slice(None), slice(y, y + window), slice(x, x + window))
            q, k, v = rolled[tile].flatten(1, 2).permute(2, 0, 3, 1, 4)
            region = regions[tile[1:]].flatten()
            scores = head_dim**-0.5 * q @ k.mT + bias - 100.0 * (region[:, None] != region)
            out[tile] = (scores.softmax(-1) @ v).transpose(1, 2).unflatten(1, (window, window))
    return out.roll((shift, shift), (1, 2))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    "window, shift, height, width, heads, head_dim",
    [(4, 2, 8, 12, 2, 24), (7, 3, 14, 7, 1, 32), (2, 1, 4, 4, 3, 40), (8, 0, 8, 16, 1, 16), (3, 1, 3, 3, 2, 5)],
)
def test_windows_equal_the_official_recipe(window, shift, height, width, heads, head_dim, backend, watched):
    torch.manual_seed(window)
    qkv = torch.randn(2, height, width, 3, heads, head_dim, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(heads, window**2, window**2, dtype=torch.float64, requires_grad=True)
    ours = window_attention(qkv, bias, window=window, shift=shift, backend=backend)
    official = official_windows(qkv, bias, window, shift)
    direction = torch.randn_like(ours)
    results = [(x, *torch.autograd.grad(x, (qkv, bias), direction)) for x in (ours, official)]
    torch.testing.assert_close(*results, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_border_token_reaches_only_its_window(backend):
    qkv = torch.randn(1, 8, 8, 3, 1, 4, requires_grad=True)
    out = window_attention(qkv, torch.zeros(1, 16, 16), window=4, shift=2, backend=backend)
    (reached,) = torch.autograd.grad(out[0, 0, 0].sum(), qkv)
    reached = reached.abs().amax((0, 3, 4, 5)) > 0
    assert reached[:2, :2].all() and reached.sum() == 4  # not the opposite borders that rolling brings beside it


@interpreted
def test_the_recipe_catches_a_planted_bug_in_windows(tmp_path):
    from tformerlib.attention.kernels import window_kernels

    qkv, bias = torch.randn(1, 4, 4, 3, 1, 8), torch.zeros(1, 4, 4)
    with mutated(window_kernels, "y >= HEIGHT - SHIFT", "y >= HEIGHT", tmp_path):
        wrong = window_attention(qkv, bias, window=2, shift=1, backend="triton")
    assert (wrong - official_windows(qkv, bias, 2, 1)).abs().max() > 1e-2
    right = window_attention(qkv, bias, window=2, shift=1, backend="triton")
    torch.testing.assert_close(right, official_windows(qkv, bias, 2, 1), atol=1e-5, rtol=1e-5)


# What PyTorch sees


@interpreted
def test_custom_ops_pass_opcheck():
    q, k, v = (torch.randn(1, 2, 3, 4, requires_grad=True) for _ in range(3))
    bias, mask = torch.randn(1, 1, 3, 3, requires_grad=True), torch.rand(1, 1, 3, 3) > 0.3
    torch.library.opcheck(fused_attention, (q, k, v, bias, mask, None, 0.5, True, 0, 0.0))
    qkv, table = torch.randn(1, 2, 2, 3, 1, 4, requires_grad=True), torch.randn(1, 4, 4, requires_grad=True)
    torch.library.opcheck(fused_window_attention, (qkv, table, 2, 1, 0.5))


@interpreted
def test_compiles_without_graph_break():
    q, bias = torch.randn(1, 2, 5, 8, requires_grad=True), torch.randn(2, 5, 5, requires_grad=True)
    qkv, table = torch.randn(1, 2, 2, 3, 1, 4), torch.randn(1, 4, 4, requires_grad=True)

    def model(q: Tensor, bias: Tensor, table: Tensor) -> Tensor:
        window = window_attention(qkv, table, window=2, shift=1, backend="triton")
        return attention(q, q, q, bias=bias, causal=True, backend="triton").sum() + window.square().sum()

    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    leaves = (q, bias, table)
    gradients = (torch.autograd.grad(function(*leaves), leaves) for function in (compiled, model))
    torch.testing.assert_close(*gradients)
    with record_attention() as weights:
        compiled(*leaves)
    assert [tuple(w.shape) for w in weights] == [(1, 1, 4, 4), (1, 2, 5, 5)]


@interpreted
def test_recording_hears_the_kernels():
    q = torch.randn(1, 2, 5, 8)
    with record_attention() as weights:
        out = attention(q, q, q, key_mask=torch.arange(5)[None] < 3, softcap=2.0, backend="triton")
        qkv, table = torch.randn(1, 2, 4, 3, 1, 4), torch.randn(1, 4, 4)
        for backend in ("triton", "torch"):
            window_attention(qkv, table, window=2, shift=1, backend=backend)
    torch.testing.assert_close(weights[0] @ q, out, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(weights[1], weights[2], atol=1e-6, rtol=1e-6)


def test_recording_hears_attention_written_out():
    q = torch.randn(1, 2, 5, 8)
    with record_attention() as weights:
        out, _ = attention(q, q, q, window=2, return_lse=True)
    torch.testing.assert_close(weights[0] @ q, out)
    torch.testing.assert_close(weights[0], attention_weights(q, q, torch.ones(5, 5).tril(1).triu(-1).bool()))


@interpreted
def test_a_second_derivative_is_refused_by_name():
    q, qkv = torch.randn(1, 1, 3, 4, requires_grad=True), torch.randn(1, 2, 2, 3, 1, 4, requires_grad=True)
    for x, out in (
        (q, attention(q, q, q, backend="triton")),
        (qkv, window_attention(qkv, torch.zeros(1, 4, 4), window=2, backend="triton")),
    ):
        (gradient,) = torch.autograd.grad(out.square().sum(), x, create_graph=True)
        with pytest.raises(NotImplementedError, match="no second derivative: use backend='torch'"):
            gradient.sum().backward()


def test_autocast_is_torchs_own():
    """float64 stays, as in torch's attention; the rest is cast."""
    x = torch.randn(2, 2, 3, 4, dtype=torch.float64)
    with torch.autocast("cpu", torch.bfloat16):
        for dtype in (torch.float64, torch.float32, torch.float16):
            y = torch.nn.functional.scaled_dot_product_attention(*[x.to(dtype)] * 3)
            assert autocast(x.to(dtype))[0].dtype == attention(*[x.to(dtype)] * 3).dtype == y.dtype


def test_tiles_count_in_32_bits_only_what_fits():
    """Rows that lie 2^23 elements apart are copied; so are maps, and a qkv whose map reaches too far is refused."""
    for strides, copied in (((0, 0, 2**23 - 1, 1), False), ((0, 0, 2**23, 1), True), ((0, 0, 1, 2**24), True)):
        x = torch.empty(1, device="meta").as_strided((1, 1, 128, 128), strides)
        assert (near(x) is not x) == copied and max(near(x).stride()[-2:]) * 128 < 2**31
    for strides in ((0, 2**28, 1), (0, 1, 2**28)):
        assert span(torch.empty(1, device="meta").as_strided((1, 9, 9), strides)) >= 2**31


@interpreted
@pytest.mark.parametrize(
    "call, message",
    [
        (lambda q: attention(q, q, q, dropout=0.1, backend="triton"), "the kernels have no dropout"),
        (lambda q: attention(q, q, q, scale=-1.0, backend="triton"), "scale is not a positive number"),
        (lambda q: attention(q, q, q.half(), backend="triton"), "q is torch.float32, .* v torch.float16"),
        (lambda q: attention(*[q.bfloat16()] * 3, backend="triton"), "bfloat16"),
        (lambda q: attention(*[q.repeat(1, 1, 1, 33)] * 3, backend="triton"), "wider than 256"),
        (lambda q: attention(*[q[:0]] * 3, backend="triton"), "a tensor is empty"),
        (lambda q: window_attention(torch.zeros(1, 9, 9, 3, 1, 4), torch.zeros(1, 81, 81), window=9, backend="triton"),
         "more than 64 tokens"),
    ],
)  # fmt: skip
def test_what_the_kernels_do_not_do_is_refused_by_name(call, message):
    with pytest.raises(NotImplementedError, match=f"backend='triton': .*{message}"):
        call(torch.randn(1, 2, 3, 8))


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda q: attention(q, q, q, window=0), ValueError, "window=0"),
        (lambda q: attention(q, q, q, softcap=0.0), ValueError, "softcap=0.0"),
        (lambda q: attention(q, q, q, backend="cuda"), ValueError, "backend='cuda'"),
        (lambda q: attention(q, q, q, key_mask=torch.ones(1, 3)), TypeError, "key_mask is torch.float32"),
        (lambda q: explain(q, q, q, key_mask=torch.ones(3, 1).bool()), ValueError, r"key_mask \(3, 1\)"),
        (lambda q: window_attention(q, q, window=2), ValueError, "qkv is"),
        (lambda q: window_attention(torch.zeros(1, 5, 4, 3, 1, 8), q, window=2), ValueError, r"map \(5, 4\): pad it"),
        (lambda q: window_attention(torch.zeros(1, 4, 4, 3, 1, 8), q, window=2, shift=2), ValueError, "shift=2"),
        (lambda q: window_attention(torch.zeros(1, 4, 4, 3, 1, 8), q, window=2), ValueError, "bias"),
    ],
)
def test_bad_input_is_refused_by_name(call, error, message):
    with pytest.raises(error, match=message):
        call(torch.randn(1, 2, 3, 8))


# Dispatch


@pytest.fixture
def gpu(monkeypatch) -> Iterator[Callable[[int], None]]:
    """Tensors that claim to be on a GPU, of an architecture to be chosen: enough for rules, which read no data."""
    monkeypatch.setattr(dispatch, "interpreted", lambda: False)

    def pretend(arch: int) -> None:
        monkeypatch.setattr(dispatch, "architecture", lambda device: arch)
        dispatch._unavailable.cache_clear()

    with torch._subclasses.FakeTensorMode():
        yield pretend
    dispatch._unavailable.cache_clear()


def on_gpu(length: int = 512, width: int = 64, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    return torch.empty(2, 4, length, width, dtype=dtype, device="cuda")


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")
def test_dispatch_follows_its_rules(gpu, monkeypatch):
    gpu(90)
    q, bias = on_gpu(), torch.empty(4, 512, 512, device="cuda", requires_grad=True)
    padding = torch.ones(2, 512, dtype=torch.bool, device="cuda")
    for options, path in (
        ({}, "sdpa"), ({"causal": True}, "sdpa"), ({"key_mask": padding}, "triton"), ({"bias": bias}, "triton"),
        ({"bias": bias.detach()}, "triton"), ({"bias": bias.detach().bfloat16()}, "sdpa"),
        ({"window": 64}, "triton"), ({"softcap": 30.0}, "triton"),
        ({"return_lse": True}, "triton"), ({"window": 64, "dropout": 0.1}, "sdpa"),
        ({"softcap": 30.0, "backend": "torch"}, "plain"), ({"backend": "triton"}, "triton"),
    ):  # fmt: skip
        assert explain(q, q, q, **options).path == path, options
    assert explain(on_gpu(1), q, q, key_mask=padding) == ("sdpa", "too few queries to fill a tile")
    assert explain(on_gpu(100), q, q, causal=True).path == "triton"
    wide = on_gpu(width=512)
    assert explain(wide, wide, wide, window=3) == ("sdpa", "a head is wider than 256")
    assert "float64" in explain(*[on_gpu(dtype=torch.float64)] * 3, window=3).reason
    single = on_gpu(dtype=torch.float32)
    assert explain(single, single, single, key_mask=padding).path == "sdpa"  # no tensor cores for exact products
    assert explain(single, single, single, softcap=30.0).path == "triton"  # the other way stores all scores
    table = {"90": {"64": {"forward": {"dense": {"256": 1.2, "4096": 0.9}, "causal": {"512": 0.99}}}}}
    monkeypatch.setattr(dispatch, "MEASURED", table)
    assert [explain(*[on_gpu(n)] * 3).path for n in (200, 512, 2048, 16384)] == ["triton", "triton", "sdpa", "sdpa"]
    assert explain(q, q, q, causal=True) == ("sdpa", "dense: PyTorch's were measured faster")
    assert "not measured" in explain(*[on_gpu(width=80)] * 3).reason
    gpu(75)
    assert "older than sm_80" in explain(q, q, q, key_mask=padding).reason


def test_on_a_cpu_everything_goes_through_torch():
    q = torch.randn(1, 2, 3, 8)
    assert str(explain(q, q, q)).startswith("sdpa: ") and explain(q, q, q, softcap=1.0).path == "plain"


def test_the_committed_table_was_measured():
    """Every ratio stands in a result that benchmarks/attention.py recorded: nobody typed one."""
    results = Path(package.__file__).parents[2] / "benchmarks" / "results"
    recorded = [json.loads(file.read_text()) for file in results.glob("*.json")]
    for arch, row in dispatch.MEASURED.items():
        found = any(result.get("dispatch", {}).get(arch) == row for result in recorded)
        assert found, f"nothing recorded holds sm_{arch}"


def test_head_widths_are_covered_by_powers_of_two():
    covered = {width: parts(width) for width in (1, 16, 24, 40, 64, 72, 80, 96, 112, 192, 256)}
    assert covered == {
        1: (16, 0), 16: (16, 0), 24: (32, 0), 40: (32, 16), 64: (64, 0), 72: (64, 16), 80: (64, 16), 96: (64, 32),
        112: (128, 0), 192: (128, 64), 256: (256, 0),
    }  # fmt: skip
    assert all(sum(parts(width)) >= width for width in range(1, 257))


# What the compiler makes of the kernels

compiles = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")


def fits(compiled) -> bool:
    limit = tiles.SHARED_MEMORY[max(arch for arch in tiles.SHARED_MEMORY if arch <= compiled.arch)]
    return compiled.shared <= 1024 * limit


@compiles
@pytest.mark.parametrize(
    "kernels, arch, width, length, spilled",
    [
        (["forward"], (80, 89, 90), 80, 1024, 0),  # 64 + 16
        (["backward"], (89, 90), 64, 1024, 0),
        (["window_forward", "window_backward"], (80, 90), 32, 7, 0),
    ],
)
def test_compiles_to_tensor_cores_within_limits(kernels, arch, width, length, spilled):
    """`spilled`: bytes of a thread that may leave its registers; 0 where a loop would wait for them."""
    for compiled in compile_kernels(*kernels, arch=arch, width=width, length=length):
        instruction = "wgmma.mma_async" if compiled.arch == 90 else "mma.sync"
        assert compiled.instructions[instruction] > 0 and fits(compiled) and compiled.spilled <= spilled, compiled[:-1]


@compiles
def test_an_older_gpu_gets_no_tensor_cores():
    (turing,) = compile_kernels("window_forward", arch=(75,), width=32, length=4)
    assert turing.instructions["mma.sync"] == 0 < turing.instructions["fma.rn.f32"]


@compiles
@pytest.mark.slow
@pytest.mark.parametrize("arch", [80, 89, 90])
@pytest.mark.parametrize("width", [32, 64, 96, 128, 256])
@pytest.mark.parametrize("features", [(), ("causal", "padding", "bias"), ("mask", "window", "softcap", "grouped")])
def test_every_tile_fits_its_card(arch, width, features):
    kernels = ["forward", "backward", *(["bias_gradient"] if "bias" in features else [])]
    for dtype in ("bfloat16", "float32", "tf32"):
        for compiled in compile_kernels(*kernels, arch=(arch,), width=width, dtype=dtype, features=features):
            assert fits(compiled), compiled[:-1]


@compiles
@pytest.mark.slow
@pytest.mark.parametrize("arch", [80, 89, 90])
@pytest.mark.parametrize("width, dtype", [(16, "bfloat16"), (64, "bfloat16"), (128, "bfloat16"), (32, "float32")])
def test_every_window_fits_its_card(arch, width, dtype):
    kernels = ("window_forward", "window_backward")
    for compiled in compile_kernels(*kernels, arch=(arch,), width=width, dtype=dtype, length=8):
        assert fits(compiled), compiled[:-1]
