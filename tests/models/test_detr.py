"""Boxes, matchings and losses against oracles; what DETR and its successors promise; what they refuse."""

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import tformerlib as tf
from tformerlib.attention import record_attention
from tformerlib.attention.deformable import deformable_attention
from tformerlib.detection.backbone import Backbone
from tformerlib.detection.boxes import Target, area, check_targets, generalized_iou, iou, to_centers, to_corners
from tformerlib.detection.denoising import Noised, denoising_loss, noise
from tformerlib.detection.loss import detect, losses, set_loss
from tformerlib.detection.matching import (
    Focal,
    Predictions,
    Scoring,
    Softmax,
    Weights,
    assign,
    hungarian,
    in_order,
    pairwise_costs,
)
from tformerlib.layers.maps import PatchEmbed
from tformerlib.layers.positions import map_sinusoids, sinusoids, waves
from tformerlib.measures import parameter_count
from tformerlib.models.resnet import ResNet

ONE_MAP = ("detr_resnet50", "conditional_detr_resnet50", "dab_detr_resnet50", "dn_detr_resnet50")
MODELS = (*ONE_MAP, "deformable_detr_resnet50")
each_model = pytest.mark.parametrize("name", MODELS)
SMALL: dict[str, Any] = {"dim": 32, "heads": 4, "hidden": 48, "encoder": 1, "decoder": 2, "queries": 6, "classes": 3}


def small(name: str, **overrides: Any) -> Any:
    def backbone() -> ResNet:
        return ResNet(depths=(1, 1), dims=(16, 24), stem=8)

    torch.manual_seed(0)
    levels = {"levels": 3, "dim": 64} if name.startswith("deformable") else {}
    return tf.create_model(name, **SMALL | levels | {"backbone": backbone, "dropout": 0.0} | overrides)


class Patches(nn.Module):
    """A backbone whose places do not see each other."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = PatchEmbed(16, 8)

    def features(self, image: Tensor) -> list[Tensor]:
        return [self.embed(image)]


def target(*objects: tuple[int, float, float, float, float]) -> Target:
    return {
        "labels": torch.tensor([label for label, *_ in objects], dtype=torch.long),
        "boxes": torch.tensor([box for _, *box in objects], dtype=torch.float).view(-1, 4),
    }


def random(layers: int, images: int, queries: int, classes: int, seed: int = 0) -> Predictions:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(layers, images, queries, classes, generator=generator)
    boxes = 0.25 + 0.4 * torch.rand(layers, images, queries, 4, generator=generator)
    return Predictions(logits, boxes)


TARGETS = [target((2, 0.5, 0.5, 0.2, 0.4), (0, 0.3, 0.6, 0.1, 0.1)), target(), target((1, 0.7, 0.2, 0.3, 0.3))]

# --- boxes --------------------------------------------------------------------------------------------------------


def painted(a: list[int], b: list[int]) -> tuple[float, float]:
    """The oracle: IoU and generalized IoU of two boxes with whole corners in 0 .. 12, by counting pixels."""
    grid = np.zeros((2, 12, 12), dtype=bool)
    for layer, (x0, y0, x1, y1) in zip(grid, (a, b), strict=True):
        layer[y0:y1, x0:x1] = True
    both, either = (grid[0] & grid[1]).sum(), (grid[0] | grid[1]).sum()
    rows, columns = np.nonzero(grid.any(0))
    around = (np.ptp(rows) + 1) * (np.ptp(columns) + 1)
    return both / either, both / either - (around - either) / around


corner = st.tuples(st.integers(0, 11), st.integers(0, 11), st.integers(1, 12), st.integers(1, 12))
whole = corner.filter(lambda c: c[0] < c[2] and c[1] < c[3]).map(list)


@given(whole, whole)
def test_overlap_is_that_of_painted_pixels(a, b):
    expected = painted(a, b)
    a, b = torch.tensor([a]) / 12, torch.tensor([b]) / 12
    found = iou(a, b).item(), generalized_iou(a, b).item()
    assert np.allclose(found, expected, atol=1e-6)
    torch.testing.assert_close(to_corners(to_centers(a)), a)


def test_overlap_by_hand_and_where_there_is_none():
    a, b = torch.tensor([0.0, 0.0, 2.0, 2.0]), torch.tensor([1.0, 1.0, 3.0, 3.0])
    assert iou(a, b).item() == pytest.approx(1 / 7)
    assert generalized_iou(a, b).item() == pytest.approx(1 / 7 - 2 / 9)
    far = torch.tensor([8.0, 0.0, 10.0, 2.0])
    assert iou(a, far).item() == 0 and generalized_iou(a, far).item() == pytest.approx(-12 / 20)
    point = torch.tensor([1.0, 1.0, 1.0, 1.0])
    assert iou(point, point).item() == 0 and generalized_iou(point, point).item() == 0  # not NaN
    pairs = iou(torch.stack([a, far])[:, None], torch.stack([a, b, far]))
    assert pairs.shape == (2, 3) and torch.equal(pairs.round(decimals=3), torch.tensor([[1, 0.143, 0], [0, 0, 1]]))
    assert area(torch.tensor([2.0, 0.0, 1.0, 5.0])).item() == 0


def test_generalized_iou_pulls_at_boxes_that_do_not_touch_and_iou_does_not():
    a = torch.tensor([0.1, 0.1, 0.2, 0.2], dtype=torch.float64, requires_grad=True)
    b = torch.tensor([0.6, 0.5, 0.9, 0.8], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: generalized_iou(x, b), a)
    (gradient,) = torch.autograd.grad(generalized_iou(a, b), a)
    assert (gradient[2:] > 0).all()  # right and bottom should move towards b
    (gradient,) = torch.autograd.grad(iou(a, b), a, allow_unused=True)
    assert gradient is None or (gradient == 0).all()
    touching = torch.tensor([0.5, 0.4, 0.7, 0.6], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: generalized_iou(x, b), touching)


def test_targets_are_refused_by_name():
    def refuses(message: str, *targets: Target, images: int = 1) -> None:
        with pytest.raises((ValueError, TypeError), match=message):
            check_targets(targets, images=images, classes=3, queries=2)

    check_targets([target(), target((2, 0.5, 0.5, 1.0, 1.0))], images=2, classes=3, queries=2)  # none, and a full one
    refuses("1 targets for 2 images", target(), images=2)
    refuses(r"image 1 has a label outside 0 \.\. 2: label 3", target(), target((3, 0.5, 0.5, 0.1, 0.1)), images=2)
    refuses("label -1", target((-1, 0.5, 0.5, 0.1, 0.1)))
    refuses("not finite.*nan", target((1, 0.5, math.nan, 0.1, 0.1)))
    refuses(r"without width or height.*0\.0", target((1, 0.5, 0.5, 0.0, 0.1)))
    refuses("without width or height", target((1, 0.5, 0.5, 0.1, -0.1)))
    refuses("image 0 has a box that reaches over the border", target((1, 0.9, 0.5, 0.4, 0.1)))
    refuses("over the border", target((1, 40.0, 50.0, 20.0, 20.0)))  # pixels
    refuses("has 3 objects, but the model asks for 2", target(*[(0, 0.5, 0.5, 0.1, 0.1)] * 3))
    refuses(r"labels \(1,\) and boxes \(2, 4\)", {"labels": torch.tensor([1]), "boxes": torch.rand(2, 4)})
    refuses("labels are torch.float32", {"labels": torch.ones(1), "boxes": torch.full((1, 4), 0.5)})


# --- matching -----------------------------------------------------------------------------------------------------


def test_assignment_is_the_best_of_all():
    generator = torch.Generator().manual_seed(0)
    for n in (0, 1, 3, 4):
        costs = torch.randn(5, n, generator=generator)
        queries, objects = assign(costs)
        best = min(costs[list(rows), range(n)].sum().item() for rows in itertools.permutations(range(5), n))
        assert objects.tolist() == list(range(n)) and len(set(queries.tolist())) == n
        assert costs[queries, objects].sum().item() == pytest.approx(best)
    with pytest.raises(FloatingPointError, match="a matching cost is NaN"):
        assign(torch.tensor([[math.nan], [1.0]]))


@pytest.mark.parametrize("scoring", [Softmax(), Focal()])
def test_costs_are_those_of_the_paper(scoring):
    """One query and object at a time, in plain Python."""
    predictions = random(2, 3, 4, 3 + scoring.extra)
    labels, boxes = torch.tensor([[2, 0], [1, 1], [0, 2]]), 0.25 + 0.4 * torch.rand(3, 2, 4)
    costs = pairwise_costs(predictions, labels, boxes, scoring, Weights(1, 5, 2))
    for layer, image, query, thing in itertools.product(range(2), range(3), range(4), range(2)):
        logits, label = predictions.logits[layer, image, query], int(labels[image, thing])
        a, b = predictions.boxes[layer, image, query], boxes[image, thing]
        if scoring.extra:
            by_class = -logits.softmax(0)[label].item()
        else:
            p = logits.sigmoid()[label].item()
            by_class = -0.25 * (1 - p) ** 2 * math.log(p) + 0.75 * p**2 * math.log(1 - p)
        overlap = generalized_iou(to_corners(a), to_corners(b)).item()
        expected = by_class + 5 * (a - b).abs().sum().item() - 2 * overlap
        assert costs[layer, image, query, thing].item() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("scoring", [Softmax(), Focal()])
def test_a_batch_is_matched_as_its_images_and_layers_are_alone(scoring):
    predictions = random(2, 3, 6, 3 + scoring.extra)
    found = hungarian(predictions, TARGETS, scoring)
    assert found.images.tolist() == [[0, 0, 2]] * 2 and found.objects.tolist() == [[0, 1, 2]] * 2
    for layer, image in itertools.product(range(2), range(3)):
        part = Predictions(*(x[layer : layer + 1, image : image + 1] for x in predictions))
        alone = hungarian(part, TARGETS[image : image + 1], scoring)
        assert torch.equal(found.queries[layer, found.images[layer] == image], alone.queries[0])
    assert in_order(predictions, TARGETS).queries.tolist() == [[0, 1, 0]] * 2


def test_the_query_that_says_it_is_matched():
    logits = torch.full((1, 1, 4, 4), -5.0)
    logits[..., 3] = 5.0  # no object
    logits[0, 0, 2] = torch.tensor([-5.0, 9.0, -5.0, -5.0])
    boxes = torch.full((1, 1, 4, 4), 0.5)
    assert hungarian(Predictions(logits, boxes), [target((1, 0.5, 0.5, 0.5, 0.5))], Softmax()).queries.tolist() == [[2]]
    with pytest.raises(FloatingPointError):
        hungarian(Predictions(logits * math.nan, boxes), [target((1, 0.5, 0.5, 0.5, 0.5))], Softmax())


# --- the loss -----------------------------------------------------------------------------------------------------


def test_softmax_loss_by_hand():
    """Two queries: one matched with probability 3/4 on its class, one that says "no object" with 1/2."""
    logits = torch.tensor([[[[math.log(3.0), 0.0], [0.0, 0.0]]]])
    boxes = torch.tensor([[[[0.5, 0.5, 0.4, 0.4], [0.1, 0.1, 0.1, 0.1]]]])
    loss, parts = set_loss(Predictions(logits, boxes), [target((0, 0.5, 0.5, 0.2, 0.4))], Softmax())
    by_class = (math.log(4 / 3) + 0.1 * math.log(2)) / 1.1
    assert parts["class"].item() == pytest.approx(by_class, abs=1e-6)
    assert parts["l1"].item() == pytest.approx(0.2, abs=1e-6) and parts["giou"].item() == pytest.approx(0.5, abs=1e-6)
    assert loss.item() == pytest.approx(by_class + 5 * 0.2 + 2 * 0.5, abs=1e-5)


def test_focal_loss_by_hand():
    logits = torch.tensor([[[[math.log(3.0), 0.0]]]])  # probabilities 3/4 and 1/2; the truth is yes, no
    loss = Focal().loss(logits, torch.tensor([[[0]]]), objects=2).item()
    assert loss == pytest.approx((0.25 / 16 * math.log(4 / 3) + 0.75 / 4 * math.log(2)) / 2, abs=1e-6)
    wild = torch.tensor([[[[200.0, -200.0]]]], requires_grad=True)
    Focal().loss(wild, torch.tensor([[[1]]]), objects=1).sum().backward()
    assert wild.grad is not None and wild.grad.isfinite().all()


@pytest.mark.parametrize("scoring", [Softmax(), Focal()])
def test_all_layers_are_summed_and_each_has_its_own_matching(scoring):
    predictions = random(3, 3, 6, 3 + scoring.extra)
    total, parts = set_loss(predictions, TARGETS, scoring)
    alone = [set_loss(Predictions(*(x[i : i + 1] for x in predictions)), TARGETS, scoring) for i in range(3)]
    assert total.item() == pytest.approx(sum(loss.item() for loss, _ in alone), rel=1e-5)
    last, last_parts = set_loss(predictions, TARGETS, scoring, auxiliary=False)
    assert last.item() == pytest.approx(alone[-1][0].item())
    assert all(torch.equal(parts[name], last_parts[name]) for name in parts)
    best = hungarian(predictions, TARGETS, scoring)
    assert torch.equal(set_loss(predictions, TARGETS, scoring, matches=best)[0], total)
    assert set_loss(predictions, TARGETS, scoring, matches=in_order(predictions, TARGETS))[0] > total


@pytest.mark.parametrize("scoring", [Softmax(), Focal()])
def test_images_without_objects_teach_no_object_and_nothing_else(scoring):
    logits, boxes = (x.requires_grad_() for x in random(1, 2, 4, 3 + scoring.extra))
    loss, parts = set_loss(Predictions(logits, boxes), [target(), target()], scoring)
    loss.backward()
    assert parts["l1"] == 0 and parts["giou"] == 0 and loss > 0
    assert boxes.grad is not None and (boxes.grad == 0).all()
    gradient = logits.grad
    assert gradient is not None and (gradient[..., :3] > 0).all()  # descent lowers every class
    with pytest.raises(ValueError, match=r"label outside 0 \.\. 2"):
        set_loss(Predictions(logits, boxes), [target((3, 0.5, 0.5, 0.1, 0.1)), target()], scoring)


def test_boxes_gradients_reach_matched_queries_alone():
    predictions = random(1, 1, 5, 4)
    predictions.boxes.requires_grad_()
    matches = hungarian(predictions, TARGETS[:1], Softmax())
    parts = losses(predictions, TARGETS[:1], Softmax(), matches)
    (parts["l1"] + parts["giou"]).sum().backward()
    touched = predictions.boxes.grad[0, 0].abs().sum(-1).nonzero().flatten()
    assert touched.tolist() == sorted(matches.queries[0].tolist())


# --- detections ---------------------------------------------------------------------------------------------------


def test_detections_are_sorted_scaled_and_one_class_a_query_by_softmax():
    logits = torch.tensor([[[[0.0, 4.0, 0.0, 0.0], [3.0, 0.0, 0.0, 9.0], [5.0, 4.9, 0.0, 0.0]]]])
    boxes = torch.tensor([[[[0.5, 0.5, 0.2, 0.4], [0.3, 0.3, 0.2, 0.2], [0.25, 0.5, 0.5, 1.0]]]])
    (found,) = detect(Predictions(logits, boxes), Softmax(), sizes=[(100, 200)])
    assert found.labels.tolist() == [1, 0, 0] and found.boxes[1].tolist() == [0, 0, 100, 100]
    torch.testing.assert_close(found.boxes[0], torch.tensor([80.0, 30.0, 120.0, 70.0]))
    assert found.scores.tolist() == sorted(found.scores.tolist(), reverse=True)
    (sure,) = detect(Predictions(logits, boxes), Softmax(), threshold=0.3, top=1)
    assert sure.labels.tolist() == [1]
    (both,) = detect(Predictions(logits[..., :3], boxes), Focal(), threshold=0.9)
    assert sorted(both.labels.tolist()) == [0, 0, 1, 1]  # a query may stand for two classes
    assert sorted(both.boxes[:, 0].tolist()) == pytest.approx([0.0, 0.0, 0.2, 0.4])
    with pytest.raises(ValueError, match="1 sizes for 2 images"):
        detect(Predictions(logits.repeat(1, 2, 1, 1), boxes.repeat(1, 2, 1, 1)), Softmax(), sizes=[(3, 3)])


# --- positions and backbones --------------------------------------------------------------------------------------


def test_waves_pass_through_the_sinusoids_and_maps_ignore_padding():
    torch.testing.assert_close(waves(torch.arange(9.0), 8), sinusoids(9, 8), atol=1e-5, rtol=0)
    mask = torch.zeros(1, 6, 8, dtype=torch.bool)
    mask[:, :3, :4] = True
    full = map_sinusoids(torch.ones(1, 3, 4, dtype=torch.bool), 16)
    torch.testing.assert_close(map_sinusoids(mask, 16)[:, :3, :4], full)
    assert torch.equal(full[0, 0, :, :8], full[0, 0, :1, :8].expand(4, 8))  # y first: the same along a row
    with pytest.raises(ValueError, match="dim=3 is odd"):
        waves(torch.zeros(2), 3)


def test_a_backbone_is_any_model_with_maps():
    for name, dims in (("resnet18", [256, 512]), ("swin_tiny", [384, 768])):
        body = Backbone(lambda name=name: tf.create_model(name), levels=2)
        maps, masks = body(torch.randn(1, 3, 64, 96))
        assert body.dims == dims == [x.shape[-1] for x in maps] and [x.shape[1:3] for x in masks] == [(4, 6), (2, 3)]
        assert "head" not in dict(body.body.named_children()) and body.body.training
    with pytest.raises(ValueError, match="levels=5, but ResNet has 4 maps"):
        Backbone(lambda: tf.create_model("resnet18"), levels=5)


# --- the models ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name,count",
    [
        ("detr_resnet50", 41_524_768),
        ("detr_resnet101", 60_464_672),
        ("conditional_detr_resnet50", 43_418_401),
        ("dab_detr_resnet50", 43_671_517),
        ("dn_detr_resnet50", 43_671_517 + 92 * 255),  # with an embedding of the labels and "unknown"
        ("deformable_detr_resnet50", 40_069_665),
    ],
)
def test_parameter_counts(name, count):
    """Of transformers' models; the frozen norms of the backbone have none."""
    with torch.device("meta"):
        assert parameter_count(tf.create_model(name)) == count


def images() -> Tensor:
    return torch.randn(2, 3, 48, 64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", ONE_MAP)
def test_what_is_padding_does_not_matter(name):
    """Of Deformable DETR this is not true: padding enters its GroupNorms."""
    model, whole = small(name, backbone=Patches).eval(), images()
    padded = torch.randn(2, 3, 64, 80, generator=torch.Generator().manual_seed(3))
    padded[..., :48, :64] = whole
    mask = torch.zeros(2, 64, 80, dtype=torch.bool)
    mask[:, :48, :64] = True
    found, expected = model(padded, mask), model(whole)
    torch.testing.assert_close(found.boxes, expected.boxes, atol=1e-5, rtol=0)
    torch.testing.assert_close(found.logits, expected.logits, atol=1e-4, rtol=0)
    assert (model(padded).logits - expected.logits).abs().max() > 1e-3  # without the mask it does


@each_model
def test_queries_know_no_order(name):
    model, order = small(name).eval(), torch.tensor([3, 1, 5, 0, 2, 4])
    expected = model(images())
    with torch.no_grad():
        for learned in (p for name, p in model.named_parameters() if name in ("anchors", "queries", "contents")):
            learned.copy_(learned[order])
    torch.testing.assert_close(model(images()).boxes, expected.boxes[:, :, order], atol=1e-6, rtol=0)


@each_model
def test_a_small_one_learns_one_batch_by_heart(name):
    model = small(name, encoder=1, decoder=2)
    targets = [target((0, 0.3, 0.3, 0.2, 0.2), (1, 0.7, 0.6, 0.3, 0.4)), target((2, 0.5, 0.5, 0.5, 0.5))]
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0)
    first = last = 0.0
    for step in range(80):
        loss, _ = set_loss(model(images()), targets, model.scoring)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        optimizer.step()
        first, last = (loss.item() if step == 0 else first), loss.item()
    assert last < first / 4
    found = detect(model.eval()(images()), model.scoring)
    for each, truth in zip(found, targets, strict=True):
        n = len(truth["labels"])
        assert sorted(each.labels[:n].tolist()) == sorted(truth["labels"].tolist())


@each_model
def test_attention_is_recorded_in_the_order_it_is_made(name):
    model = small(name).eval()
    expected = model(images())
    with record_attention() as weights:
        found = model(images())
    assert torch.equal(found.boxes, expected.boxes)
    if name.startswith("deformable"):
        maps = [(12, 16), (6, 8), (3, 4)]
        places, keys = sum(h * w for h, w in maps), 3 * 4
        assert [tuple(w.shape[1:]) for w in weights] == [(4, places, keys)] + [(4, 6, 6), (4, 6, keys)] * 2
    else:
        assert [tuple(w.shape[1:]) for w in weights] == [(4, 48, 48)] + [(4, 6, 6), (4, 6, 48)] * 2
    assert all(torch.allclose(w.sum(-1), torch.ones(())) for w in weights)


@each_model
def test_models_refuse_what_they_cannot_see(name):
    model = small(name).eval()
    with pytest.raises(ValueError, match=r"images \(3, 48, 64\) are not"):
        model(images()[0])
    with pytest.raises(ValueError, match=r"mask \(2, 64, 48\) does not fit"):
        model(images(), torch.ones(2, 64, 48, dtype=torch.bool))
    with pytest.raises(TypeError, match=r"mask is torch.float32"):
        model(images(), torch.ones(2, 48, 64))
    mask = torch.ones(2, 48, 64, dtype=torch.bool)
    mask[1] = False
    with pytest.raises(ValueError, match="image 1 is all padding"):
        model(images(), mask)
    tiny = model(torch.randn(1, 3, 5, 3))  # smaller than a stride: a map of one place
    assert tiny.boxes.isfinite().all() and ((tiny.boxes > 0) & (tiny.boxes < 1)).all()
    with pytest.raises(ValueError, match="heads=5 does not divide dim="):
        small(name, heads=5)


def test_scoring_is_one_of_two():
    scorings: list[Scoring] = [Softmax(), Focal()]
    assert [s.extra for s in scorings] == [1, 0] and small("detr_resnet50").classify.out_features == 4
    assert small("conditional_detr_resnet50").classify.out_features == 3


# --- denoising ----------------------------------------------------------------------------------------------------


def shaken(**options: Any) -> Noised:
    settings: dict[str, Any] = {"classes": 3, "groups": 3, "generator": torch.Generator().manual_seed(0)}
    return noise(TARGETS, **settings | options)


def test_noise_is_of_the_size_it_is_said_to_be():
    exact = shaken(flip=0.0, shake=0.0)
    assert exact.labels.shape == (3, 6) and exact.real.tolist() == [[True] * 6, [False] * 6, [True, False] * 3]
    assert exact.objects[exact.real].tolist() == [0, 1] * 3 + [2] * 3
    assert exact.labels[exact.real].tolist() == [2, 0] * 3 + [1] * 3
    every = torch.cat([t["boxes"] for t in TARGETS])
    torch.testing.assert_close(exact.boxes[exact.real], every[exact.objects[exact.real]])
    many = shaken(groups=2000, flip=0.5, shake=0.4)
    true = every[many.objects]
    moved = (many.boxes - true)[many.real] / true[many.real]
    assert (moved[:, :2] * true[many.real][:, :2]).abs().max() < 0.2 * 0.4  # of the widest side, half of 0.4 of it
    assert moved[:, 2:].abs().max() <= 0.4 + 1e-6 and moved[:, 2:].abs().max() > 0.39
    labels = torch.cat([t["labels"] for t in TARGETS])
    wrong = (many.labels != labels[many.objects])[many.real].float().mean().item()
    assert wrong == pytest.approx(0.5 * 2 / 3, abs=0.02)  # a random label is the true one in a third
    assert ((many.boxes >= 0) & (many.boxes <= 1)).all()
    for options, message in (({"groups": 0}, "groups=0"), ({"flip": 1.5}, "flip=1.5"), ({"shake": 1.0}, "shake=1.0")):
        with pytest.raises(ValueError, match=message):
            shaken(**options)
    with pytest.raises(ValueError, match=r"label outside 0 \.\. 1"):
        shaken(classes=2)


def test_what_is_denoised_is_never_seen_by_what_is_matched():
    model = small("dn_detr_resnet50").eval()
    three = torch.randn(3, 3, 48, 64, generator=torch.Generator().manual_seed(1))
    alone, noised = model(three), shaken()
    matched, extra, matches = noised.split(model(three, None, noised))
    torch.testing.assert_close(matched.logits, alone.logits, atol=1e-5, rtol=0)
    torch.testing.assert_close(matched.boxes, alone.boxes, atol=1e-6, rtol=0)
    assert extra.logits.shape == (2, 1, 9, 3) and matches.objects.tolist() == [[0, 1] * 3 + [2] * 3] * 2

    class Leaky(Noised):
        def apart(self, queries: int) -> Tensor:
            return torch.ones_like(super().apart(queries))

    leaked, _, _ = noised.split(model(three, None, Leaky(*noised)))
    assert (leaked.logits - alone.logits).abs().max() > 1e-3  # so the test above can fail


def test_groups_and_padding_do_not_see_each_other():
    model = small("dn_detr_resnet50").eval()
    three = torch.randn(3, 3, 48, 64, generator=torch.Generator().manual_seed(1))
    noised = shaken()
    expected = model(three, None, noised).boxes[:, :, 6:]
    boxes = noised.boxes.clone()
    boxes[0, 2:4] = 0.5  # the second group of the first image
    boxes[~noised.real] = 0.9
    found = model(three, None, noised._replace(boxes=boxes)).boxes[:, :, 6:]
    assert (found[:, 0, 2:4] - expected[:, 0, 2:4]).abs().max() > 1e-3
    torch.testing.assert_close(found[:, 0, [0, 1, 4, 5]], expected[:, 0, [0, 1, 4, 5]], atol=1e-6, rtol=0)
    torch.testing.assert_close(found[:, 2, ::2], expected[:, 2, ::2], atol=1e-6, rtol=0)
    with pytest.raises(ValueError, match="noised objects of 3 images for 2 images"):
        model(images(), None, noised)


def test_denoising_adds_the_loss_of_known_pairs():
    model, noised = small("dn_detr_resnet50"), shaken()
    three = torch.randn(3, 3, 48, 64, generator=torch.Generator().manual_seed(1))
    predictions = model(three, None, noised)
    loss, parts = denoising_loss(predictions, TARGETS, noised, model.scoring)
    matched, extra, _ = noised.split(predictions)
    every = torch.cat([t["boxes"] for t in TARGETS])[noised.objects[noised.real]]
    l1 = (extra.boxes[-1, 0] - every).abs().sum().item() / 9
    assert parts["denoised l1"].item() == pytest.approx(l1, rel=1e-5)
    assert loss > set_loss(matched, TARGETS, model.scoring)[0]
    loss.backward()
    assert all(p.grad is not None for p in model.parameters())
    nothing = noise([target(), target()], classes=3)
    found = model(images(), None, nothing)
    none, parts = denoising_loss(found, [target(), target()], nothing, model.scoring)
    assert none.item() == pytest.approx(set_loss(found, [target(), target()], model.scoring)[0].item())
    assert none > 0 and "denoised l1" not in parts


# --- deformable attention -----------------------------------------------------------------------------------------


def test_points_are_sampled_as_by_hand():
    """The oracle: four neighbors of each point, one at a time, zero beyond the border; a center is at half a place."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(3, 4), (2, 2)]
    v = torch.randn(1, 16, 2, 3, generator=generator, dtype=torch.float64)
    at = torch.rand(1, 5, 2, 2, 2, 2, generator=generator, dtype=torch.float64) * 1.4 - 0.2
    weights = torch.rand(1, 5, 2, 2, 2, generator=generator, dtype=torch.float64)
    expected = torch.zeros(1, 5, 2, 3, dtype=torch.float64)
    for query, head, level, point in itertools.product(range(5), range(2), range(2), range(2)):
        h, w = shapes[level]
        grid = v[0, :, head].split([12, 4])[level].view(h, w, 3)
        x, y = (at[0, query, head, level, point] * torch.tensor([w, h]) - 0.5).tolist()
        for row, column in itertools.product((math.floor(y), math.floor(y) + 1), (math.floor(x), math.floor(x) + 1)):
            if 0 <= row < h and 0 <= column < w:
                share = (1 - abs(y - row)) * (1 - abs(x - column)) * weights[0, query, head, level, point]
                expected[0, query, head] += share * grid[row, column]
    torch.testing.assert_close(deformable_attention(v, at, weights, shapes), expected)
    with pytest.raises(ValueError, match="shapes="):
        deformable_attention(v, at, weights, [(3, 4), (2, 3)])
