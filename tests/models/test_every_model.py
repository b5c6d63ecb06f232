"""What holds for every model of the registry, walked: a file of tformerlib/models that is added later is walked too."""

import io
import itertools
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from transformers import (
    BertConfig,
    BertForPreTraining,
    ConditionalDetrConfig,
    ConditionalDetrForObjectDetection,
    DetrConfig,
    DetrForObjectDetection,
    GPT2Config,
    GPT2LMHeadModel,
    OpenAIGPTConfig,
    OpenAIGPTLMHeadModel,
    ResNetConfig,
)

import tformerlib as tf
from tests.small import SMALL, loss, tensors
from tformerlib.layers.blocks import DropPath
from tformerlib.peers.parity import widen
from tformerlib.registry import module_of

each = pytest.mark.parametrize("paper", SMALL)

# parameters that no output of the small model depends on, and why
UNUSED: dict[str, tuple[str | tuple[str, ...], str]] = {
    "squeezebert": ("pooler.", "it serves a head for whole sentences, which is not built"),
    "cct": ("pool.score.bias", "a softmax over tokens does not change with what is added to all scores"),
    "ceit": ("blocks.2.mlp.", "the last block's patches are read by nothing: only class tokens leave it"),
    "detr": ("decoder.0.attn.fn.v.weight", "the first layer's queries are zeros, and only their places differ"),
    "conditional_detr": ("decoder.0.attn.fn.", "the same"),
    "dab_detr": ("decoder.0.attn.fn.", "the same"),
    "spatial_transformer": (
        ("transformers.", "body.0.weight"),
        "wide weights turn the view out of the image; its parity test has them",
    ),
    "cvt": ("stages.2.2.mixer.fn.q.", "the class token's query passes no convolution, and the last block has no other"),
}


def fresh(paper: str, **more: Any) -> nn.Module:
    """The small model with wide weights in eval mode: fresh ones are so small that mistakes hide, or are zero."""
    model = SMALL[paper].build(**more)
    widen(model)
    return model.eval()


def same(a: Any, b: Any, tolerance: float = 0.0) -> None:
    for x, y in zip(tensors(a), tensors(b), strict=True):
        torch.testing.assert_close(x, y, rtol=0, atol=tolerance * max(1.0, y.abs().max().item()))


def test_every_paper_is_walked() -> None:
    files = {module_of(name).stem for name in tf.list_models() if module_of(name).parent.name == "models"}
    assert files == set(SMALL), "a row in tests/small.py for each file of tformerlib/models"


# --- outputs ----------------------------------------------------------------------------------------------------------


@each
def test_a_seed_makes_a_model_and_a_file_keeps_it(paper: str) -> None:
    x = SMALL[paper].inputs()
    first, second = SMALL[paper].build(seed=3).eval(), SMALL[paper].build(seed=3).eval()
    same(first(*x), second(*x))
    other = SMALL[paper].build(seed=4).eval()
    assert any(not torch.equal(a, b) for a, b in zip(first.parameters(), other.parameters(), strict=True))
    torch.save(first.state_dict(), file := io.BytesIO())
    file.seek(0)
    other.load_state_dict(torch.load(file, weights_only=True))
    same(other(*x), first(*x))


# CXV's linear attention scales by maxima over the whole batch, as the official code does, and says so
@pytest.mark.parametrize("paper", [paper for paper in SMALL if paper != "cxv"])
def test_an_example_does_not_see_the_others_of_its_batch(paper: str) -> None:
    model = fresh(paper).double()
    x = tuple(part.double() if part.is_floating_point() else part for part in SMALL[paper].inputs())
    both = tensors(model(*x))
    for i in range(2):
        alone = tensors(model(*(part[i : i + 1] for part in x)))
        for a, b in zip(alone, both, strict=True):
            for axis in (d for d in range(b.ndim) if a.shape[d] == 1 and b.shape[d] == 2):
                b = b.narrow(axis, i, 1)
            same([a], [b], 1e-9)


@each
def test_every_parameter_gets_a_gradient(paper: str) -> None:
    model = fresh(paper).train()
    loss(model(*SMALL[paper].inputs())).backward()
    idle = [n for n, p in model.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())]
    prefix, _ = UNUSED.get(paper, ((), ""))
    assert [name for name in idle if not name.startswith(prefix)] == []


@each
def test_half_precision_by_autocast_goes_forward_and_back(paper: str) -> None:
    model = SMALL[paper].build().train()
    with torch.autocast("cpu", torch.bfloat16):
        value = loss(model(*SMALL[paper].inputs()))
    value.backward()
    assert value.isfinite() and all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


# --- training mode ----------------------------------------------------------------------------------------------------


@contextmanager
def dropped() -> Iterator[Counter[tuple[float, tuple[int, ...]]]]:
    """Counts what dropout is applied to, by probability and shape; weights of attention as (B, H, N, M)."""
    found: Counter[tuple[float, tuple[int, ...]]] = Counter()
    plain, fused = F.dropout, F.scaled_dot_product_attention

    def dropout(x: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
        if training and p:
            found[round(p, 6), tuple(x.shape)] += 1
        return plain(x, p, training, inplace)

    def attention(q: Tensor, k: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        p = kwargs.get("dropout_p", args[2] if len(args) > 2 else 0.0)
        if p:
            found[round(p, 6), (*q.shape[:-1], k.shape[-2])] += 1
        return fused(q, k, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(F, "dropout", dropout)
        patch.setattr(F, "scaled_dot_product_attention", attention)
        yield found


@each
def test_train_and_eval_differ_by_what_is_random_alone(paper: str) -> None:
    """With nothing to drop and norms that use what they have stored, training mode changes no number."""
    model = fresh(paper)
    silence(model)
    x = SMALL[paper].inputs()
    expected = model(*x)
    model.train()
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()
    out = model(*x)
    if paper in ("deit", "efficientformer"):  # they answer twice in training, and in eval with the mean
        out = sum(tensors(out)) / 2
    same(out, expected, 1e-6)


def silence(model: nn.Module) -> None:
    """Sets every probability of dropout and drop path to 0."""
    for module in model.modules():
        if isinstance(module, nn.Dropout | DropPath):
            module.p = 0.0
        for name in ("dropout", "attention_dropout"):
            if isinstance(vars(module).get(name), float):
                setattr(module, name, 0.0)


BESIDE: dict[str, tuple[str, ...]] = {  # what is never skipped, or is the second of two trunks
    "ceit": ("attend_layers",), "efficient_vit": ("encoder.", "large.", "rounds."), "segmenter": ("decoder.",),
}  # fmt: skip
WITH_PATHS = [name for name in tf.list_models() if "drop_path" in tf.registry.parameters_of(name)]


@pytest.mark.parametrize("name", WITH_PATHS)
def test_drop_path_rises_in_even_steps(name: str) -> None:
    """Over all blocks, from nothing to the rate that was asked for; both sublayers of a block have the block's."""
    with torch.device("meta"):
        model = tf.create_model(name, drop_path=0.3)
    beside = BESIDE.get(module_of(name).stem, ())
    rates = [m.p for n, m in model.named_modules() if isinstance(m, DropPath) and not n.startswith(beside)]
    stair = [rate for rate, _ in itertools.groupby(rates)]
    if module_of(name).stem == "cvt":  # the last stage alone (official code)
        stair = [rate for rate, _ in itertools.groupby(rates[rates.index(0.0) + rates.count(0.0) - 1 :])]
    if module_of(name).stem == "hrformer":  # branches side by side have the same rates
        stair = sorted(set(rates))
    assert stair == sorted(stair)
    steps = [round(b - a, 6) for a, b in itertools.pairwise(stair)]
    if module_of(name).stem in ("efficientnet", "efficient_vit"):  # i / n of the rate; blocks without a skip have none
        assert stair[0] > 0 and 0.2 < stair[-1] < 0.3 and all(round(b / min(steps), 4) % 1 == 0 for b in steps)
    else:
        assert stair[0] == 0.0 and len(set(steps)) == 1 and stair[-1] == pytest.approx(0.3)


WITHOUT_PATH = {
    "ceit": ("attend_layers.",),  # attention over the layers' class tokens is skipped never (official code)
    "hrformer": ("stem.", "widen."),  # bottlenecks of the stem and before the head have none (official code)
    "efficientnet": ("trunk.blocks.0.", "trunk.blocks.1."),  # other sizes go out than came in: there is no skip
    "efficient_vit": ("tokens.trunk.blocks.0.", "tokens.trunk.blocks.1.", "encoder."),
}


@pytest.mark.parametrize("paper", [p for p, s in SMALL.items() if "drop_path" in tf.registry.parameters_of(s.name)])
def test_a_dropped_path_leaves_the_skip_alone(paper: str) -> None:
    """With every path dropped nothing inside a branch gets a gradient: no sublayer goes round its drop path."""
    model = fresh(paper).train()
    paths = [module for module in model.modules() if isinstance(module, DropPath)]
    assert paths
    for path in paths:
        path.p = 1 - 1e-12
    loss(model(*SMALL[paper].inputs())).backward()
    live = [n for n, p in model.named_parameters() if p.grad is not None and p.grad.any()]
    inside, outside = ("attn.", ".fn.", ".branch."), ("shortcut", *WITHOUT_PATH.get(paper, ()))
    assert [n for n in live if any(part in n for part in inside) and not any(part in n for part in outside)] == []


# --- where dropout sits and how weights begin: as others have it ------------------------------------------------------


def vit_of_timm() -> nn.Module:
    return VisionTransformer(
        img_size=32, patch_size=8, num_classes=7, embed_dim=24, depth=3, num_heads=3, pos_drop_rate=0.2,
        proj_drop_rate=0.2,
    )  # fmt: skip


def detr_of_transformers(kind: type, config: type, width: str) -> nn.Module:
    backbone = ResNetConfig(  # type: ignore[call-arg]
        layer_type="bottleneck", out_features=["stage4"], hidden_sizes=[8, 12, 16, 24], depths=[1] * 4, embedding_size=8
    )
    return kind(config(
        backbone_config=backbone, use_timm_backbone=False, use_pretrained_backbone=False, backbone=None,
        encoder_layers=2, decoder_layers=3, encoder_attention_heads=4, decoder_attention_heads=4, encoder_ffn_dim=40,
        decoder_ffn_dim=40, num_queries=9, dropout=0.2, attention_dropout=0.2, activation_dropout=0.2, num_labels=5,
        attn_implementation="eager", **{width: 32},
    ))  # fmt: skip


BODY: dict[str, Any] = {"vocab_size": 23, "attn_implementation": "eager"}
PEERS: dict[str, tuple[dict[str, Any], Any]] = {
    "bert": ({"dropout": 0.2}, lambda: BertForPreTraining(BertConfig(
        hidden_size=24, num_hidden_layers=3, num_attention_heads=3, intermediate_size=40, max_position_embeddings=13,
        hidden_dropout_prob=0.2, attention_probs_dropout_prob=0.2, **BODY))),
    "gpt": ({"dropout": 0.2}, lambda: OpenAIGPTLMHeadModel(OpenAIGPTConfig(
        n_embd=24, n_layer=3, n_head=3, n_positions=13, embd_pdrop=0.2, resid_pdrop=0.2, attn_pdrop=0.2, **BODY))),
    "gpt2": ({"dropout": 0.2}, lambda: GPT2LMHeadModel(GPT2Config(
        n_embd=24, n_layer=3, n_head=3, n_positions=13, embd_pdrop=0.2, resid_pdrop=0.2, attn_pdrop=0.2, **BODY))),
    "vit": ({"dropout": 0.2}, vit_of_timm),
    "detr": ({"dropout": 0.2}, lambda: detr_of_transformers(DetrForObjectDetection, DetrConfig, "d_model")),
    "conditional_detr": ({"dropout": 0.2}, lambda: detr_of_transformers(
        ConditionalDetrForObjectDetection, ConditionalDetrConfig, "d_model")),
}  # fmt: skip


SMALL_MAP = (2, 4, 32)  # two images of 64 x 64 at stride 32


@pytest.mark.parametrize("paper", PEERS)
def test_dropout_sits_where_others_have_it(paper: str) -> None:
    """As often, on as many numbers, with the same probability."""
    overrides, theirs = PEERS[paper]
    x = SMALL[paper].inputs()
    with dropped() as mine:
        SMALL[paper].build(**overrides).train()(*x)
    with dropped() as others:
        theirs().train()(*x)
    count = lambda found: Counter((p, torch.Size(shape).numel()) for (p, shape), n in found.items() for _ in range(n))  # noqa: E731
    if paper.endswith("detr"):  # transformers drops what enters its encoder; paper and official code do not
        others[0.2, SMALL_MAP] -= 1
    assert count(mine) == count(others) and mine


FRESH: dict[str, tuple[str, dict[str, Any], Any]] = {  # our name and size, and who else builds it
    "swin_tiny": ("timm", {"depths": (2, 2), "heads": (3, 6)},
                  lambda: timm.create_model("swin_tiny_patch4_window7_224", depths=(2, 2), num_heads=(3, 6))),
    "swinv2_tiny_window8": ("timm", {"depths": (2, 2), "heads": (3, 6)},
                            lambda: timm.create_model("swinv2_tiny_window8_256", depths=(2, 2), num_heads=(3, 6))),
    "deit_tiny_distilled": ("timm", {"depth": 2},
                            lambda: timm.create_model("deit_tiny_distilled_patch16_224", depth=2)),
    "vit_tiny_patch16": ("timm", {"depth": 2}, lambda: timm.create_model("vit_tiny_patch16_224", depth=2)),
    "pvt_v2_b0": ("timm", {}, lambda: timm.create_model("pvt_v2_b0")),
    "convit_tiny": ("timm", {}, lambda: timm.create_model("convit_tiny")),
    "resnet18": ("timm", {}, lambda: timm.create_model("resnet18", zero_init_last=False)),
    "bert_tiny": ("transformers", {"vocab": 500}, lambda: BertForPreTraining(BertConfig(
        vocab_size=500, hidden_size=128, num_hidden_layers=2, num_attention_heads=2, intermediate_size=512))),
    "gpt": ("transformers", {"vocab": 500, "dim": 192, "depth": 3, "heads": 3}, lambda: OpenAIGPTLMHeadModel(
        OpenAIGPTConfig(vocab_size=500, n_embd=192, n_layer=3, n_head=3))),
    "gpt2": ("transformers", {"vocab": 500, "dim": 192, "depth": 3, "heads": 3}, lambda: GPT2LMHeadModel(
        GPT2Config(vocab_size=500, n_embd=192, n_layer=3, n_head=3))),
}  # fmt: skip
# heads for new classes: the papers' codes begin them at zero or at s.d. 0.02, timm as it begins any layer;
# class tokens are too few numbers to have a deviation
OTHERWISE = ("head.", "prefix")


@pytest.mark.parametrize("name", FRESH)
def test_fresh_weights_have_the_spread_that_others_give_them(name: str) -> None:
    """Mean and deviation of every parameter, within what so many draws scatter; constants are equal."""
    source, size, make = FRESH[name]
    torch.manual_seed(0)
    ours, theirs = tf.create_model(name, **size), tf.create_model(name, **size)
    tf.load_published(theirs, make().state_dict(), source=source)
    for (label, a), peer in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        b = peer.detach()
        if label.startswith(OTHERWISE):
            continue
        if (name, label) == ("gpt2", "positions.weight"):  # the paper's code has half of what transformers has
            b = b / 2
        if a.numel() == 1 or b.std() == 0:
            assert torch.allclose(a, b), f"{label}: {a.flatten()[:3]}, theirs {b.flatten()[:3]}"
            continue
        n = a.numel()
        assert abs(a.std() / b.std() - 1) < 7.5 / (2 * n) ** 0.5, f"{label}: s.d. {a.std():.4f}, theirs {b.std():.4f}"
        assert abs(a.mean() - b.mean()) < 9 * b.std() / n**0.5, f"{label}: mean {a.mean():.4f}, theirs {b.mean():.4f}"
