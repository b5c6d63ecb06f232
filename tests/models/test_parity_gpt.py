"""Same weights, same ids: the same logits and gradients as transformers' GPT, GPT-2, GPT-2 with bands, and GPT-Neo."""

from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import tformerlib as tf
from tformerlib.layers.blocks import Attention, PostNorm
from tformerlib.models.gpt import GPT
from tformerlib.models.gpt2 import GPT2
from tformerlib.models.gpt3 import GPT3
from tformerlib.peers import prepare

prepare()
from transformers import (  # noqa: E402
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoConfig,
    GPTNeoForCausalLM,
    OpenAIGPTConfig,
    OpenAIGPTLMHeadModel,
)

SIZES = [(23, 32, 2, 4, 12), (50, 48, 3, 3, 20), (101, 20, 1, 1, 9)]  # vocabulary, width, layers, heads, context
each_size = pytest.mark.parametrize("size", SIZES, ids=lambda size: "-".join(map(str, size)))


def ours_of(size: tuple[int, ...]) -> dict[str, Any]:
    return dict(zip(("vocab", "dim", "depth", "heads", "context"), size, strict=True)) | {"dropout": 0.0}


def theirs_of(size: tuple[int, ...]) -> dict[str, Any]:
    vocab, dim, depth, heads, context = size
    return {
        "vocab_size": vocab, "n_embd": dim, "n_layer": depth, "n_head": heads, "n_positions": context,
        "attn_pdrop": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0, "bos_token_id": None, "eos_token_id": None,
    }  # fmt: skip


def widen(model: Any) -> Any:
    """Weights far from where training starts: small ones hide errors, as every softmax is then nearly uniform."""
    torch.manual_seed(0)
    for name, p in model.named_parameters():
        nn.init.normal_(p, mean=float("ln_" in name and name.endswith("weight")), std=0.3)
    return model


def ids_for(size: tuple[int, ...]) -> Tensor:
    torch.manual_seed(1)
    return torch.randint(size[0], (3, size[4]))


def assert_same(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=2e-5)


def assert_equal(ours: nn.Module, twin: nn.Module, theirs: Any, ids: Tensor, source: str) -> None:
    """Logits and the gradient of every parameter; `twin` carries their gradients under our names."""
    logits, expected = ours(ids), theirs(ids).logits
    assert expected.std() > 1
    assert_same(logits, expected)
    for out in (logits, expected):
        F.cross_entropy(out[:, :-1].flatten(0, 1), ids[:, 1:].flatten()).backward()
    tf.load_published(twin, {key: p.grad for key, p in theirs.named_parameters()}, source=source)
    for (name, p), g in zip(ours.named_parameters(), twin.parameters(), strict=True):
        assert p.grad is not None and p.grad.abs().max() > 0, name
        assert_same(p.grad, g.detach())


@each_size
def test_gpt_equals_transformers(size):
    theirs = widen(OpenAIGPTLMHeadModel(OpenAIGPTConfig(**theirs_of(size))))
    ours, twin = GPT(**ours_of(size)), GPT(**ours_of(size))
    tf.load_published(ours, theirs.state_dict())
    assert_equal(ours, twin, theirs, ids_for(size), "transformers")


@each_size
@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_gpt2_equals_transformers(size, implementation):
    theirs = widen(GPT2LMHeadModel(GPT2Config(**theirs_of(size), attn_implementation=implementation)))
    ours, twin = GPT2(**ours_of(size)), GPT2(**ours_of(size))
    tf.load_published(ours, theirs.state_dict())
    assert_equal(ours, twin, theirs, ids_for(size), "transformers")


def banded(theirs: Any, window: int, context: int) -> Any:
    """Their GPT-2 with an explicit mask in every second block: key m is seen from m .. m + window - 1."""
    allowed = torch.tensor([[0 <= n - m < window for m in range(context)] for n in range(context)])
    mask = torch.zeros(context, context).masked_fill(~allowed, float("-inf"))[None, None]

    def narrow(block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        n = args[0].shape[1]
        return args, kwargs | {"attention_mask": mask[..., :n, :n]}

    for block in theirs.transformer.h[1::2]:
        block.attn.register_forward_pre_hook(narrow, with_kwargs=True)
    return theirs


@pytest.mark.parametrize("window", [1, 3, 12, 50])
def test_gpt3_equals_gpt2_with_a_band_mask(window):
    size = (50, 48, 4, 3, 20)
    theirs = widen(banded(GPT2LMHeadModel(GPT2Config(**theirs_of(size), attn_implementation="eager")), window, 20))
    ours, twin = (GPT3(**ours_of(size), window=window) for _ in range(2))
    tf.load_published(ours, theirs.state_dict())
    assert_equal(ours, twin, theirs, ids_for(size), "transformers")


def test_gpt3_equals_gpt_neo():
    """Its local attention is somebody else's idea of a band; it has no biases on q, k, v and no scale."""
    config = GPTNeoConfig(
        vocab_size=50, hidden_size=48, num_layers=4, attention_types=[[["global", "local"], 2]], num_heads=3,
        max_position_embeddings=20, window_size=5, bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    theirs = widen(GPTNeoForCausalLM(config).eval())
    neo = partial(Attention, qkv_bias=False, scale=1.0)
    ours, twin = (GPT3(**ours_of((50, 48, 4, 3, 20)), window=5, attention=neo) for _ in range(2))
    tf.load_published(ours, theirs.state_dict(), source="gpt-neo")
    assert_equal(ours, twin, theirs, ids_for((50, 48, 4, 3, 20)), "gpt-neo")


def test_files_as_they_come():
    """Without the prefix, with the masks that old files hold, with the tied matrix once; and nothing is dropped."""
    size = SIZES[0]
    theirs = widen(GPT2LMHeadModel(GPT2Config(**theirs_of(size))))
    ids, expected = ids_for(size), theirs(ids_for(size)).logits
    body = dict(theirs.transformer.state_dict())
    old = {f"h.{i}.attn.{name}": torch.ones(1) for i in range(2) for name in ("bias", "masked_bias")}
    assert_same(tf.load_published(GPT2(**ours_of(size)), body | old)(ids), expected)
    with pytest.raises(KeyError, match=r"no rule for 'h\.0\.attn\.extra'"):
        tf.load_published(GPT2(**ours_of(size)), body | {"h.0.attn.extra": torch.ones(1)})
    with pytest.raises(RuntimeError, match="blocks.1.mlp.norm.bias"):
        tf.load_published(GPT2(**ours_of(size)), {k: v for k, v in body.items() if k != "h.1.ln_2.bias"})
    with pytest.raises(ValueError, match="known sources: gpt-neo, transformers"):
        tf.load_published(GPT3(**ours_of(size)), body, source="official")


def test_parity_catches_a_gpt_that_is_nearly_right():
    """Mistakes that people make: each must show far above the tolerance, or the tests above prove little."""
    size = SIZES[1]
    theirs = widen(GPT2LMHeadModel(GPT2Config(**theirs_of(size))))
    ids, expected = ids_for(size), theirs(ids_for(size)).logits

    def error(ours: nn.Module) -> float:
        return (ours(ids) - expected).abs().max().item()

    def load(**wrong: Any) -> GPT2:
        return tf.load_published(GPT2(**(ours_of(size) | wrong)), theirs.state_dict())

    assert error(load()) < 1e-4
    assert error(load(windows=(None, 19))) > 1e-2  # a band that hides one key from one query
    assert error(load(heads=2)) > 1e-2
    no_norm, erf = load(), load()
    no_norm.norm = nn.Identity()
    assert error(no_norm) > 1e-2
    for block in erf.blocks:
        block.mlp.fn[1] = nn.GELU()
    assert error(erf) > 2e-4  # the smallest mistake of all is still ten times the tolerance
    post = load()
    for i, block in enumerate(post.blocks):
        for name in ("mixer", "mlp"):
            pre = getattr(block, name)
            branch = PostNorm(48, pre.fn)
            branch.norm = pre.norm
            setattr(post.blocks[i], name, branch)
    assert error(post) > 1e-2
