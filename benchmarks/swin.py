"""Swin, Swin V2 and PVT beside models of the same size and weights: training steps."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import tformerlib as tf
from tformerlib.peers import prepare

from .models import Pair, step

SMALL: dict[str, Any] = {"depths": (2, 2, 2), "dim": 48, "heads": (2, 4, 8), "classes": 10}  # a chapter's size


def swin_tiny(image: int = 224, **overrides: Any) -> tuple[nn.Module, nn.Module]:
    """Ours and timm's Swin-T with equal weights."""
    prepare()
    import timm

    theirs = timm.create_model("swin_tiny_patch4_window7_224", img_size=image, drop_path_rate=0.0, **overrides)
    ours = tf.create_model("swin_tiny", image=image, drop_path=0.0)
    return tf.load_published(ours, theirs.state_dict(), source="timm"), theirs


def swin_small_images() -> tuple[nn.Module, nn.Module]:
    """A Swin for images of 32 x 32, as chapters train it."""
    prepare()
    from timm.models.swin_transformer import SwinTransformer

    theirs = SwinTransformer(
        img_size=32, patch_size=2, window_size=4, embed_dim=SMALL["dim"], depths=SMALL["depths"],
        num_heads=SMALL["heads"], num_classes=10, drop_path_rate=0.0,
    )  # fmt: skip
    ours = tf.create_model("swin_tiny", image=32, patch=2, window=4, drop_path=0.0, **SMALL)
    return tf.load_published(ours, theirs.state_dict(), source="timm"), theirs


def swinv2_tiny() -> tuple[nn.Module, nn.Module]:
    """Ours and timm's SwinV2-T with windows of 8 x 8."""
    prepare()
    import timm

    theirs = timm.create_model("swinv2_tiny_window8_256", drop_path_rate=0.0)
    ours = tf.create_model("swinv2_tiny_window8", drop_path=0.0)
    return tf.load_published(ours, theirs.state_dict(), source="timm"), theirs


class Logits(nn.Module):
    """A model of transformers that returns its logits alone."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        return self.model(pixel_values=images).logits


def pvt_tiny() -> tuple[nn.Module, nn.Module]:
    """Ours and transformers' PVT-Tiny; timm has no PVT v1."""
    prepare()
    from transformers import PvtConfig, PvtForImageClassification

    config = PvtConfig(num_labels=1000, drop_path_rate=0.0, hidden_dropout_prob=0.0, layer_norm_eps=1e-6)
    theirs = PvtForImageClassification(config)
    ours = tf.load_published(tf.create_model("pvt_tiny", drop_path=0.0), theirs.state_dict())
    return ours, Logits(theirs)


PAIRS: dict[str, tuple[Callable[[], tuple[nn.Module, nn.Module]], str, int, int]] = {  # with image and batch
    "Swin-T, 224 x 224": (swin_tiny, "timm", 224, 4),
    "Swin, 32 x 32": (swin_small_images, "timm", 32, 64),
    "SwinV2-T, 256 x 256": (swinv2_tiny, "timm", 256, 4),
    "PVT-Tiny, 224 x 224": (pvt_tiny, "transformers", 224, 4),
}


def pairs() -> Iterator[Pair]:
    """All that is timed. PVT is only nearly equal: transformers has one epsilon for all norms."""
    for name, (make, peer, image, batch) in PAIRS.items():
        yield training_step(name, make, peer, image, batch)


def training_step(
    name: str, make: Callable[[], tuple[nn.Module, nn.Module]], peer: str, image: int, batch: int
) -> Pair:
    """Cross-entropy on random images; the logits are compared first."""
    torch.manual_seed(0)
    ours, theirs = make()
    images, labels = torch.randn(batch, 3, image, image), torch.randint(10, (batch,))
    with torch.no_grad():
        tolerance = 1e-4 if "Swin" in name else 1e-2
        torch.testing.assert_close(ours.eval()(images), theirs.eval()(images), atol=tolerance, rtol=tolerance)

    def loss(model: nn.Module) -> Tensor:
        return F.cross_entropy(model(images), labels)

    return f"{name}, training step, batch {batch}", peer, step(ours, loss), step(theirs, loss)
