"""DPT against transformers, Segmenter against recorded numbers of its official heads on timm's ViT."""

import json
from functools import partial
from typing import Any

import pytest
import torch
from transformers import DPTConfig, DPTForDepthEstimation, DPTForSemanticSegmentation

import tformerlib as tf
from tests.models.golden.dense_prediction import FILE
from tformerlib.layers.fusion import LabelHead
from tformerlib.models.dpt import Add, Ignore, Project
from tformerlib.models.vit import Stem
from tformerlib.peers import golden
from tformerlib.peers.parity import assert_parity, assert_same, widen

SIZE: dict[str, Any] = {"image": 32, "patch": 4, "dim": 24, "depth": 5, "heads": 3, "mlp": 2.0}
OURS: dict[str, Any] = SIZE | {"taps": (0, 2, 3, 4), "dims": (8, 12, 16, 20), "strides": (1, 2, 4, 8), "fusion": 16}
THEIRS: dict[str, Any] = {
    "image_size": 32, "patch_size": 4, "hidden_size": 24, "num_hidden_layers": 5, "num_attention_heads": 3,
    "intermediate_size": 48, "layer_norm_eps": 1e-6, "backbone_out_indices": [0, 2, 3, 4], "fusion_hidden_size": 16,
    "neck_hidden_sizes": [8, 12, 16, 20],
}  # fmt: skip
READOUTS = {"project": Project, "add": Add, "ignore": Ignore}


def images(*sides: int) -> torch.Tensor:
    return torch.randn(2, 3, *sides, generator=torch.Generator().manual_seed(1))


def lifted(model: Any) -> None:
    """Lifts what the last layer says over the ReLU behind it, which would hide errors."""
    with torch.no_grad():
        model.head.head[4].weight /= 100
        model.head.head[4].bias.fill_(30)


def all_above_zero(model: Any, x: torch.Tensor) -> torch.Tensor:
    depth = model(x).predicted_depth
    assert depth.min() > 0
    return depth


@pytest.mark.parametrize("readout", READOUTS)
@pytest.mark.parametrize("sides", [(32, 32), (24, 40)], ids=["made for", "other size"])
def test_depth_equals_transformers(readout, sides, monkeypatch):
    """float64: through the fusion blocks wide weights grow, and with them the rounding."""
    peer = DPTForDepthEstimation(DPTConfig(**THEIRS, readout_type=readout))
    if sides != (32, 32):  # transformers takes the tokens for a square, so it sees them as the neck wants them
        stage = peer.neck.reassemble_stage.forward
        monkeypatch.setattr(peer.neck.reassemble_stage, "forward", lambda x, *_: stage(x, sides[0] // 4, sides[1] // 4))

    ours = tf.create_model("dpt_large", **OURS, readout=READOUTS[readout])
    widen(peer)
    lifted(peer)
    monkeypatch.setattr("tformerlib.peers.parity.widen", lambda model: None)
    assert_parity(ours, peer, "transformers", images(*sides), call=all_above_zero, double=True)


def test_segmentation_equals_transformers():
    """Their auxiliary head gets no gradient and is not taken."""
    peer = DPTForSemanticSegmentation(
        DPTConfig(**THEIRS, num_labels=5, use_batch_norm_in_fusion_residual=True, use_auxiliary_head=True)
    )
    ours = tf.create_model("dpt_large_ade", **OURS, head=partial(LabelHead, classes=5))
    assert_parity(ours, peer, "transformers", images(32, 32), call=lambda m, x: m(x).logits, double=True)


def test_batch_norms_measure_alike_in_training():
    """One step in training mode moves the same running means; dropout, which is random, is taken out of both."""
    peer = DPTForSemanticSegmentation(
        DPTConfig(**THEIRS, num_labels=5, use_batch_norm_in_fusion_residual=True, semantic_classifier_dropout=0.0)
    ).double()
    widen(peer)
    ours = tf.create_model("dpt_large_ade", **OURS, head=partial(LabelHead, classes=5, dropout=0.0)).double()
    tf.load_published(ours, peer.state_dict())
    x = images(32, 32).double()
    assert_same(ours.train()(x), peer.train()(x).logits)
    twin = tf.load_published(tf.create_model("dpt_large_ade", **OURS, head=partial(LabelHead, classes=5)).double(),
                             peer.state_dict())  # fmt: skip
    for (name, a), b in zip(ours.named_buffers(), twin.buffers(), strict=True):
        assert_same(a.double(), b.double(), name)


def test_hybrid_equals_transformers():
    bit: dict[str, Any] = {"model_type": "bit", "global_padding": "same", "layer_type": "bottleneck", "num_groups": 32}
    bit |= {"depths": [1, 2, 1], "out_features": ["stage1", "stage2", "stage3"], "embedding_dynamic_padding": True}
    size = THEIRS | {"image_size": 32, "patch_size": 16, "backbone_out_indices": [0, 1, 3, 4]}
    size |= {"neck_hidden_sizes": [256, 512, 16, 20], "backbone_featmap_shape": [1, 1024, 2, 2]}
    peer = DPTForDepthEstimation(DPTConfig(**size, is_hybrid=True, backbone_config=bit))
    widen(peer)
    lifted(peer)
    ours = tf.create_model(
        "dpt_hybrid", **SIZE | {"image": 32, "patch": 1}, taps=(3, 4), stem_taps=(2, 4), dims=(256, 512, 16, 20),
        fusion=16, stem=lambda: Stem((1, 2, 1)),
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tformerlib.peers.parity.widen", lambda model: None)
        assert_parity(ours, peer, "transformers", images(32, 32), call=all_above_zero, double=True)


CASES = {name: case for repo in json.loads(FILE.read_text("utf-8")).values() for name, case in repo["cases"].items()}


@pytest.mark.parametrize("name", CASES)
def test_segmenter_equals_the_official_heads_on_timms_vit(name):
    golden.assert_equal(CASES[name])
