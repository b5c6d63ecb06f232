"""attention() against a float64 oracle that shares no code with it, gradients included."""

import itertools
import threading

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tformerlib.attention import attention, attention_reference, attention_weights, record, record_attention
from tformerlib.layers.blocks import Attention, KVCache
from tformerlib.layers.positions import Rotary

SHAPES = [(5, 5), (3, 5), (5, 3), (1, 4)]  # queries, keys


def tensors(n: int, m: int, groups: int, bias: bool, mask: bool) -> tuple[list[Tensor], dict[str, Tensor]]:
    """Wide random inputs: q, k, v with a value width of their own, and masks of which one row sees nothing."""
    torch.manual_seed(n * 100 + m * 10 + groups)
    qkv = [2 * torch.randn(2, h, length, width) for h, length, width in ((4, n, 8), (groups, m, 8), (groups, m, 6))]
    extras: dict[str, Tensor] = {}
    if bias:
        extras["bias"] = torch.randn(1, 4, n, m)
    if mask:
        extras["mask"] = torch.rand(2, 1, n, m) > 0.4
        extras["mask"][0, 0, 0] = False
    return qkv, extras


@pytest.mark.parametrize("recorded", [False, True])
@pytest.mark.parametrize(
    "bias,mask,causal,shape,groups,scale",
    list(itertools.product([False, True], [False, True], [False, True], SHAPES, [4, 2, 1], [None, 0.3])),
)
def test_equals_the_oracle(bias, mask, causal, shape, groups, scale, recorded):
    qkv, extras = tensors(*shape, groups, bias, mask)
    leaves = [t.requires_grad_() for t in (*qkv, *(x for x in extras.values() if x.is_floating_point()))]
    weights: list[Tensor] = []
    if recorded:
        with record_attention() as weights:
            ours = attention(*qkv, **extras, causal=causal, scale=scale)
    else:
        ours = attention(*qkv, **extras, causal=causal, scale=scale)
    oracle = attention_reference(*qkv, **extras, causal=causal, scale=scale)
    torch.testing.assert_close(ours.double(), oracle, atol=1e-5, rtol=1e-5)
    direction = torch.randn_like(ours)
    for a, b in zip(
        torch.autograd.grad(ours, leaves, direction, materialize_grads=True),
        torch.autograd.grad(oracle, leaves, direction.double(), materialize_grads=True),
        strict=True,
    ):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)
    for w in weights:  # what was recorded is what was applied
        torch.testing.assert_close(w @ qkv[2].repeat_interleave(4 // groups, 1), ours.detach(), atol=1e-5, rtol=1e-5)
    assert len(weights) == recorded


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    batch=st.integers(1, 3),
    groups=st.sampled_from([1, 2, 3]),
    per_group=st.sampled_from([1, 2]),
    n=st.integers(1, 9),
    m=st.integers(1, 9),
    width=st.sampled_from([1, 4, 7]),
    causal=st.booleans(),
    seed=st.integers(0, 999),
)
def test_any_shape_and_strides(batch, groups, per_group, n, m, width, causal, seed):
    torch.manual_seed(seed)
    q = torch.randn(batch, n, groups * per_group, width).transpose(1, 2)  # strided, as the head split leaves it
    k, v = torch.randn(2, batch, m, groups, width).transpose(2, 3)
    mask = torch.rand(1, 1, 1, m) > 0.3  # broadcast over queries and heads
    ours, oracle = (f(q, k, v, mask=mask, causal=causal) for f in (attention, attention_reference))
    torch.testing.assert_close(ours.double(), oracle, atol=1e-5, rtol=1e-5)


def test_a_row_that_sees_nothing_gives_zeros_and_finite_gradients():
    q, k, v = torch.randn(3, 1, 2, 4, 8, requires_grad=True).unbind(0)
    out = attention(q, k, v, mask=torch.zeros(4, 4, dtype=torch.bool))
    assert (out == 0).all()
    assert all(torch.isfinite(g).all() for g in torch.autograd.grad(out.sum(), (q, k, v)))


@pytest.mark.parametrize(
    "bad, error, message",
    [
        (lambda q: attention(q[0], q, q), ValueError, r"\(batch, heads, tokens, width\)"),
        (lambda q: attention(q, q[:, :, :3], q), ValueError, "do not fit together"),
        (lambda q: attention(q, q[:, :3], q[:, :3]), ValueError, "4 query heads are not a multiple of 3"),
        (lambda q: attention(q, q, q, mask=torch.zeros(5, 5)), TypeError, "mask is torch.float32"),
        (lambda q: attention(q, q, q, bias=torch.ones(5, 5, dtype=torch.bool)), TypeError, "bias is torch.bool"),
        (lambda q: attention(q, q, q, mask=torch.ones(5, 4, dtype=torch.bool)), ValueError, "does not broadcast"),
        (lambda q: attention(q, q, q, dropout=1.0), ValueError, "dropout=1.0"),
    ],
)
def test_refuses_by_name(bad, error, message):
    with pytest.raises(error, match=message):
        bad(torch.randn(2, 4, 5, 8))


def test_recording_nests_and_hears_other_implementations():
    q = torch.randn(1, 2, 5, 8)
    theirs = nn.TransformerEncoderLayer(8, 2, batch_first=True)
    with record_attention() as outer:
        attention(q, q, q)
        with record_attention() as inner:
            F.scaled_dot_product_attention(q, q, q, is_causal=True)
            record(torch.full((1, 1, 1, 2), 0.5))
        theirs(q[0])
    attention(q, q, q)
    assert [tuple(w.shape) for w in inner] == [(1, 2, 5, 5), (1, 1, 1, 2)]
    assert len(outer) >= 3
    assert (inner[0].triu(1) == 0).all() and not inner[0].requires_grad


def test_recording_is_private_to_a_thread():
    q, heard, inside = torch.randn(1, 1, 3, 4), [], threading.Event()

    def other() -> None:
        with record_attention() as weights:
            inside.wait(5)
            attention(q, q, q)
            heard.append(len(weights))

    thread = threading.Thread(target=other)
    thread.start()
    with record_attention() as mine:
        inside.set()
        thread.join()
        attention(q, q, q)
    assert heard == [1] and len(mine) == 1


def test_recording_changes_no_result_even_with_dropout():
    q = torch.randn(2, 2, 6, 8)
    torch.manual_seed(0)
    plain = attention(q, q, q, dropout=0.5)
    torch.manual_seed(0)
    with record_attention():
        recorded = attention(q, q, q, dropout=0.5)
    assert torch.equal(plain, recorded)


def test_compiles_without_graph_break_and_still_records():
    q = torch.randn(1, 2, 5, 8)
    compiled = torch.compile(lambda q: attention(q, q, q, causal=True), fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(q), attention(q, q, q, causal=True))
    with record_attention() as weights:
        compiled(q)
    torch.testing.assert_close(weights[0], attention_weights(q, q, causal=True))


def test_multi_head_attention_equals_torchs():
    torch.manual_seed(0)
    theirs, ours = nn.MultiheadAttention(24, 4, batch_first=True), Attention(24, 4)
    for p in theirs.parameters():
        nn.init.normal_(p, std=0.3)
    weights = zip("qkv", theirs.in_proj_weight.chunk(3), theirs.in_proj_bias.chunk(3), strict=True)
    state = {f"{name}.{part}": t for name, w, b in weights for part, t in (("weight", w), ("bias", b))}
    ours.load_state_dict(state | {f"out.{name}": p for name, p in theirs.out_proj.named_parameters()})
    x, memory, mask = torch.randn(3, 5, 24), torch.randn(3, 7, 24), torch.rand(3, 7) > 0.3
    expected, _ = theirs(x, memory, memory, key_padding_mask=~mask)
    torch.testing.assert_close(ours(x, memory, mask=mask[:, None, None]), expected, atol=2e-6, rtol=2e-6)


@pytest.mark.parametrize("kv_heads, on_heads", [(4, None), (1, None), (4, Rotary(4))])
def test_cached_equals_full(kv_heads, on_heads):
    torch.manual_seed(0)
    attn = Attention(16, 4, kv_heads=kv_heads, causal=True, on_heads=on_heads)
    x, cache = torch.randn(2, 7, 16), KVCache(7)
    with torch.no_grad():
        steps = [attn(chunk, cache=cache) for chunk in x.split([3, 1, 1, 2], 1)]
    torch.testing.assert_close(torch.cat(steps, 1), attn(x), atol=1e-5, rtol=1e-5)


def test_cache_allocates_once_reorders_and_refuses_overflow():
    cache, k = KVCache(4), torch.randn(3, 2, 1, 5)
    first, _ = cache.extend(k, k)
    second, _ = cache.extend(k + 1, k + 1)
    assert first.data_ptr() == second.data_ptr() and cache.length == 2
    cache.reorder(torch.tensor([2, 2, 0]))
    kept, _ = cache.extend(k, k)
    torch.testing.assert_close(kept[:, :, 0], k[[2, 2, 0], :, 0])
    with pytest.raises(ValueError, match="5 tokens do not fit a cache of capacity 4"):
        cache.extend(k.repeat(1, 1, 2, 1), k.repeat(1, 1, 2, 1))
    with pytest.raises(RuntimeError, match="no_grad"):
        KVCache(2).extend(k.requires_grad_(), k)


def test_projected_memory_equals_memory():
    attn, x, memory = Attention(16, 4), torch.randn(2, 3, 16), torch.randn(2, 5, 16)
    torch.testing.assert_close(attn(x, kv=attn.keys_values(memory)), attn(x, memory))


def test_heads_must_divide():
    with pytest.raises(ValueError, match="heads=5 does not divide dim=16"):
        Attention(16, 5)
    with pytest.raises(ValueError, match="kv_heads=3 does not divide heads=4"):
        Attention(16, 4, kv_heads=3)
