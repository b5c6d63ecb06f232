"""CLIP: equal to transformers' and, by recorded numbers, to OpenCLIP's; its sizes; what it means; what breaks it."""

import copy
import json
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import tformerlib as tf
from tests.models.golden.multimodal import FILE
from tformerlib.measures import parameter_count
from tformerlib.models.clip import CLIP
from tformerlib.objectives.pairing import pair_loss
from tformerlib.peers import prepare
from tformerlib.peers.golden import fill, uniform
from tformerlib.peers.parity import TOLERANCE, assert_same, widen

prepare()
from transformers import CLIPConfig, CLIPModel  # noqa: E402

SIZE: dict[str, Any] = {
    "image": 24, "patch": 8, "dim": 48, "depth": 2, "heads": 4, "embed": 20,
    "vocab": 37, "context": 11, "text_dim": 40, "text_depth": 3, "text_heads": 5,
}  # fmt: skip


def theirs_of(implementation: str = "sdpa", **vision: Any) -> Any:
    text = {
        "vocab_size": 37, "hidden_size": 40, "intermediate_size": 160, "num_hidden_layers": 3,
        "num_attention_heads": 5, "max_position_embeddings": 11, "eos_token_id": 36, "bos_token_id": 35,
    }  # fmt: skip
    image = {
        "image_size": 24, "patch_size": 8, "hidden_size": 48, "intermediate_size": 192, "num_hidden_layers": 2,
        "num_attention_heads": 4,
    }  # fmt: skip
    options: dict[str, Any] = {"attn_implementation": implementation}
    config = CLIPConfig(text_config=text, vision_config=image | vision, projection_dim=20, **options)
    model = CLIPModel(config).eval()
    widen(model)
    nn.init.constant_(model.logit_scale, 1.3)
    return model


def inputs() -> tuple[Tensor, Tensor]:
    """Five images and five texts of 2 to 11 ids with their ends, and whatever comes after them."""
    generator = torch.Generator().manual_seed(3)
    ids = torch.randint(35, (5, 11), generator=generator)
    for text, end in zip(ids, (1, 10, 4, 7, 2), strict=True):
        text[0], text[end] = 35, 36
    return torch.randn(5, 3, 24, 24, generator=generator), ids


def error(ours: nn.Module, theirs: Any) -> float:
    images, ids = inputs()
    with torch.no_grad():
        return (ours(images, ids) - theirs(ids, images).logits_per_image).abs().max().item()


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_equals_transformers(implementation: str):
    """Scores, both vectors, the loss, and the gradient of every parameter."""
    theirs, ours, (images, ids) = theirs_of(implementation), CLIP(**SIZE).eval(), inputs()
    tf.load_published(ours, theirs.state_dict())
    expected, logits = theirs(ids, images, return_loss=True), ours(images, ids)
    assert expected.logits_per_image.std() > 0.1
    assert_same(logits, expected.logits_per_image)
    assert_same(ours.encode_image(images), expected.image_embeds, "images")
    assert_same(ours.encode_text(ids), expected.text_embeds, "texts")
    loss = pair_loss(logits)
    assert_same(loss, expected.loss, "loss")
    loss.backward()
    expected.loss.backward()
    twin = tf.load_published(copy.deepcopy(ours), {name: p.grad for name, p in theirs.named_parameters()})
    for (name, p), g in zip(ours.named_parameters(), twin.parameters(), strict=True):
        assert p.grad is not None, name
        assert p.grad.abs().sum() > 0 or name.endswith(".k.bias"), name  # which no softmax sees
        assert_same(p.grad, g.detach(), f"gradient of {name}")


@pytest.mark.slow
def test_equals_transformers_at_the_published_size():
    theirs: Any = CLIPModel(CLIPConfig()).eval()
    widen(theirs)
    nn.init.constant_(theirs.logit_scale, 2.0)
    ours = tf.load_published(tf.create_model("clip_vit_base_patch32").eval(), theirs.state_dict())
    ids = torch.randint(1000, (2, 77), generator=torch.Generator().manual_seed(1))
    ids[0, 9], ids[1, 76] = 49407, 49407
    images = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        assert_same(ours(images, ids), theirs(ids, images).logits_per_image)


def test_equals_openclip_by_recorded_numbers():
    """Scores and gradients that OpenCLIP's CLIP gave for the same made-up weights, in float64."""
    case = json.loads(FILE.read_text("utf-8"))
    ours = CLIP(**case["size"]).double().eval()
    tf.load_published(ours, fill(case["shapes"]), source="official")
    images = 2 * uniform("images", (3, 3, case["size"]["image"], case["size"]["image"]))
    ids = torch.tensor(case["ids"])
    logits = ours(images, ids)
    assert_same(logits, torch.tensor(case["logits"], dtype=torch.float64))
    loss = pair_loss(logits)
    assert abs(loss.item() - case["loss"]) < TOLERANCE
    loss.backward()
    directions = {name: uniform(f"probe {name}", tuple(shape)) for name, shape in case["shapes"].items()}
    numbers = {name: torch.full_like(x, i) for i, (name, x) in enumerate(directions.items())}
    moved = [tf.load_published(copy.deepcopy(ours), state, source="official") for state in (directions, numbers)]
    products = torch.zeros(len(directions), dtype=torch.float64)
    for p, direction, number in zip(ours.parameters(), *(m.parameters() for m in moved), strict=True):
        assert p.grad is not None
        products.index_add_(0, number.detach().flatten().long(), (p.grad * direction.detach()).flatten())
    for name, product in zip(directions, products.tolist(), strict=True):
        assert abs(product - case["gradients"][name]) < TOLERANCE, f"gradient of {name}"


def test_parity_catches_a_clip_that_is_nearly_right():
    theirs = theirs_of()
    right = tf.load_published(CLIP(**SIZE).eval(), theirs.state_dict())
    assert error(right, theirs) < 2e-5
    gelu, two_way, no_norm, heads = (copy.deepcopy(right) for _ in range(4))
    for block in [*gelu.image.blocks, *gelu.text.blocks]:
        block.mlp.fn[1] = nn.GELU()
    for block in two_way.text.blocks:
        block.mixer.fn.causal = False
    no_norm.image.before = nn.Identity()
    for block in heads.image.blocks:
        block.mixer.fn.head_dim = 24
    assert error(gelu, theirs) > 1e-3
    assert min(error(two_way, theirs), error(no_norm, theirs), error(heads, theirs)) > 0.05


def test_positions_are_resized_for_larger_images():
    theirs = theirs_of()
    ours = tf.load_published(CLIP(**SIZE | {"image": 40}).eval(), theirs.state_dict())
    assert ours.image.positions.shape == (26, 48)
    table = theirs.vision_model.embeddings.position_embedding.weight
    assert_same(ours.image.positions[0], table[0])
    square = table[1:].view(1, 3, 3, 48).permute(0, 3, 1, 2)
    resized = F.interpolate(square, size=(5, 5), mode="bicubic", antialias=True, align_corners=False)
    assert_same(ours.image.positions[1:], resized.permute(0, 2, 3, 1).reshape(25, 48))


@pytest.mark.parametrize(
    ("name", "count"),  # of the released weights
    [
        ("clip_vit_base_patch32", 151_277_313),
        ("clip_vit_base_patch16", 149_620_737),
        ("clip_vit_large_patch14", 427_616_513),
        ("clip_vit_large_patch14_336", 427_944_193),
    ],
)
def test_parameter_counts_are_those_of_the_released_weights(name: str, count: int):
    with torch.device("meta"):
        assert parameter_count(tf.create_model(name)) == count


def test_what_comes_after_the_end_is_not_read():
    model, (_, ids) = CLIP(**SIZE).eval(), inputs()
    other = ids.clone()
    for text in other:
        end = text.tolist().index(36)
        text[end + 1 :] = 7
    with torch.no_grad():
        assert_same(model.encode_text(other), model.encode_text(ids))
        other[1, 3] = (other[1, 3] + 1) % 35  # before the end it matters
        assert (model.encode_text(other)[1] - model.encode_text(ids)[1]).abs().max() > 1e-3


def test_vectors_have_length_one_and_the_scale_starts_where_the_paper_says():
    model, (images, ids) = CLIP(**SIZE).eval(), inputs()
    with torch.no_grad():
        cosines = model(images, ids) * 0.07
        assert cosines.abs().max() <= 1.0
        assert_same(model.encode_image(images).norm(dim=-1), torch.ones(5))
        assert_same(model.encode_text(ids).norm(dim=-1), torch.ones(5))


def test_in_training_the_scale_comes_back_to_a_hundred_and_keeps_its_gradient():
    model, (images, ids) = CLIP(**SIZE).train(), inputs()
    nn.init.constant_(model.log_scale, 6.0)
    pair_loss(model(images, ids)).backward()
    assert model.log_scale.item() == pytest.approx(math.log(100))
    assert model.log_scale.grad is not None and model.log_scale.grad.abs() > 0
    nn.init.constant_(model.log_scale, 6.0)
    assert model.eval().scale().item() == pytest.approx(math.exp(6.0))  # published weights stay as they are


def test_training_and_evaluation_say_the_same():
    """The paper has neither dropout nor drop path."""
    model, (images, ids) = CLIP(**SIZE), inputs()
    assert torch.equal(model.train()(images, ids), model.eval()(images, ids))


def test_the_loss_by_hand_and_whoever_asks_whom():
    logits = torch.tensor([[2.0, 0.0], [1.0, 1.0]])
    rows = (math.log(1 + math.exp(-2)) + math.log(2)) / 2
    columns = (math.log(1 + math.exp(-1)) + math.log(1 + math.exp(-1))) / 2
    assert pair_loss(logits).item() == pytest.approx((rows + columns) / 2)
    scores = torch.randn(7, 7)
    order = torch.randperm(7)
    assert_same(pair_loss(scores.mT), pair_loss(scores))
    assert_same(pair_loss(scores[order][:, order]), pair_loss(scores))
    assert pair_loss(torch.zeros(7, 7)).item() == pytest.approx(math.log(7))


def test_what_cannot_be_right_is_refused_by_name():
    model, (images, ids) = CLIP(**SIZE), inputs()
    with pytest.raises(ValueError, match="image=25 is not a multiple of patch=8"):
        CLIP(**SIZE | {"image": 25})
    with pytest.raises(ValueError, match=r"\(16, 24\).*image=24"):
        model(images[..., :16, :], ids)
    with pytest.raises(ValueError, match="12 tokens do not fit the model's context=11"):
        model(images, F.pad(ids, (0, 1)))
    endless = ids.clone()
    endless[3] = 5
    with pytest.raises(ValueError, match="text 3 does not end: it has no id 36"):
        model(images, endless)
    with pytest.raises(ValueError, match="ids from 0 to 37 are not all in 0 .. 36"):
        model(images, torch.tensor([[0, 37, 36]]))
    with pytest.raises(ValueError, match=r"scores \(5, 4\)"):
        pair_loss(model(images, ids[:4]))
    with pytest.raises(ValueError, match="heads=5 does not divide dim=48"):
        CLIP(**SIZE | {"heads": 5})
    with pytest.raises(ValueError, match="known sources: official, transformers"):
        tf.load_published(model, {}, source="timm")
    with pytest.raises(KeyError, match=r"no rule for 'visual\.attnpool\.positional_embedding'"):  # a ResNet
        state = fill({"visual.proj": [48, 20], "text_projection": [40, 20], "visual.positional_embedding": [10, 48]})
        tf.load_published(model, state | {"visual.attnpool.positional_embedding": torch.zeros(2, 2)}, source="official")
