"""ConViT, CoAtNet, ConvMixer and EfficientNet beside timm's models of the same size and weights: training steps."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import tformerlib as tf
from tformerlib.peers import prepare

from .models import Pair, step

CONVIT: dict[str, Any] = {"dim": 64, "depth": 6, "free": 1, "classes": 10}  # sizes of a chapter, for small images
COATNET: dict[str, Any] = {"dims": (32, 64, 128), "depths": (1, 2, 2), "classes": 10}
CONVMIXER: dict[str, Any] = {"dim": 156, "depth": 8}


def convit_tiny() -> tuple[nn.Module, nn.Module]:
    """Ours and timm's ConViT-Ti."""
    prepare()
    import timm

    return tf.create_model("convit_tiny", drop_path=0.0), timm.create_model("convit_tiny")


def convit_small_images() -> tuple[nn.Module, nn.Module]:
    """A ConViT for images of 32 x 32."""
    prepare()
    from timm.models.convit import ConVit

    theirs = ConVit(img_size=32, patch_size=4, embed_dim=16, num_heads=4, depth=6, local_up_to_layer=5, num_classes=10)
    return tf.create_model("convit_tiny", image=32, patch=4, drop_path=0.0, **CONVIT), theirs


def coatnet_0() -> tuple[nn.Module, nn.Module]:
    """Ours and timm's CoAtNet-0."""
    prepare()
    import timm

    return tf.create_model("coatnet_0_224", drop_path=0.0), timm.create_model("coatnet_0_224")


def coatnet_small_images() -> tuple[nn.Module, nn.Module]:
    """A CoAtNet of three stages for images of 32 x 32."""
    prepare()
    from timm.models.maxxvit import MaxxVit, MaxxVitCfg

    config = MaxxVitCfg(
        embed_dim=COATNET["dims"], depths=COATNET["depths"], block_type=("C", "T", "T"), stem_width=32,
        head_hidden_size=128,
    )  # fmt: skip
    theirs = MaxxVit(config, img_size=32, num_classes=10)
    ours = tf.create_model("coatnet_0_224", image=32, layout="CTT", stem=32, drop_path=0.0, **COATNET)
    return ours, theirs


def convmixer_1024() -> tuple[nn.Module, nn.Module]:
    """Ours and timm's ConvMixer-1024/20."""
    prepare()
    import timm

    return tf.create_model("convmixer_1024_20"), timm.create_model("convmixer_1024_20_ks9_p14")


def convmixer_small_images() -> tuple[nn.Module, nn.Module]:
    """A ConvMixer for images of 32 x 32."""
    prepare()
    from timm.models import ConvMixer

    theirs = ConvMixer(**CONVMIXER, kernel_size=5, patch_size=4, num_classes=10)
    return tf.create_model("convmixer_256_8", patch=4, **CONVMIXER), theirs


def efficientnet() -> tuple[nn.Module, nn.Module]:
    """Ours and timm's EfficientNet-B0."""
    prepare()
    import timm

    plain: dict[str, Any] = {"conv": nn.Conv2d, "norm": nn.BatchNorm2d}  # not the released padding
    return tf.create_model("efficientnet_b0", dropout=0.0, drop_path=0.0, **plain), timm.create_model("efficientnet_b0")


PAIRS: dict[str, tuple[Callable[[], tuple[nn.Module, nn.Module]], int, int]] = {  # with image and batch
    "ConViT-Ti, 224 x 224": (convit_tiny, 224, 4),
    "ConViT, 32 x 32": (convit_small_images, 32, 64),
    "CoAtNet-0, 224 x 224": (coatnet_0, 224, 2),
    "CoAtNet, 32 x 32": (coatnet_small_images, 32, 64),
    "ConvMixer-1024/20, 224 x 224": (convmixer_1024, 224, 2),
    "ConvMixer, 32 x 32": (convmixer_small_images, 32, 64),
    "EfficientNet-B0, 224 x 224": (efficientnet, 224, 4),
}


def pairs() -> Iterator[Pair]:
    """All that is timed."""
    for name, (make, image, batch) in PAIRS.items():
        yield training_step(name, make, image, batch)


def training_step(name: str, make: Callable[[], tuple[nn.Module, nn.Module]], image: int, batch: int) -> Pair:
    """Cross-entropy on random images; the logits are compared first."""
    torch.manual_seed(0)
    ours, theirs = make()
    with torch.no_grad():
        for p in theirs.parameters():  # at their start logits are too small for a comparison to see anything
            p.add_(0.05 * torch.randn_like(p))
    tf.load_published(ours, theirs.state_dict(), source="timm")
    images, labels = torch.randn(batch, 3, image, image), torch.randint(10, (batch,))
    with torch.no_grad():
        said = theirs.eval()(images)
        torch.testing.assert_close(ours.eval()(images), said, atol=1e-4 * said.abs().max().item(), rtol=0)

    def loss(model: nn.Module) -> Tensor:
        return F.cross_entropy(model(images), labels)

    return f"{name}, training step, batch {batch}", "timm", step(ours, loss), step(theirs, loss)
