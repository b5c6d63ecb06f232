"""CvT, ConViT, CMT, CoAtNet and UniFormer answer what timm, transformers and official code answer."""

import json
from typing import Any

import pytest
import timm
import torch
from timm.models.maxxvit import MaxxVit, MaxxVitCfg
from torch import Tensor, nn
from transformers import CvtConfig, CvtForImageClassification

import tformerlib as tf
from tests.models.golden.conv_attention import FILE
from tformerlib.models.cvt import QuickGELU
from tformerlib.peers.golden import assert_equal, rebuilt, uniform
from tformerlib.peers.parity import assert_parity, assert_same, widen


def images(height: int, width: int = 0, count: int = 2) -> Tensor:
    return torch.randn(count, 3, height, width or height, generator=torch.Generator().manual_seed(1))


def logits(model: Any, images: Tensor) -> Tensor:
    """Of transformers' models."""
    return model(pixel_values=images).logits


# CvT


def cvt(act: type[nn.Module] = QuickGELU, **config: Any) -> CvtForImageClassification:
    """transformers' CvT, which has GELU, with the activation of the released weights."""
    model = CvtForImageClassification(CvtConfig(**config))
    for module in model.modules():
        if hasattr(module, "activation"):
            module.activation = act()
    return model


def with_map(model: nn.Module) -> nn.Module:
    """Ours, made to return the mean of the last map beside the logits.

    The logits alone read the class token, so that the queries of the last block's patches would get no gradient.
    """
    model.register_forward_hook(lambda m, args, out: torch.cat([out, m.features(args[0])[-1].mean((1, 2))], 1))
    return model


def logits_and_map(model: Any, images: Tensor) -> Tensor:
    """The same of transformers' CvT."""
    out = model(pixel_values=images, output_hidden_states=True)
    return torch.cat([out.logits, out.hidden_states[-1].mean((2, 3))], 1)


NARROW: dict[str, Any] = {"dims": (16, 24, 32), "depths": (1, 1, 2), "heads": (1, 3, 4), "classes": 7}
CVT: dict[str, Any] = {"embed_dim": [16, 24, 32], "depth": [1, 2, 3], "num_heads": [1, 3, 4], "num_labels": 7}


@pytest.mark.parametrize("act", [QuickGELU, nn.GELU])
@pytest.mark.parametrize("size", [(64, 64), (96, 80)])
def test_cvt_equals_transformers(act, size):
    """An image of 80 leaves maps of odd sides, where the strided convolutions need their padding."""
    ours = tf.create_model("cvt_13", act=act, **NARROW | {"depths": (1, 2, 3)})
    assert_parity(with_map(ours), cvt(act, **CVT), "transformers", images(*size), call=logits_and_map)


def test_cvt_13_equals_transformers():
    """Of a single image transformers' class token gets a wrong gradient; finite differences agree with ours."""
    ours, theirs = tf.create_model("cvt_13"), cvt(num_labels=1000)
    x = images(112).double()
    assert_parity(with_map(ours), theirs, "transformers", x, call=logits_and_map, double=True)
    maps = theirs.cvt(pixel_values=x, output_hidden_states=True).hidden_states
    for s, (a, b) in enumerate(zip(ours.features(x), maps, strict=True)):
        assert_same(a, b.movedim(1, -1), f"map of stage {s + 1}")


def test_the_activation_of_cvt_matters():
    """Loading the released weights into transformers' model changes its answers by more than parity allows."""
    theirs = cvt(**CVT).eval()
    widen(theirs)
    ours = tf.create_model("cvt_13", act=nn.GELU, **NARROW | {"depths": (1, 2, 3)}).eval()
    tf.load_published(ours, theirs.state_dict())
    assert (ours(images(64)) - logits(theirs, images(64))).abs().max() > 1e-3


# ConViT


@pytest.mark.parametrize("heads, depth, free, image", [(4, 3, 1, 64), (9, 2, 2, 96), (16, 3, 2, 48)])
def test_convit_equals_timm(heads, depth, free, image):
    theirs = timm.models.convit.ConVit(
        img_size=image, embed_dim=6, num_heads=heads, depth=depth, local_up_to_layer=depth - free, num_classes=7
    )
    sizes: dict[str, Any] = {"dim": 6 * heads, "depth": depth, "free": free, "classes": 7}
    assert_parity(tf.create_model("convit_tiny", heads=heads, image=image, **sizes), theirs, "timm", images(image))


def test_convit_tiny_equals_timm():
    """In float64: a place weight's gradient is a sum over all pairs of tokens."""
    theirs = timm.create_model("convit_tiny")
    assert_parity(tf.create_model("convit_tiny"), theirs, "timm", images(224, count=1), double=True)


@pytest.mark.parametrize("heads", [4, 9])
def test_convit_starts_where_timms_starts(heads):
    theirs = timm.models.convit.ConVit(img_size=64, embed_dim=6, num_heads=heads, depth=2, local_up_to_layer=1)
    ours, twin = (tf.create_model("convit_tiny", heads=heads, image=64, dim=6 * heads, depth=2, free=1) for _ in "ab")
    tf.load_published(twin, theirs.state_dict(), source="timm")
    for name in ("place.weight", "v.weight", "gate"):
        mine, other = (model.get_parameter(f"blocks.0.mixer.fn.{name}") for model in (ours, twin))
        assert torch.equal(mine, other)


# CoAtNet


COATNET: dict[str, Any] = {"dims": (16, 32, 48, 64), "depths": (1, 2, 2, 1), "classes": 7}


@pytest.mark.parametrize("layout, image", [("CCTT", 64), ("CCTT", 96), ("CTTT", 64), ("CCCT", 64), ("TTTT", 64)])
def test_coatnet_equals_timm(layout, image):
    config = MaxxVitCfg(
        embed_dim=COATNET["dims"], depths=COATNET["depths"], block_type=tuple(layout), stem_width=8, head_hidden_size=64
    )
    theirs = MaxxVit(config, img_size=image, num_classes=7, transformer_dim_head=8)
    ours = tf.create_model("coatnet_0_224", image=image, layout=layout, stem=8, head_dim=8, **COATNET)
    assert_parity(ours, theirs, "timm", images(image))


def test_coatnet_0_equals_timm():
    ours = tf.create_model("coatnet_0_224")
    theirs = timm.create_model("coatnet_0_224")
    assert_parity(ours, theirs, "timm", images(224, count=1))
    maps = theirs.forward_intermediates(images(224, count=1), intermediates_only=True)[1:]
    for s, (a, b) in enumerate(zip(ours.features(images(224, count=1)), maps, strict=True)):
        assert_same(a, b.movedim(1, -1), f"map of stage {s + 1}")


# official code, by recorded numbers


CASES = {name: case for each in json.loads(FILE.read_text("utf-8")).values() for name, case in each["cases"].items()}


@pytest.mark.parametrize("name", CASES)
def test_equals_the_official_code(name):
    assert_equal(CASES[name])


def test_a_wrong_model_is_noticed():
    """GELU for QuickGELU, heads of another width, a depthwise convolution left out."""
    for name, wrong in (
        ("cvt", {"act": nn.GELU}),
        ("uniformer", {"head_dim": 8}),
        ("uniformer, overlapping", {"head_dim": 16}),
    ):
        case = CASES[name]
        images = 2 * uniform("images", (3, 3, case["side"], case["side"]))
        with torch.no_grad():
            said = rebuilt(case | {"size": case["size"] | wrong})(images)
        assert (said - torch.tensor(case["logits"])).abs().max() > 1e-3
    case = CASES["cmt"]
    model: Any = rebuilt(case)
    model.stages[0][0].mlp.fn.mix = nn.Identity()
    images = 2 * uniform("images", (3, 3, 64, 64))
    assert (model(images) - torch.tensor(case["logits"])).abs().max() > 1e-3
