"""compare_models finds planted bugs: four models, each held against an independent implementation, five bugs each."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from timm.models.swin_transformer import SwinTransformer
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from transformers import BertConfig, BertForPreTraining, GPT2Config, GPT2LMHeadModel

import tformerlib as tf
from tests.small import BERT, LANGUAGE, VIT, images, words
from tformerlib.peers.compare import compare_models
from tformerlib.peers.parity import widen


def vit() -> tuple[nn.Module, nn.Module, Any, str]:
    theirs = VisionTransformer(img_size=32, patch_size=8, num_classes=7, embed_dim=24, depth=3, num_heads=3)
    return tf.create_model("vit_base_patch16", **VIT), theirs, images(32)(), "timm"


def swin() -> tuple[nn.Module, nn.Module, Any, str]:
    size: dict[str, Any] = {"depths": (2, 2), "window_size": 4, "embed_dim": 12, "num_heads": (2, 3)}
    theirs = SwinTransformer(img_size=64, num_classes=7, **size)
    ours = tf.create_model("swin_tiny", image=64, classes=7, dim=12, depths=(2, 2), heads=(2, 3), window=4)
    return ours, theirs, images(64)(), "timm"


def bert() -> tuple[nn.Module, nn.Module, Any, str]:
    theirs = BertForPreTraining(BertConfig(  # type: ignore[call-arg]
        vocab_size=23, hidden_size=24, num_hidden_layers=3, num_attention_heads=3, intermediate_size=40,
        max_position_embeddings=13, hidden_act="gelu_new", attn_implementation="eager",
    ))  # fmt: skip
    return tf.create_model("bert_tiny", **BERT), theirs, words(11)(), "transformers"


def gpt2() -> tuple[nn.Module, nn.Module, Any, str]:
    theirs = GPT2LMHeadModel(
        GPT2Config(  # type: ignore[call-arg]
            vocab_size=23, n_embd=24, n_layer=3, n_head=3, n_positions=13, attn_implementation="eager"
        )
    )
    return tf.create_model("gpt2", **LANGUAGE, context=13), theirs, words(11)(), "transformers"


def attribute(path: str, name: str, value: Any) -> Callable[[nn.Module], None]:
    return lambda model: setattr(model.get_submodule(path), name, value)


def weight(path: str, change: Callable[[Tensor], Tensor]) -> Callable[[nn.Module], None]:
    def plant(model: nn.Module) -> None:
        parent, _, name = path.rpartition(".")
        p = getattr(model.get_submodule(parent), name)
        p.data = change(p.data)

    return plant


def replaced(path: str, make: Callable[[], nn.Module]) -> Callable[[nn.Module], None]:
    return lambda model: model.set_submodule(path, make())


def swapped(a: str, b: str) -> Callable[[nn.Module], None]:
    def plant(model: nn.Module) -> None:
        first, second = model.get_submodule(a), model.get_submodule(b)
        model.set_submodule(a, second)
        model.set_submodule(b, first)

    return plant


# name: model, bug, a part of the place that must be named, a word of the suspect ("" where the place is enough)
BUGS: dict[str, tuple[Any, Callable[[nn.Module], None], str, str]] = {
    "vit eps": (vit, attribute("blocks.1.mixer.norm", "eps", 1e-2), "blocks.1.mixer.norm", "eps"),
    "vit relu": (vit, replaced("blocks.1.mlp.fn.1", nn.ReLU), "blocks.1.mlp.fn", "ReLU"),
    "vit no bias": (vit, weight("blocks.2.mlp.fn.0.bias", torch.zeros_like), "blocks.2.mlp.fn.0", "bias"),
    "vit transposed": (
        vit, weight("blocks.0.mixer.fn.out.weight", lambda w: w.T.contiguous()), "blocks.0.mixer.fn.out", "transposed"),
    "vit scale": (vit, attribute("blocks.1.mixer.fn", "scale", 0.1), "blocks.1.mixer.fn", ""),
    "swin eps": (swin, attribute("stages.1.0.mlp.norm", "eps", 1e-2), "stages.1.0.mlp.norm", "eps"),
    "swin relu": (swin, replaced("stages.0.1.mlp.fn.1", nn.ReLU), "stages.0.1.mlp.fn", "ReLU"),
    "swin bias table": (swin, weight("stages.1.1.mixer.fn.bias.table", lambda t: t.flip(0)), "stages.1.1.mixer.fn", ""),
    "swin no shift": (swin, attribute("stages.0.1.mixer.fn", "shift", 0), "stages.0.1.mixer.fn", ""),
    "swin merge": (swin, weight("embed.1.reduce.weight", lambda w: w.roll(12, 1)), "embed.1.reduce", "weight"),
    "bert eps": (bert, attribute("blocks.0.mlp.norm", "eps", 1e-2), "blocks.0.mlp.norm", "eps"),
    "bert exact gelu": (bert, replaced("blocks.1.mlp.fn.1", lambda: nn.GELU()), "blocks.1.mlp.fn", "GELU"),
    "bert transposed": (
        bert, weight("blocks.1.mixer.fn.q.weight", lambda w: w.T.contiguous()), "blocks.1.mixer.fn.q", "transposed"),
    "bert swapped": (bert, swapped("blocks.2.mixer.fn.k", "blocks.2.mixer.fn.v"), "blocks.2.mixer.fn", "attention"),
    "bert causal": (bert, attribute("blocks.1.mixer.fn", "causal", True), "blocks.1.mixer.fn", "mask"),
    "gpt2 eps": (gpt2, attribute("blocks.2.mixer.norm", "eps", 1e-2), "blocks.2.mixer.norm", "eps"),
    "gpt2 relu": (gpt2, replaced("blocks.0.mlp.fn.1", nn.ReLU), "blocks.0.mlp.fn", "ReLU"),
    "gpt2 not causal": (gpt2, attribute("blocks.1.mixer.fn", "causal", False), "blocks.1.mixer.fn", "mask"),
    "gpt2 positions": (gpt2, weight("positions.weight", lambda w: w.roll(1, 0)), "positions", ""),
    "gpt2 norm": (gpt2, weight("norm.weight", torch.ones_like), "norm", "weight"),
}  # fmt: skip


def pair(make: Callable[[], tuple[nn.Module, nn.Module, Any, str]]) -> tuple[nn.Module, nn.Module, Any]:
    torch.manual_seed(0)
    ours, theirs, x, source = make()
    widen(theirs)
    tf.load_published(ours, theirs.eval().state_dict(), source=source)
    return ours.eval(), theirs, x


@pytest.mark.parametrize("make", [vit, swin, bert, gpt2])
def test_equal_models_agree(make: Any) -> None:
    found = compare_models(*pair(make))
    assert not found and "agree" in str(found), found


@pytest.mark.parametrize("bug", BUGS)
def test_a_planted_bug_is_found(bug: str) -> None:
    make, plant, place, suspect = BUGS[bug]
    ours, theirs, x = pair(make)
    plant(ours)
    found = compare_models(ours, theirs, x)
    near = found.place if found.within else f"{found.agreed} {found.place}"
    assert place in near, f"{bug}: {found}"
    assert suspect.lower() in found.suspect.lower(), f"{bug}: {found}"


def test_a_model_without_numbers_is_refused() -> None:
    class Silent(nn.Module):
        def forward(self, x: Tensor) -> str:
            return "nothing"

    with pytest.raises(ValueError, match="Silent returned no floating tensor"):
        compare_models(Silent(), Silent(), torch.zeros(1))
