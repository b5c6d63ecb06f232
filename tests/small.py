"""Every paper's model at a size that tests can afford, with an input and a loss: what the walks over the registry use.

A new file of tformerlib/models that has no row here fails tests/models/test_every_model.py, which names it. Sizes are
chosen so that no two axes are equal by accident.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

import tformerlib as tf
from tformerlib.detection.backbone import with_frozen_norms
from tformerlib.models.resnet import ResNet
from tformerlib.registry import module_of


@dataclass(frozen=True)
class Small:
    """A registered name with the overrides that make it small, and what it is called with."""

    name: str
    inputs: Callable[[], tuple[Tensor, ...]]
    overrides: dict[str, Any] = field(default_factory=dict)

    def build(self, seed: int = 0, **more: Any) -> nn.Module:
        """The model with the weights of a seed."""
        torch.manual_seed(seed)
        return tf.create_model(self.name, **self.overrides | more)


def images(side: int, channels: int = 3, rows: int = 2) -> Callable[[], tuple[Tensor, ...]]:
    """A batch of noise; a fixed seed, so that two calls give the same."""
    return lambda: (torch.randn(rows, channels, side, side, generator=torch.Generator().manual_seed(1)),)


def words(*lengths: int, vocab: int = 23) -> Callable[[], tuple[Tensor, ...]]:
    """Batches of ids from 1 on, one for each length."""
    generator = torch.Generator().manual_seed(1)
    made = tuple(torch.randint(1, vocab, (2, n), generator=generator) for n in lengths)
    return lambda: tuple(x.clone() for x in made)


def pairs(side: int, length: int, vocab: int) -> Callable[[], tuple[Tensor, ...]]:
    """Images and texts that end with the last id of the vocabulary."""
    ids = torch.cat([words(length - 1, vocab=vocab - 1)()[0], torch.full((2, 1), vocab - 1)], 1)
    return lambda: (*images(side)(), ids.clone())


def episodes(steps: int, state: int, action: int) -> Callable[[], tuple[Tensor, ...]]:
    """Returns to go, states and actions of two episodes."""
    draw = torch.Generator().manual_seed(1)
    made = tuple(torch.randn(2, steps, *width, generator=draw) for width in ((), (state,), (action,)))
    return lambda: tuple(x.clone() for x in made)


def tensors(output: Any) -> list[Tensor]:
    """All floating tensors of an output: of a tensor, tuple, list or dictionary, or of an object's fields."""
    if isinstance(output, Tensor):
        return [output] if output.is_floating_point() else []
    if isinstance(output, dict):
        return [x for value in output.values() for x in tensors(value)]
    if isinstance(output, tuple | list):
        return [x for value in output for x in tensors(value)]
    return [x for value in vars(output).values() for x in tensors(value)] if hasattr(output, "__dict__") else []


def loss(output: Any) -> Tensor:
    """A number whose gradient reaches whatever the output depends on."""
    draw = torch.Generator().manual_seed(2)
    return torch.stack([(x * torch.randn(x.shape, generator=draw).to(x)).sum() for x in tensors(output)]).sum()


LANGUAGE: dict[str, Any] = {"vocab": 23, "dim": 24, "depth": 3, "heads": 3}
BERT: dict[str, Any] = LANGUAGE | {"hidden": 40, "context": 13}
VIT: dict[str, Any] = {"image": 32, "patch": 8, "classes": 7, "dim": 24, "depth": 3, "heads": 3}
PYRAMID: dict[str, Any] = {"classes": 7, "depths": (1, 2, 3, 1)}
DETR: dict[str, Any] = {
    "classes": 5, "queries": 9, "dim": 32, "encoder": 2, "decoder": 3, "heads": 4, "hidden": 40,
    "backbone": with_frozen_norms(partial(ResNet, depths=(1, 1, 1, 1), dims=(8, 12, 16, 24), stem=6)),
}  # fmt: skip
STAGES = ((1, 8, 1, 3, 1), (2, 12, 2, 3, 2))

SMALL = {
    module_of(small.name).stem: small
    for small in (
        Small("bert_tiny", words(11), BERT),
        Small("squeezebert", words(11), BERT | {"groups": 2}),
        Small("fnet_base", words(11), {"vocab": 23, "dim": 24, "depth": 3, "hidden": 40, "context": 13}),
        Small("performer_base", words(11), LANGUAGE | {"hidden": 40, "context": 13, "features": 17}),
        Small("decision_transformer_hopper", episodes(7, 5, 3), {
            "state_dim": 5, "act_dim": 3, "dim": 24, "depth": 2, "heads": 3, "steps": 17, "context": 11}),
        Small("gpt", words(11), LANGUAGE | {"context": 13}),
        Small("gpt2", words(11), LANGUAGE | {"context": 13}),
        Small("gpt3_small", words(11), LANGUAGE | {"context": 13, "window": 4, "head_dim": None}),
        Small("transformer_base", words(11, 7), {
            "source_vocab": 23, "dim": 24, "depth": 3, "heads": 3, "hidden": 40, "context": 13}),
        Small("rnnsearch", words(11, 7), {"source_vocab": 23, "target_vocab": 29, "embed": 14, "hidden": 16}),
        Small("vit_base_patch16", images(32), VIT),
        Small("clip_vit_base_patch32", pairs(32, 9, 23), {
            "image": 32, "patch": 8, "dim": 24, "depth": 3, "heads": 3, "embed": 20, "vocab": 23, "context": 13,
            "text_dim": 16, "text_depth": 2, "text_heads": 2}),
        Small("vit_base_patch8", images(32), VIT),
        Small("deit_tiny_distilled", images(32), VIT),
        Small("vit_c_1gf", images(32), {"image": 32, "classes": 7, "dim": 24, "depth": 3, "heads": 3,
                                        "convs": (8, 12, 16, 24), "strides": (2, 2, 2, 1), "patch": 8}),
        Small("cct_2_3x2_32", images(32), {"classes": 7, "dim": 24, "depth": 3, "heads": 3}),
        Small("cvt_2_4_32", images(32), {"classes": 7, "dim": 24, "depth": 3, "heads": 3}),
        Small("dpt_base", images(32), {"image": 32, "patch": 8, "dim": 24, "depth": 4, "heads": 3, "taps": (0, 1, 2, 3),
                                       "dims": (6, 8, 12, 16), "fusion": 14}),
        Small("segmenter_tiny_mask", images(32), VIT),
        Small("ceit_tiny", images(32), VIT | {"patch": 4}),
        Small("cmt_ti", images(64), PYRAMID | {"image": 64, "stem": 6, "dims": (8, 16, 24, 32), "heads": (1, 2, 3, 4),
                                               "wide": 20}),
        Small("coatnet_0_224", images(64), PYRAMID | {"image": 64, "dims": (8, 16, 24, 32), "stem": 6, "head_dim": 8}),
        Small("convit_tiny", images(32), VIT | {"heads": 4, "dim": 24}),
        Small("conviformer_base_224", images(32), VIT | {"heads": 4, "dim": 24, "widths": (4, 6, 8)}),
        Small("convmixer_256_8", images(32), {"dim": 12, "depth": 3, "kernel": 5, "patch": 4, "classes": 7}),
        Small("cvt_13", images(64), {"classes": 7, "dims": (8, 18, 24), "depths": (1, 2, 3), "heads": (1, 3, 4)}),
        Small("cxv_performer", images(32), {"dim": 16, "depth": 3, "heads": 4, "classes": 7}),
        Small("efficientnet_b0", images(64), {"classes": 7, "stages": STAGES, "stem": 6, "last": 14}),
        Small("pvt_tiny", images(64), PYRAMID | {"image": 64, "dims": (8, 16, 24, 32), "heads": (1, 2, 3, 4)}),
        Small("pvt_v2_b0", images(64), PYRAMID | {"dims": (8, 16, 24, 32), "heads": (1, 2, 3, 4)}),
        Small("swin_tiny", images(64), {"image": 64, "classes": 7, "dim": 12, "depths": (2, 4), "heads": (2, 3),
                                        "window": 4, "patch": 4}),
        Small("swinv2_tiny_window8", images(64), {"image": 64, "classes": 7, "dim": 12, "depths": (2, 4),
                                                  "heads": (2, 3), "window": 4, "patch": 4}),
        Small("focal_tiny", images(64), {"image": 64, "classes": 7, "dim": 12, "depths": (2, 2), "heads": (2, 3),
                                         "regions": (3, 1), "window": 4, "expand": 1}),
        Small("hrformer_tiny", images(64), {"classes": 7, "dim": 6, "heads": 1, "modules": (1, 1, 1), "blocks": 1,
                                            "bottlenecks": 1, "window": 4, "stem": 8}),
        Small("efficientformer_l1", images(64), {"image": 64, "classes": 7, "dims": (8, 12, 16, 24),
                                                 "depths": (1, 1, 2, 2)}),
        Small("st_cnn_affine", images(28, channels=1), {"classes": 7}),
        Small("uniformer_small", images(64), PYRAMID | {"dims": (8, 16, 24, 32), "head_dim": 8}),
        Small("resnet18", images(64), {"classes": 7, "depths": (1, 2), "dims": (8, 12), "stem": 6}),
        Small("efficient_vit", images(64), {"image": 64, "patch": 4, "dim": 16, "depth": 2, "hidden": 24,
                                            "stages": STAGES, "stem": 6, "last": 14}),
        Small("detr_resnet50", images(64), DETR),
        Small("conditional_detr_resnet50", images(64), DETR),
        Small("dab_detr_resnet50", images(96), DETR),
        Small("dn_detr_resnet50", images(64), DETR),
        Small("deformable_detr_resnet50", images(96), DETR),
    )
}  # fmt: skip
