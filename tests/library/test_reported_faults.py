"""Right values where public bug reports, fuzzing or other suites found wrong ones: attention, layers, text."""

import subprocess
import sys
from functools import partial

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from tformerlib import data
from tformerlib.attention import attention, attention_reference, attention_weights, record_attention
from tformerlib.decoding.sampling import generate, probabilities
from tformerlib.layers.blocks import Attention, DropPath, KVCache
from tformerlib.layers.positions import Rotary
from tformerlib.models.gpt2 import GPT2

HALVES = (torch.bfloat16, torch.float16)


def heads(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator).to(dtype) for _ in range(3)]


# --- half precision -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", HALVES)
def test_rotary_scores_depend_on_the_offset_alone_in_a_half_model(dtype: torch.dtype) -> None:
    rotary = Rotary(64).to(dtype)
    q, k = torch.randn(2, 1, 1, 1, 64, generator=torch.Generator().manual_seed(0)).to(dtype)
    scores = [
        (rotary.rotate(q, n + 3).float() * rotary.rotate(k, n).float()).sum().item() for n in (0, 10, 1000, 20000)
    ]
    exact = (Rotary(64).double().rotate(q.double(), 3) * Rotary(64).double().rotate(k.double(), 0)).sum().item()
    assert scores == pytest.approx([exact] * 4, abs=0.15)


@pytest.mark.parametrize("dtype", HALVES)
def test_rotary_rounds_once(dtype: torch.dtype) -> None:
    x = torch.randn(1, 1, 300, 32, generator=torch.Generator().manual_seed(1)).to(dtype)
    assert torch.equal(Rotary(32).rotate(x), Rotary(32).rotate(x.float()).to(dtype))


@pytest.mark.parametrize("dtype", HALVES)
def test_scores_keep_their_precision_under_autocast(dtype: torch.dtype) -> None:
    q, k, v = heads(1, 2, 5, 16, dtype=dtype)
    exact, lse = attention(q.double(), k.double(), v.double(), softcap=3.0, return_lse=True)
    with torch.autocast("cpu", dtype):
        out, found = attention(q, k, v, softcap=3.0, return_lse=True)
    assert found.dtype == torch.float32 and (found - lse).abs().max() < 1e-5
    assert (out - exact).abs().max() < (0.02 if dtype == torch.bfloat16 else 0.003)


@pytest.mark.parametrize("dtype", HALVES)
def test_a_float32_bias_is_not_rounded(dtype: torch.dtype) -> None:
    q, k, v = heads(1, 2, 5, 16, dtype=dtype)
    bias = 100 + torch.randn(1, 2, 5, 5, generator=torch.Generator().manual_seed(2))  # a half number has steps of 0.5
    exact = attention_reference(q.double(), k.double(), v.double(), bias=bias.double())
    assert (attention(q, k, v, bias=bias) - exact).abs().max() < (0.02 if dtype == torch.bfloat16 else 0.003)
    large = torch.zeros(5, 5)
    large[:, 0] = 7e4  # above what float16 holds
    assert attention(q, k, v, bias=large).isfinite().all()


# --- masks ----------------------------------------------------------------------------------------------------------


def test_causal_weights_are_aligned_as_attention_is() -> None:
    q, k, v = heads(1, 2, 6, 8)
    last = q[:, :, -2:]
    weights = attention_weights(last, k, causal=True)
    assert torch.allclose(weights @ v, attention(last, k, v, causal=True), atol=1e-6)
    assert (weights[:, :, 0, -1] == 0).all() and (weights[:, :, 1] > 0).all()
    with record_attention() as seen:  # torch's own function aligns the first rows, and is recorded as it is
        out = nn.functional.scaled_dot_product_attention(last, k, v, is_causal=True)
    assert torch.allclose(seen[0] @ v, out, atol=1e-6)


def test_masks_and_biases_of_fewer_axes_broadcast_on_every_path() -> None:
    q, k, v = heads(2, 2, 4, 8)
    row = torch.tensor([True, False, True, True])
    full = row.expand(2, 2, 4, 4)
    for extra in ({}, {"softcap": 5.0}, {"window": 3}, {"causal": True}):
        expected = attention(q, k, v, mask=full, **extra)
        assert torch.allclose(attention(q, k, v, mask=row, **extra), expected, atol=1e-6)
        assert torch.equal(attention(q, k, v, mask=torch.tensor(True), **extra), attention(q, k, v, **extra))
        shifted = attention(q, k, v, bias=torch.tensor(2.0), **extra)
        assert torch.allclose(shifted, attention(q, k, v, **extra), atol=1e-5)  # a constant changes no softmax


@pytest.mark.parametrize("scale", [0.0, -0.7])
def test_a_scale_that_is_not_positive_hides_what_causal_hides(scale: float) -> None:
    q, k, v = heads(1, 2, 5, 8)
    exact = attention_reference(q.double(), k.double(), v.double(), causal=True, scale=scale)
    assert torch.allclose(attention(q, k, v, causal=True, scale=scale).double(), exact, atol=1e-6)


def test_a_cap_without_end_is_refused() -> None:
    with pytest.raises(ValueError, match="softcap=inf is not a positive number"):
        attention(*heads(1, 1, 2, 4), softcap=float("inf"))


# --- derivatives ----------------------------------------------------------------------------------------------------


def test_second_derivatives_are_those_of_the_formula() -> None:
    inputs = tuple(x.double().requires_grad_() for x in heads(1, 2, 3, 4))
    causal = partial(attention, causal=True, backend="math")
    assert torch.autograd.gradgradcheck(causal, inputs)


def test_forward_derivatives_work_by_themselves() -> None:
    q, k, v = (x.double() for x in heads(1, 2, 3, 4))
    along = torch.func.jvp(lambda q: attention(q, k, v), (q,), (torch.ones_like(q),))[1]
    step = 1e-6
    numeric = (attention(q + step, k, v) - attention(q - step, k, v)) / (2 * step)
    assert torch.allclose(along, numeric, atol=1e-8)


def test_activation_checkpoints_change_nothing() -> None:
    layer, x = Attention(16, 4, causal=True), torch.randn(2, 5, 16, requires_grad=True)
    plain = torch.autograd.grad(layer(x).square().sum(), [x, *layer.parameters()])
    kept = torch.autograd.grad(checkpoint(layer, x, use_reentrant=False).square().sum(), [x, *layer.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(plain, kept, strict=True))


def test_output_gradients_of_stride_zero() -> None:
    inputs = [x.requires_grad_() for x in heads(1, 2, 5, 8)]
    out = attention(*inputs)
    expanded = torch.autograd.grad(out, inputs, torch.ones(()).expand(out.shape), retain_graph=True)
    dense = torch.autograd.grad(out, inputs, torch.ones(out.shape))
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(expanded, dense, strict=True))


def test_an_empty_batch_goes_forward_and_back() -> None:
    layer = Attention(8, 2)
    out = layer(torch.zeros(0, 3, 8, requires_grad=True))
    out.sum().backward()
    assert out.shape == (0, 3, 8) and all(p.grad is not None and not p.grad.any() for p in layer.parameters())


def test_sixty_five_thousand_tokens() -> None:
    q, long = torch.ones(1, 1, 3, 4), torch.randn(2, 1, 1, 65_537, 4, generator=torch.Generator().manual_seed(0))
    k, v = long[0], long[1]
    exact = (torch.softmax((q.double() @ k.double().mT) / 2, -1) @ v.double()).float()
    assert torch.allclose(attention(q, k, v), exact, atol=1e-6)


# --- caches and writing ---------------------------------------------------------------------------------------------


def test_a_cache_of_other_rows_is_refused() -> None:
    cache = KVCache(4)
    cache.extend(torch.zeros(2, 1, 1, 4), torch.zeros(2, 1, 1, 4))
    with pytest.raises(ValueError, match=r"\(1, 1, 1, 4\) does not fit a cache of \(2, 1, 4, 4\)"):
        cache.extend(torch.zeros(1, 1, 1, 4), torch.zeros(1, 1, 1, 4))


def test_several_tokens_on_a_cache_under_a_random_mask() -> None:
    layer, x = Attention(16, 4, causal=True).eval(), torch.randn(2, 9, 16)
    mask = torch.rand(2, 1, 9, 9, generator=torch.Generator().manual_seed(0)) > 0.3
    mask |= torch.eye(9, dtype=torch.bool)
    with torch.no_grad():
        whole, cache, parts = layer(x, mask=mask), KVCache(9), []
        for start, end in ((0, 2), (2, 3), (3, 7), (7, 9)):
            parts.append(layer(x[:, start:end], mask=mask[:, :, start:end, :end], cache=cache))
    assert torch.allclose(torch.cat(parts, 1), whole, atol=1e-6)


def test_top_p_stops_where_the_sum_is_reached() -> None:
    p = probabilities(torch.tensor([0.5, 0.3, 0.1, 0.1]).log(), top_p=0.8)
    assert p.tolist() == pytest.approx([0.625, 0.375, 0, 0])
    assert (probabilities(torch.zeros(50), top_p=0.5) > 0).sum() == 25


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"prompts": [1, 2, 3]}, "prompts are a list of lists"),
        ({"prompts": torch.tensor([1, 2])}, "prompts are a list of lists"),
        ({"prompts": [[1]], "end": [1, 2]}, r"end=\[1, 2\] is not one id"),
    ],
)
def test_prompts_and_ends_of_another_kind_are_named(arguments: dict, message: str) -> None:
    model = GPT2(vocab=7, dim=8, depth=1, heads=1, context=9)
    with pytest.raises(ValueError, match=message):
        generate(model, **{"tokens": 2} | arguments)


def test_a_writer_of_nan_is_refused() -> None:
    model = GPT2(vocab=7, dim=8, depth=1, heads=1, context=9)
    nn.init.constant_(model.norm.weight, float("nan"))
    with pytest.raises(ValueError, match="NaN after 0 tokens"):
        generate(model, [[1]], tokens=2, temperature=0)


# --- text -----------------------------------------------------------------------------------------------------------


def test_ids_outside_the_vocabulary_are_refused() -> None:
    words = data.Vocabulary(["a", "b"])
    for wrong in (-100, -1, 6):
        with pytest.raises(ValueError, match=f"id {wrong} is not in the vocabulary, 0 .. 5"):
            words.decode([4, wrong])


def test_unknown_words_are_unknown_in_any_order_of_special_tokens() -> None:
    pieces = data.word_piece(["the cat sat"] * 3, 60, special=("[UNK]", "[PAD]"))
    assert pieces.encode("xyz").tokens == ["[UNK]"]
    with pytest.raises(ValueError, match=r"lacks \[UNK\]"):
        data.word_piece(["the cat"], 60, special=("[PAD]", "[CLS]"))


def test_chinese_characters_are_words() -> None:
    pieces = data.word_piece(["中 文 字"] * 3, 60)
    assert pieces.encode("中文字").tokens == ["中", "文", "字"]


def test_a_batch_of_padding_is_trimmed_to_nothing() -> None:
    full, empty = torch.tensor([[4, 5, 0], [4, 0, 0]]), torch.zeros(2, 3, dtype=torch.long)
    trimmed = data.trim((full, empty))
    assert [tuple(x.shape) for x in trimmed] == [(2, 2), (2, 0)]


# --- small things ---------------------------------------------------------------------------------------------------


def test_drop_path_says_its_rate() -> None:
    assert repr(DropPath(0.123)) == "DropPath(p=0.123)"


def test_attention_is_light_to_import() -> None:
    code = (
        "import torch, sys; before = set(sys.modules); import tformerlib.attention;"
        "print([m for m in ('torch._dynamo', 'triton', 'sympy') if m in set(sys.modules) - before])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
