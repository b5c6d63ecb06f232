"""Same weights, same padded images, same targets: transformers' logits, boxes, losses and gradients.

transformers' backbone has no gradient: it freezes a ResNet of its own as a whole. With auxiliary_loss=True its DETR and
Conditional DETR send each layer's output through the norm before the next layer, which papers and official codes do
not; so layers are compared one by one, by taking theirs off, and the loss of all of them by their loss function. All of
it in float64: with wide weights rounding grows from layer to layer.
"""

import copy
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import (
    ConditionalDetrConfig,
    ConditionalDetrForObjectDetection,
    DabDetrConfig,
    DabDetrForObjectDetection,
    DeformableDetrConfig,
    DeformableDetrForObjectDetection,
    DetrConfig,
    DetrForObjectDetection,
    ResNetConfig,
)

import tformerlib as tf
from tformerlib.detection.backbone import with_frozen_norms
from tformerlib.detection.boxes import Target
from tformerlib.detection.loss import set_loss
from tformerlib.detection.matching import Predictions, Weights
from tformerlib.models.resnet import ResNet
from tformerlib.peers.parity import assert_same, widen

CLASSES, QUERIES = 5, 7
EMPTY = r"decoder\.0\.attn\.fn\.([qk].*|v\.weight)"
IDLE = r".*\.fn\.k(_place)?\.bias|encoder\.project\.\d\.0\.bias"
SIZES: dict[str, Any] = {"dim": 32, "heads": 4, "hidden": 48, "encoder": 2, "decoder": 3, "dropout": 0.0}
Peer = tuple[type[nn.Module], Callable[..., Any]]
PEERS: dict[str, Peer] = {
    "detr_resnet50": (DetrForObjectDetection, DetrConfig),
    "conditional_detr_resnet50": (ConditionalDetrForObjectDetection, ConditionalDetrConfig),
    "dab_detr_resnet50": (DabDetrForObjectDetection, DabDetrConfig),
    "deformable_detr_resnet50": (DeformableDetrForObjectDetection, DeformableDetrConfig),
}
each_model = pytest.mark.parametrize("name", PEERS)


@pytest.fixture(autouse=True)
def in_double(monkeypatch):
    """transformers' DAB-DETR and Deformable DETR would take their softmaxes in float32 even then."""
    monkeypatch.setattr(torch.nn.functional, "softmax", lambda x, dim, dtype=None: x.softmax(dim))
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def resnet(**norm: Any) -> ResNet:
    return ResNet(depths=(1, 1, 1, 1), dims=(16, 24, 32, 48), stem=8, **norm)


def ours(name: str, **overrides: Any) -> Any:
    sizes = SIZES | {"classes": CLASSES, "queries": QUERIES, "backbone": with_frozen_norms(resnet)}
    return tf.create_model(name, **sizes | overrides).eval()


def theirs(name: str, **overrides: Any) -> Any:
    """transformers' model with wide weights."""
    model, config = PEERS[name]
    width = "hidden_size" if name.startswith("dab") else "d_model"
    sizes: dict[str, Any] = {
        width: 32, "encoder_layers": 2, "decoder_layers": 3, "encoder_attention_heads": 4, "decoder_attention_heads": 4,
        "encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "num_queries": QUERIES, "dropout": 0.0,
    }  # fmt: skip
    maps = ["stage4"]
    if name.startswith("deformable"):
        sizes["class_cost"], maps = 2, ["stage2", "stage3", "stage4"]  # 2 as the official code has it; theirs is 1
    stages: dict[str, Any] = {"hidden_sizes": [16, 24, 32, 48], "depths": [1] * 4, "out_features": maps}
    backbone = ResNetConfig(embedding_size=8, layer_type="bottleneck", **stages)
    own = {"use_timm_backbone": False, "use_pretrained_backbone": False, "backbone": None, "backbone_config": backbone}
    made: Any = model(config(**own | sizes | overrides, num_labels=CLASSES))
    widen(made)
    return made.eval()


def batch() -> tuple[Tensor, Tensor]:
    """Three images, 160 x 128 at the most, two of them padded."""
    images = torch.randn(3, 3, 160, 128, generator=torch.Generator().manual_seed(1))
    mask = torch.zeros(3, 160, 128, dtype=torch.bool)
    for i, (height, width) in enumerate(((160, 96), (100, 128), (160, 128))):
        mask[i, :height, :width] = True
    return images * mask[:, None], mask


def objects() -> list[Target]:
    """Two, none and four objects."""
    generator = torch.Generator().manual_seed(2)
    targets: list[Target] = []
    for n in (2, 0, 4):
        center, side = (torch.rand(n, 2, generator=generator) for _ in range(2))
        boxes = torch.cat([0.3 + 0.4 * center, 0.1 + 0.3 * side], -1)
        targets.append({"labels": torch.randint(CLASSES, (n,), generator=generator), "boxes": boxes})
    return targets


def their_targets() -> list[dict[str, Tensor]]:
    return [{"class_labels": t["labels"], "boxes": t["boxes"]} for t in objects()]


def run(model: Any, **labels: Any) -> Any:
    images, mask = batch()
    return model(pixel_values=images, pixel_mask=mask.long(), **labels)


@each_model
def test_every_layer_equals_transformers(name):
    peer = theirs(name)
    predictions = tf.load_published(ours(name), peer.state_dict())(*batch())
    for layer in (3, 2, 1):
        del peer.model.decoder.layers[layer:]
        peer.model.decoder.num_layers = layer
        expected = run(peer)
        assert expected.logits.std() > 0.1 and expected.pred_boxes.std() > 0.1
        assert_same(predictions.logits[layer - 1], expected.logits, f"logits of layer {layer}")
        assert_same(predictions.boxes[layer - 1], expected.pred_boxes, f"boxes of layer {layer}")


@each_model
def test_loss_and_gradients_equal_transformers(name):
    """Their class weight in the loss is 1 everywhere; what costs 1, 2 or 5 in the matching is each config's.

    Contents begin at zero (not Deformable DETR's), so that in the decoder's first self-attention all values are alike,
    and weights do nothing. Nor do the biases of any keys, which add the same to all scores of a query, nor those before
    a GroupNorm, whose groups are of one channel at this size.
    """
    peer = theirs(name)
    model = tf.load_published(ours(name), peer.state_dict())
    loss, _ = set_loss(model(*batch()), objects(), model.scoring, weights=Weights(1, 5, 2), auxiliary=False)
    expected = run(peer, labels=their_targets()).loss
    torch.testing.assert_close(loss, expected, atol=2e-5, rtol=2e-5)
    loss.backward()
    expected.backward()
    named = peer.named_parameters(remove_duplicate=False)
    grads = {key: torch.zeros_like(p) if p.grad is None else p.grad for key, p in named}
    twin = tf.load_published(copy.deepcopy(model), peer.state_dict() | grads)
    for (key, p), g in zip(model.named_parameters(), twin.parameters(), strict=True):
        if not key.startswith("encoder.backbone"):
            idle = re.fullmatch(IDLE if name.startswith("deformable") else f"{IDLE}|{EMPTY}", key)
            assert p.grad is not None and (g.abs().max() > 1e-9) == (not idle), f"{key} has no gradient, or an odd one"
            assert_same(p.grad, g.detach(), f"gradient of {key}")


@each_model
def test_loss_of_all_layers_equals_transformers(name):
    peer = theirs(name, auxiliary_loss=True)
    model = tf.load_published(ours(name), peer.state_dict())
    logits, boxes = model(*batch())
    expected, parts, _ = peer.loss_function(
        logits[-1], their_targets(), torch.device("cpu"), boxes[-1], peer.config, logits, boxes
    )
    loss, found = set_loss(Predictions(logits, boxes), objects(), model.scoring, weights=Weights(1, 5, 2))
    torch.testing.assert_close(loss, expected, atol=2e-5, rtol=2e-5)
    for ours_, theirs_ in (("class", "loss_ce"), ("l1", "loss_bbox"), ("giou", "loss_giou")):
        torch.testing.assert_close(found[ours_], parts[theirs_], atol=2e-5, rtol=2e-5)


def test_refined_boxes_equal_transformers():
    """Their heads are tied even where each layer has its own; with equal weights there is no difference in outputs."""
    peer = theirs("deformable_detr_resnet50", with_box_refine=True)
    model = tf.load_published(ours("deformable_detr_resnet50", refine=True), peer.state_dict())
    predictions, expected = model(*batch()), run(peer)
    assert_same(predictions.logits[-1], expected.logits, "logits")
    assert_same(predictions.boxes[-1], expected.pred_boxes, "boxes")


def test_dn_detr_without_noise_equals_dab_detr_of_transformers_given_its_contents():
    """Theirs has learned contents if it has a pattern."""
    peer, model = theirs("dab_detr_resnet50", num_patterns=1), ours("dn_detr_resnet50")
    state = peer.state_dict()
    without = run(peer).logits
    state.pop("model.patterns.weight")[0] = torch.cat([model.labels.weight[-1].detach(), torch.zeros(1)])
    twin = tf.load_published(ours("dab_detr_resnet50"), state)
    model.load_state_dict(twin.state_dict() | {"labels.weight": model.labels.weight})
    expected, predictions = run(peer), model(*batch())
    assert (expected.logits - without).abs().max() > 0.1
    assert_same(predictions.logits[-1], expected.logits, "logits")
    assert_same(predictions.boxes[-1], expected.pred_boxes, "boxes")


def test_parity_catches_what_is_nearly_right():
    """Mistakes that people make, each far above the tolerance."""
    peer = theirs("detr_resnet50")
    model, (images, mask) = tf.load_published(ours("detr_resnet50"), peer.state_dict()), batch()
    expected = run(peer).logits

    def error() -> float:
        return (model(images, mask).logits[-1] - expected).abs().max().item()

    assert error() < 1e-6
    assert (model(images).logits[-1] - expected).abs().max() > 0.1  # no mask
    model.encoder.base = 20.0  # another wave
    assert error() > 0.1
    model.encoder.base = 10000.0
    for layer in model.decoder:
        layer.cross.fn.forward = lambda q, k, v, mask, f=layer.cross.fn.forward: f(q, k, k, mask=mask)
    assert error() > 0.1  # places in the values
