"""Same weights, same images: the same logits, maps and gradients as timm's and transformers' PVT, Swin and Swin V2."""

from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn
from transformers import (
    PvtConfig,
    PvtForImageClassification,
    SwinConfig,
    SwinForImageClassification,
    Swinv2Config,
    Swinv2ForImageClassification,
)
from transformers.models.swin import modeling_swin
from transformers.models.swinv2 import modeling_swinv2

import tformerlib as tf
from tformerlib.peers.parity import assert_parity, assert_same, widen

OURS: dict[str, Any] = {"dim": 32, "depths": (1, 1, 2, 1), "heads": (2, 4, 8, 16), "classes": 7}
TIMMS: dict[str, Any] = {"embed_dim": 32, "depths": (1, 1, 2, 1), "num_heads": (2, 4, 8, 16), "num_classes": 7}
CONFIG: dict[str, Any] = {"embed_dim": 32, "depths": [1, 1, 2, 1], "num_heads": [2, 4, 8, 16], "num_labels": 7}


def images(side: int, count: int = 2) -> Tensor:
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(1))


def logits(model: Any, images: Tensor) -> Tensor:
    """Of transformers' models."""
    return model(pixel_values=images).logits


# Swin


@pytest.mark.parametrize("name", ["swin_tiny", "swin_small"])
def test_swin_equals_timm(name):
    assert_parity(tf.create_model(name), timm.create_model(f"{name}_patch4_window7_224"), "timm", images(224, 1))


@pytest.mark.parametrize("image, window", [(128, 4), (96, 3), (96, 6), (160, 5), (64, 16)])
def test_swin_equals_timm_at_other_sizes(image, window):
    theirs = timm.models.swin_transformer.SwinTransformer(img_size=image, window_size=window, **TIMMS)
    ours = tf.create_model("swin_tiny", image=image, window=window, **OURS)
    assert_parity(ours, theirs, "timm", images(image))
    maps = theirs.forward_intermediates(images(image))[1]
    for s, (a, b) in enumerate(zip(ours.features(images(image)), maps, strict=True)):
        assert_same(a, b.movedim(1, -1), f"map of stage {s + 1}")


def neighbors(h: int, w: int, window: int, shift: int) -> Tensor:
    """The oracle: bool (windows, window^2, window^2) of the padded, rolled map, from the tokens' coordinates alone.

    Two tokens see each other if both stand on the map and in the same cell of the grid of lines at shift + i * window.
    """
    y, x = torch.meshgrid(torch.arange(h + -h % window), torch.arange(w + -w % window), indexing="ij")
    nobody = 1 + torch.arange(y.numel()).view_as(y)  # a number of its own for each token of the padding
    cell = torch.stack([(y - shift) // window, (x - shift) // window, torch.where((y < h) & (x < w), 0, nobody)])
    cell = cell.roll((-shift, -shift), (1, 2)).unfold(1, window, window).unfold(2, window, window)
    cell = cell.flatten(3).flatten(1, 2)  # (3, windows, window^2)
    return (cell[..., :, None] == cell[..., None, :]).all(0)


@pytest.fixture
def masked_by_coordinates(monkeypatch) -> None:
    """transformers' Swin and Swin V2 with the oracle for a mask, in unshifted layers too."""
    real: dict[int, tuple[int, int]] = {}

    def remember(pad):
        def maybe_pad(self, x, height, width):
            real[id(self)] = (int(height), int(width))
            return pad(self, x, height, width)

        return maybe_pad

    def mask(self, height, width, dtype, device=None):
        seen = neighbors(*real[id(self)], int(self.window_size), int(self.shift_size))
        return torch.zeros(seen.shape).masked_fill(~seen, -1e4)

    for layer in (modeling_swin.SwinLayer, modeling_swinv2.Swinv2Layer):
        monkeypatch.setattr(layer, "maybe_pad", remember(layer.maybe_pad))
        monkeypatch.setattr(layer, "get_attn_mask", mask)


@pytest.mark.parametrize("image, window", [(128, 4), (160, 3), (192, 4), (288, 7)])
def test_swin_equals_transformers_masked_by_coordinates(image, window, masked_by_coordinates):
    theirs = SwinForImageClassification(SwinConfig(image_size=image, window_size=window, **CONFIG))
    ours = tf.create_model("swin_tiny", image=image, window=window, **OURS)
    assert_parity(ours, theirs, "transformers", images(image), call=logits)


def test_swin_equals_transformers_as_published():
    theirs = SwinForImageClassification(SwinConfig(num_labels=1000))
    assert_parity(tf.create_model("swin_tiny"), theirs, "transformers", images(224, 1), call=logits)


# Swin V2


@pytest.mark.parametrize("window", [8, 16])
def test_swin_v2_equals_timm(window):
    theirs = timm.create_model(f"swinv2_tiny_window{window}_256")
    assert_parity(tf.create_model(f"swinv2_tiny_window{window}"), theirs, "timm", images(256, 1))


SIZES = pytest.mark.parametrize(
    "image, window, pretrained", [(128, 4, None), (96, 6, None), (128, 8, (4, 4, 4, 2)), (160, 5, None)]
)


def swin_v2(image: int, window: int, pretrained: tuple[int, ...] | None) -> tuple[nn.Module, nn.Module]:
    ours = tf.create_model("swinv2_tiny_window8", image=image, window=window, pretrained=pretrained, **OURS)
    options: dict[str, Any] = {
        "img_size": image,
        "window_size": window,
        "pretrained_window_sizes": pretrained or (0, 0, 0, 0),
    }
    return ours, timm.models.swin_transformer_v2.SwinTransformerV2(**options, **TIMMS)


@SIZES
def test_swin_v2_equals_timm_at_other_sizes(image, window, pretrained):
    assert_parity(*swin_v2(image, window, pretrained), "timm", images(image))


@SIZES
def test_swin_v2_equals_timm_around_the_clamp(image, window, pretrained):
    """Factors on both sides of 100 make choices so hard that single precision does not bear it: in double precision."""
    ours, theirs = swin_v2(image, window, pretrained)
    widen(theirs)
    for name, p in theirs.named_parameters():
        if name.endswith("logit_scale"):
            nn.init.uniform_(p, 3.0, 6.0)
    tf.load_published(ours, theirs.state_dict(), source="timm")
    assert max(p.max().item() for name, p in ours.named_parameters() if name.endswith("log_scale")) > 4.7  # log 100
    ours, theirs, x = ours.double().eval(), theirs.double().eval(), images(image).double()
    torch.testing.assert_close(ours(x), theirs(x), atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("image, window", [(128, 4), (96, 4), (160, 7)])
def test_swin_v2_equals_transformers_masked_by_coordinates(image, window, masked_by_coordinates):
    theirs = Swinv2ForImageClassification(Swinv2Config(image_size=image, window_size=window, **CONFIG))
    ours = tf.create_model("swinv2_tiny_window8", image=image, window=window, **OURS)
    assert_parity(ours, theirs, "transformers", images(image), call=logits)


# PVT


def pvt(**config: Any) -> PvtForImageClassification:
    """With the epsilons of the official code: 1e-6 in blocks and at the end, 1e-5 in embeddings and reductions."""
    model = PvtForImageClassification(PvtConfig(layer_norm_eps=1e-6, **config))
    for name, module in model.named_modules():
        if isinstance(module, nn.LayerNorm) and ("patch_embeddings" in name or "attention" in name):
            module.eps = 1e-5
    return model


@pytest.mark.parametrize("name, depths", [("pvt_tiny", [2, 2, 2, 2]), ("pvt_small", [3, 4, 6, 3])])
def test_pvt_equals_transformers(name, depths):
    theirs = pvt(depths=depths, num_labels=1000)
    assert_parity(tf.create_model(name), theirs, "transformers", images(224, 1), call=logits)


@pytest.mark.parametrize("image", [96, 160])
def test_pvt_equals_transformers_at_other_sizes(image):
    theirs = pvt(image_size=image, depths=[1, 1, 2, 1], hidden_sizes=[16, 32, 40, 64], num_labels=7)
    ours = tf.create_model("pvt_tiny", image=image, depths=(1, 1, 2, 1), dims=(16, 32, 40, 64), classes=7)
    assert_parity(ours, theirs, "transformers", images(image), call=logits)
