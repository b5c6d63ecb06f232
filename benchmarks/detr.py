"""DETR and its successors beside transformers' models of the same size and weights: training steps and detection."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

import tformerlib as tf
from tformerlib.detection.backbone import with_frozen_norms
from tformerlib.detection.boxes import Target
from tformerlib.detection.loss import set_loss
from tformerlib.detection.matching import Weights
from tformerlib.models.resnet import ResNet
from tformerlib.peers import prepare

from .models import Pair, Run, step

KINDS = {
    "detr": "Detr",
    "conditional_detr": "ConditionalDetr",
    "dab_detr": "DabDetr",
    "deformable_detr": "DeformableDetr",
}
SMALL: dict[str, Any] = {"dim": 64, "heads": 4, "hidden": 128, "encoder": 2, "decoder": 3, "queries": 10, "classes": 3}
SMALL_RESNET: dict[str, Any] = {"depths": (1, 1, 1, 1), "dims": (32, 64, 96, 128), "stem": 16}
FULL: dict[str, Any] = {"dim": 256, "heads": 8, "encoder": 6, "decoder": 6, "queries": 100, "classes": 91}
RESNET50: dict[str, Any] = {"depths": (3, 4, 6, 3), "dims": (256, 512, 1024, 2048), "stem": 64}


def models(name: str, sizes: dict[str, Any], resnet: dict[str, Any]) -> tuple[Any, Any]:
    """Ours and transformers' with equal weights, both without dropout and with a backbone that does not learn."""
    prepare()
    import transformers

    sizes = {"hidden": 1024 if name == "deformable_detr" else 2048} | sizes
    maps = ["stage2", "stage3", "stage4"] if name == "deformable_detr" else ["stage4"]
    stages: dict[str, Any] = {
        "hidden_sizes": list(resnet["dims"]), "depths": list(resnet["depths"]), "out_features": maps,
    }  # fmt: skip
    backbone = transformers.ResNetConfig(embedding_size=resnet["stem"], layer_type="bottleneck", **stages)
    width = "hidden_size" if name == "dab_detr" else "d_model"
    config = getattr(transformers, f"{KINDS[name]}Config")(
        use_timm_backbone=False, use_pretrained_backbone=False, backbone=None, backbone_config=backbone,
        encoder_layers=sizes["encoder"], decoder_layers=sizes["decoder"], encoder_attention_heads=sizes["heads"],
        decoder_attention_heads=sizes["heads"], encoder_ffn_dim=sizes["hidden"], decoder_ffn_dim=sizes["hidden"],
        num_queries=sizes["queries"], num_labels=sizes["classes"], dropout=0.0, **{width: sizes["dim"]},
        class_cost=1 if name == "detr" else 2,
    )  # fmt: skip
    theirs = getattr(transformers, f"{KINDS[name]}ForObjectDetection")(config)
    ours: Any = tf.create_model(
        f"{name}_resnet50", backbone=with_frozen_norms(lambda norm: ResNet(norm=norm, **resnet)), dropout=0.0, **sizes
    )
    tf.load_published(ours, theirs.state_dict())
    ours.encoder.backbone.requires_grad_(False)
    theirs.model.backbone.requires_grad_(False)
    return ours, theirs


def batch(images: int, side: int, classes: int) -> tuple[Tensor, list[Target]]:
    """Random images with three objects each."""
    torch.manual_seed(0)
    targets: list[Target] = [
        {"labels": torch.randint(classes, (3,)), "boxes": 0.25 + 0.25 * torch.rand(3, 4)} for _ in range(images)
    ]
    return torch.randn(images, 3, side, side), targets


def pairs() -> Iterator[Pair]:
    """All that is timed. The loss is that of the last layer: with auxiliary_loss=True transformers' DETR is another
    model, which sends every layer's output through a norm before the next layer."""
    for name in KINDS:
        yield small_step(name, images=16)
    for name in ("detr", "deformable_detr"):
        ours, theirs = models(name, FULL, RESNET50)
        images, targets = batch(2, 320, FULL["classes"])
        yield training_step(f"{name}, ResNet-50, 320 x 320", ours, theirs, images, targets)
        yield f"{name}, ResNet-50, 320 x 320, detection, batch 2", "transformers", *detections(ours, theirs, images)


def small_step(name: str, images: int) -> Pair:
    """A chapter's size."""
    ours, theirs = models(name, SMALL, SMALL_RESNET)
    return training_step(f"{name}, small, 64 x 64", ours, theirs, *batch(images, 64, SMALL["classes"]))


def training_step(name: str, ours: Any, theirs: Any, images: Tensor, targets: list[Target]) -> Pair:
    """Matching and loss included; the losses are compared first."""
    renamed = [{"class_labels": t["labels"], "boxes": t["boxes"]} for t in targets]

    def our_loss(model: Any) -> Tensor:
        return set_loss(model(images), targets, model.scoring, weights=Weights(1, 5, 2), auxiliary=False)[0]

    def their_loss(model: Any) -> Tensor:
        return model(pixel_values=images, labels=renamed).loss

    with torch.no_grad():
        torch.testing.assert_close(our_loss(ours.eval()), their_loss(theirs.eval()), atol=1e-4, rtol=1e-4)
    what = f"{name}, training step, batch {len(images)}"
    return what, "transformers", step(ours, our_loss), step(theirs, their_loss)


def detections(ours: nn.Module, theirs: nn.Module, images: Tensor) -> tuple[Run, Run]:
    """Logits and boxes, in eval mode."""

    def run(model: nn.Module, call: Callable[[], object]) -> Run:
        def detect() -> None:
            model.eval()
            with torch.inference_mode():
                call()

        return detect

    return run(ours, lambda: ours(images)), run(theirs, lambda: theirs(pixel_values=images))
