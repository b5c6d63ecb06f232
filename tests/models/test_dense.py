"""DPT and Segmenter: sizes, what their parts mean, training mode, and refusals."""

from typing import Any

import pytest
import torch
from torch import nn
from transformers import DPTConfig, DPTForDepthEstimation, DPTForSemanticSegmentation

import tformerlib as tf
from tformerlib.layers.fusion import Decoder, Fusion
from tformerlib.measures import parameter_count
from tformerlib.models.dpt import DPT, Add, Ignore, Project, Reassemble
from tformerlib.models.segmenter import LinearHead, MaskHead, Segmenter

DENSE: dict[str, Any] = {"image": 32, "patch": 4, "dim": 24, "depth": 4, "heads": 3, "taps": (0, 1, 2, 3),
                         "dims": (8, 12, 16, 20), "fusion": 16}  # fmt: skip
SEGMENT: dict[str, Any] = {"image": 20, "patch": 4, "dim": 24, "depth": 2, "heads": 3, "classes": 5}
LARGE: dict[str, Any] = {
    "hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096,
    "backbone_out_indices": [5, 11, 17, 23], "neck_hidden_sizes": [256, 512, 1024, 1024],
}  # fmt: skip
PEERS: dict[str, tuple[type[nn.Module], dict[str, Any]]] = {
    "dpt_large": (DPTForDepthEstimation, LARGE),
    "dpt_base": (DPTForDepthEstimation, {}),
    "dpt_hybrid": (DPTForDepthEstimation, {"is_hybrid": True, "neck_hidden_sizes": [256, 512, 768, 768]}),
    "dpt_large_ade": (
        DPTForSemanticSegmentation, LARGE | {"num_labels": 150, "use_batch_norm_in_fusion_residual": True},
    ),
}  # fmt: skip
UNUSED = ("dpt.layernorm", "auxiliary_head", "neck.fusion_stage.layers.0.residual_layer1")


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("dpt_large", 341_848_257), ("dpt_base", 109_696_385), ("dpt_hybrid", 121_196_289),
        ("dpt_large_ade", 342_148_758), ("segmenter_tiny_mask", 6_713_388), ("segmenter_small_mask", 26_033_964),
        ("segmenter_base_mask", 102_497_580), ("segmenter_base_linear", 86_549_910),
        ("segmenter_large_mask", 333_234_476),
    ],
)  # fmt: skip
def test_parameter_counts(name, count):
    """What transformers and the official Segmenter count beyond ours is never run there."""
    with torch.device("meta"):
        ours = tf.create_model(name)
        assert parameter_count(ours) == count
        if name in PEERS:
            peer, config = PEERS[name]
            theirs: Any = peer(DPTConfig(**config))
            used = sum(p.numel() for key, p in theirs.named_parameters() if not key.startswith(UNUSED))
            assert used == count
        elif name == "segmenter_base_mask":
            assert count + 768 * 1000 + 1000 == 103_266_580  # with the head for ImageNet, as the official code counts


def test_every_map_sees_the_whole_image_and_has_its_size():
    model = DPT(**DENSE).eval()
    image = torch.randn(1, 3, 32, 64, requires_grad=True)
    maps = model.maps(image)
    assert [tuple(x.shape[1:]) for x in maps] == [(8, 8, 16), (12, 4, 8), (16, 2, 4), (20, 1, 2)]
    for x in maps:
        (g,) = torch.autograd.grad(x[0, :, 0, 0].sum(), image, retain_graph=True)
        assert (g.abs().sum((0, 1)) > 0).all()
    assert model(image).shape == (1, 32, 64)


def test_readouts_by_hand():
    patches, token = torch.randn(2, 3, 4), torch.randn(2, 1, 4)
    assert torch.equal(Ignore(4)(patches, token), patches)
    assert torch.equal(Add(4)(patches, token), patches + token)
    project = Project(4)
    both = torch.cat([patches, token.repeat(1, 3, 1)], -1)
    torch.testing.assert_close(project(patches, token), nn.functional.gelu(both @ project.map[0].weight.T +
                                                                           project.map[0].bias))  # fmt: skip


def test_a_patch_is_put_back_where_it_was():
    """The token of row 1 and column 2 fills the four by four cells there, and no other."""
    part = Reassemble(4, 6, 4, Ignore).eval()
    tokens = torch.zeros(1, 1 + 6, 4)
    blank = part(tokens, (2, 3))
    tokens[0, 1 + 1 * 3 + 2] = 1
    changed = (part(tokens, (2, 3)) - blank).abs().sum((0, 1)) > 0
    expected = torch.zeros(8, 12, dtype=torch.bool)
    expected[4:, 8:] = True
    assert torch.equal(changed, expected)


def test_fusion_adds_the_finer_map_and_the_first_has_none():
    fuse, x = Fusion(4, None, first=False).eval(), torch.randn(1, 4, 3, 3)
    assert not torch.allclose(fuse(x, torch.randn(1, 4, 3, 3)), fuse(x))
    assert Fusion(4, None, first=True).skip is None
    with torch.no_grad():
        for p in fuse.parameters():
            p.zero_()
        fuse.project.weight.copy_(torch.eye(4)[..., None, None])
    y = fuse(x, torch.ones(1, 4, 3, 3))
    torch.testing.assert_close(y[..., ::5, ::5], (x + 1)[..., ::2, ::2])  # corners stay corners: align_corners


def test_decoder_takes_maps_of_any_encoder():
    decoder = Decoder((3, 5), 4)
    assert decoder([torch.randn(2, 3, 6, 10), torch.randn(2, 5, 3, 5)]).shape == (2, 4, 12, 20)
    with pytest.raises(ValueError, match="zip"):
        decoder([torch.randn(2, 3, 6, 10)])


def test_depth_is_never_negative():
    assert DPT(**DENSE).eval()(torch.randn(3, 3, 32, 32)).min() >= 0


def test_dense_dropout_and_norms_act_in_training_alone():
    torch.manual_seed(0)
    model = tf.create_model("dpt_large_ade", **DENSE | {"dropout": 0.1, "drop_path": 0.2})
    x = torch.randn(2, 3, 32, 32)
    assert not torch.equal(model.train()(x), model(x))
    assert torch.equal(model.eval()(x), model(x))
    head = Segmenter(**SEGMENT)
    x = torch.randn(2, 3, 20, 20)
    assert not torch.equal(head.train()(x), head(x))  # the paper's dropout of 0.1 in the mask head
    assert torch.equal(head.eval()(x), head(x))


def test_dropping_the_path_of_the_head_leaves_tokens_as_they_were():
    head = MaskHead(12, 5, 3, depth=2, dropout=0.0, drop_path=0.999)
    head.blocks[0].mixer.drop_path.p = head.blocks[0].mlp.drop_path.p = 0.999
    x = torch.randn(4, 6, 12)
    untouched = nn.functional.normalize(head.norm(head.project(x)) @ head.of_patches, dim=-1)
    torch.testing.assert_close(head.train().join(x)[0], untouched)


def test_masks_are_cosines_normalized_over_the_classes():
    torch.manual_seed(0)
    head, x = MaskHead(12, 5, 3).eval(), torch.randn(2, 7, 12)
    patches, classes = head.join(x)
    for each in (patches, classes):
        torch.testing.assert_close(each.norm(dim=-1), torch.ones(each.shape[:2]))
    scores = head(x)
    torch.testing.assert_close(scores.sum(-1), torch.zeros(2, 7), atol=1e-5, rtol=0)
    assert (scores.square().sum(-1) <= 5 + 1e-4).all()  # so no logit exceeds sqrt(classes) until the norm's scale grows


def test_a_linear_head_is_blind_to_other_patches_and_a_mask_head_is_not():
    x = torch.randn(1, 6, 12)
    y = x.clone()
    y[:, 3] += 1
    for head, moved in ((LinearHead(12, 5, 3), 1), (MaskHead(12, 5, 3).eval(), 6)):
        assert ((head(x) - head(y)).abs().sum(-1) > 1e-6).sum() == moved


def test_an_image_of_another_size_is_padded_and_cut():
    model = Segmenter(**SEGMENT).eval()
    image = torch.randn(2, 3, 18, 23)
    padded = nn.functional.pad(image, (0, 1, 0, 2))
    torch.testing.assert_close(model(image), model(padded)[..., :18, :23])
    assert model.tokens(image)[1] == (5, 6)


def test_every_parameter_of_segmenter_gets_a_gradient():
    for decoder in (MaskHead, LinearHead):
        model = Segmenter(**SEGMENT, decoder=decoder)
        torch.nn.init.normal_(model.encoder.positions)
        (model(torch.randn(2, 3, 20, 20)) * torch.randn(2, 5, 20, 20)).sum().backward()
        assert all(p.grad is not None for p in model.parameters())


def test_bad_input_is_refused():
    model = DPT(**DENSE)
    with pytest.raises(ValueError, match=r"images are \(32, 48\); both sides must be multiples of 32"):
        model(torch.randn(1, 3, 32, 48))
    with pytest.raises(ValueError, match=r"taps=\(0, 1, 2, 4\)"):
        DPT(**DENSE | {"taps": (0, 1, 2, 4)})
    with pytest.raises(ValueError, match=r"taps=\(0, 1, 3\)"):
        DPT(**DENSE | {"taps": (0, 1, 3)})
    with pytest.raises(ValueError, match="not a multiple of the patch"):
        Segmenter(**SEGMENT | {"image": 18})
    with pytest.raises(ValueError, match="heads=5 does not divide dim=24"):
        Segmenter(**SEGMENT | {"heads": 5})
    with pytest.raises(TypeError, match="takes no windows"):
        tf.create_model("segmenter_tiny_mask", windows=7)
    with pytest.raises(KeyError, match="no rule for 'surprise'"):
        tf.load_published(model, {**transformers_state(), "surprise": torch.zeros(1)})


def transformers_state() -> dict[str, torch.Tensor]:
    config = DPTConfig(image_size=32, patch_size=4, hidden_size=24, num_hidden_layers=4, num_attention_heads=3,
                       intermediate_size=96, backbone_out_indices=[0, 1, 2, 3], fusion_hidden_size=16,
                       neck_hidden_sizes=[8, 12, 16, 20], reassemble_factors=[1, 0.5, 0.25, 0.125])  # fmt: skip
    return DPTForDepthEstimation(config).state_dict()
