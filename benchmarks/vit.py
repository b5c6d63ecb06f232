"""ViT and DeiT beside timm's models of the same size and weights: training steps."""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import tformerlib as tf
from tformerlib.models.deit import DeiT
from tformerlib.peers import prepare

from .models import Pair, step

SIZES = (  # ours, timm's, images in a batch
    ("vit_tiny_patch16", "vit_tiny_patch16_224", 8),
    ("vit_small_patch32", "vit_small_patch32_224", 8),
    ("vit_base_patch16", "vit_base_patch16_224", 1),
    ("deit_tiny_distilled", "deit_tiny_distilled_patch16_224", 8),
)


def pairs() -> Iterator[Pair]:
    """A training step of each size: forward, backward, AdamW."""
    for ours, theirs, batch in SIZES:
        yield training_step(ours, theirs, batch)


def training_step(name: str, peer: str, batch: int) -> Pair:
    """Cross-entropy on random images of 224 x 224; both heads where the model is distilled."""
    prepare()
    import timm

    torch.manual_seed(0)
    theirs: Any = timm.create_model(peer)
    ours = tf.create_model(name, drop_path=0.0)
    tf.load_published(ours, theirs.state_dict(), source="timm")
    images, labels = torch.randn(batch, 3, 224, 224), torch.randint(1000, (batch,))
    with torch.no_grad():
        torch.testing.assert_close(ours.eval()(images), theirs.eval()(images), atol=1e-4, rtol=1e-4)
    if isinstance(ours, DeiT):
        theirs.set_distilled_training(True)

    def loss(model: nn.Module) -> Tensor:
        out = model(images)
        return torch.stack(
            [F.cross_entropy(each, labels) for each in (out if isinstance(out, tuple) else (out,))]
        ).sum()

    return f"{name}, training step, batch {batch}", "timm", step(ours, loss), step(theirs, loss)
