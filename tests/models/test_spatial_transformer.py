"""Spatial Transformers: warps and sampling against scipy, scikit-image and torch, and what the networks promise."""

import copy
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.interpolate import RBFInterpolator
from scipy.ndimage import map_coordinates
from skimage.transform import ProjectiveTransform, ThinPlateSplineTransform
from torch import Tensor, nn

import tformerlib as tf
from tformerlib.layers.warps import Affine, Projective, ThinPlate, Warp, centers, sample
from tformerlib.models.spatial_transformer import SpatialTransformer, SpatialTransformerNetwork
from tformerlib.peers.parity import TOLERANCE, assert_same, widen

SIZE = 11, 7  # rows, columns
WARPS = [Affine, Projective, ThinPlate, partial(ThinPlate, side=3)]
SMALL: dict[str, Any] = {"image": 20, "classes": 5, "hidden": (6, 7), "localizer": (3, 5)}
VARIANTS = [name for name in tf.list_models("st_*") if "_cnn_" in name or "_fcn_" in name]


def draw(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def parts(model: nn.Module) -> list[SpatialTransformer]:
    return [module for module in model.modules() if isinstance(module, SpatialTransformer)]


def by_scipy(images: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Images (B, C, H, W) at places (B, h, w, 2) in -1 .. 1, by scipy's interpolation of the first order."""
    height, width = images.shape[-2:]
    x, y = ((places[..., i] + 1) * n / 2 - 0.5 for i, n in ((0, width), (1, height)))
    return np.stack([
        [map_coordinates(channel, [y[b], x[b]], order=1, mode="grid-constant") for channel in image]
        for b, image in enumerate(images)
    ])  # fmt: skip


def reference(warp: Warp, theta: np.ndarray) -> np.ndarray:
    """The places (h, w, 2) of one warp, by scikit-image and scipy."""
    points = centers(*warp.size).double().numpy()
    if isinstance(warp, ThinPlate):
        control = warp.identity.view(2, -1).T.double().numpy()
        found = RBFInterpolator(control, theta.reshape(2, -1).T, kernel="thin_plate_spline", degree=1)(points)
    else:
        rows = np.append(theta, [0, 0, 1] if len(theta) == 6 else [1]).reshape(3, 3)
        found = ProjectiveTransform(rows)(points)
    return found.reshape(*warp.size, 2)


def test_sampling_equals_scipy_also_across_the_border():
    images, places = draw(3, 2, 5, 8).double(), draw(3, *SIZE, 2, seed=2).double()
    assert 0.2 < (places.abs() > 1).any(-1).double().mean() < 0.8
    ours = sample(images, places)
    assert_same(ours, torch.from_numpy(by_scipy(images.numpy(), places.numpy())))
    assert_same(sample(images.float(), places.float()).double(), ours, "in float32")


@pytest.mark.parametrize("make", WARPS)
def test_places_equal_scikit_image_and_scipy(make):
    warp = make(SIZE)
    theta = warp.identity + 0.2 * draw(3, len(warp.identity))
    expected = np.stack([reference(warp, each) for each in theta.double().numpy()])
    assert_same(warp(theta).double(), torch.from_numpy(expected))


def test_splines_equal_scikit_images_too():
    warp = ThinPlate(SIZE)
    moved = warp.identity.view(2, -1).T.numpy() + 0.2 * draw(16, 2).numpy()
    theirs = ThinPlateSplineTransform.from_estimate(warp.identity.view(2, -1).T.numpy(), moved)
    ours = warp(torch.from_numpy(moved.T.reshape(1, -1))).flatten(1, 2)[0]
    assert_same(ours.double(), torch.from_numpy(theirs(centers(*SIZE).double().numpy())))


def test_affine_equals_torchs_grid():
    theta = torch.eye(2, 3).flatten() + 0.3 * draw(3, 6)
    grid = F.affine_grid(theta.view(-1, 2, 3), [3, 1, *SIZE], align_corners=False)
    assert_same(Affine(SIZE)(theta), grid)


@pytest.mark.parametrize("make", WARPS)
def test_gradients_equal_differences_of_the_reference(make):
    """By theta and by the image, in float64, through scipy alone."""
    warp = make(SIZE).double()
    theta = (warp.identity + 0.1 * draw(1, len(warp.identity))).double().requires_grad_()
    images, weights = draw(1, 2, 6, 9).double().requires_grad_(), draw(1, 2, *SIZE, seed=4).double()
    (sample(images, warp(theta)) * weights).sum().backward()

    def value(theta: np.ndarray, images: np.ndarray) -> float:
        return float((by_scipy(images, reference(warp, theta)[None]) * weights.numpy()).sum())

    start, pixels, step = theta.detach().numpy()[0], images.detach().numpy(), 1e-6
    by_theta = [
        (value(start + step * one, pixels) - value(start - step * one, pixels)) / (2 * step)
        for one in np.eye(len(start))
    ]
    assert theta.grad is not None and images.grad is not None
    assert_same(theta.grad[0], torch.tensor(by_theta, dtype=torch.float64), "gradient by theta")
    places = np.ndindex(images.shape)
    by_pixel = [value(start, pixels + (np.arange(pixels.size).reshape(pixels.shape) == i)) - value(start, pixels)
                for i, _ in enumerate(places)]  # fmt: skip
    assert_same(images.grad.flatten(), torch.tensor(by_pixel, dtype=torch.float64), "gradient by the image")


def by_parts(model: SpatialTransformerNetwork, images: Tensor) -> Tensor:
    """The whole network in torch's functions and scipy's, with the weights of ours: (B, classes)."""
    state = dict(model.state_dict())

    def body(name: str, x: Tensor) -> Tensor:
        for key in [k.removesuffix(".weight") for k in state if k.startswith(f"{name}.") and k.endswith(".weight")]:
            w, b = state[f"{key}.weight"], state[f"{key}.bias"]
            x = F.max_pool2d(F.conv2d(x, w, b), 2) if w.ndim == 4 else F.linear(x.flatten(1), w, b)
            x = x.relu()
        return x.flatten(1)

    views = []
    for i, transformer in enumerate(parts(model)):
        prefix = f"transformers.{i}"
        features = body(f"{prefix}.body", images)
        theta = features @ state[f"{prefix}.regress.weight"].T + state[f"{prefix}.regress.bias"]
        places = np.stack([reference(transformer.warp, each) for each in theta.numpy()])
        views.append(torch.from_numpy(by_scipy(images.numpy(), places)))
    seen = torch.cat(views or [images], 1)
    return F.linear(body("body", seen), state["head.weight"], state["head.bias"])


@pytest.mark.parametrize("convolutions", [True, False])
@pytest.mark.parametrize("warp,transformers", [(None, 1), (Affine, 1), (Projective, 1), (ThinPlate, 1), (Affine, 2)])
def test_networks_equal_torch_and_scipy(warp, transformers: int, convolutions: bool):
    """With wide weights, logits and every gradient; of our path by autograd, of theirs by differences of the loss."""
    model = SpatialTransformerNetwork(**SMALL, warp=warp, transformers=transformers, convolutions=convolutions)
    widen(model.double())
    for transformer in parts(model):
        with torch.no_grad():
            transformer.regress.weight.mul_(0.05)  # still far from the identity, and within the image
            transformer.regress.bias.copy_(transformer.warp.identity + 0.1 * draw(len(transformer.regress.bias)))
    images = draw(2, 1, 20, 20, seed=3).double()
    logits, weights = model(images), draw(2, 5, seed=5).double()
    assert logits.std() > 0.1
    with torch.no_grad():
        assert_same(logits, by_parts(model, images))
        assert_same(copy.deepcopy(model).float()(images.float()).double(), logits, "in float32")
    (logits * weights).sum().backward()
    for name, p in model.named_parameters():
        assert p.grad is not None and p.grad.abs().sum() > 0, name
        direction = draw(*p.shape, seed=6).double()
        ends = []
        for sign in (1, -1):
            with torch.no_grad():
                p.add_(sign * 1e-8 * direction)
                ends.append((by_parts(model, images) * weights).sum())
                p.sub_(sign * 1e-8 * direction)
        along, scale = (p.grad * direction).sum(), max(1.0, p.grad.norm().item())
        assert abs((ends[0] - ends[1]) / 2e-8 - along) <= TOLERANCE * scale, name


@pytest.mark.parametrize("name", VARIANTS)
def test_an_untrained_transformer_changes_nothing(name: str):
    model, images = tf.create_model(name), draw(2, 1, 28, 28)
    (transformer,) = parts(model)
    assert_same(transformer(images), images)
    model(images).square().sum().backward()
    assert transformer.regress.weight.grad is not None
    assert transformer.regress.weight.grad.abs().sum() > 0, "zero weights have a gradient"


def test_parity_catches_mistakes_that_people_make():
    images = draw(2, 1, 9, 9)
    turn = torch.tensor([[0.0, -1, 0, 1, 0, 0]]).expand(2, -1)  # a quarter turn: x of the input is -y of the output
    ours = sample(images, Affine((9, 9))(turn))
    assert torch.allclose(ours, images.rot90(1, (2, 3)), atol=1e-5)
    for wrong in (
        sample(images, Affine((9, 9))(turn).flip(-1)),  # (y, x)
        F.grid_sample(images, Affine((9, 9))(0.9 * turn), align_corners=True),
        images.rot90(-1, (2, 3)),  # input to output
    ):
        assert (ours - wrong).abs().max() > 0.1


def test_moves_zooms_and_crops_go_the_way_the_paper_says():
    image = torch.zeros(1, 1, 8, 8)
    image[0, 0, 2:4, 4:8] = 1  # upper right
    right = sample(image, Affine((8, 8))(torch.tensor([[1.0, 0, 0.5, 0, 1, 0]])))
    assert torch.allclose(right, image.roll(-2, 3) * (torch.arange(8) < 6), atol=1e-5), "looks further right"
    crop = sample(image, Affine((2, 4))(torch.tensor([[0.5, 0, 0.5, 0, 0.25, -0.25]])))
    assert torch.allclose(crop, torch.ones(1, 1, 2, 4), atol=1e-5), "a smaller area is looked at"


def test_a_spline_through_an_affine_grid_is_that_affine_map():
    theta = torch.eye(2, 3) + 0.2 * draw(2, 3)
    spline = ThinPlate(SIZE)
    control = F.pad(spline.identity.view(2, -1), (0, 0, 0, 1), value=1.0)  # (3, 16): x, y, 1
    assert_same(spline((theta @ control).view(1, -1)), Affine(SIZE)(theta.view(1, -1)))


def test_a_projection_without_perspective_is_affine_and_a_horizon_is_empty():
    theta = torch.eye(2, 3).flatten()[None] + 0.2 * draw(1, 6)
    assert_same(Projective(SIZE)(F.pad(theta, (0, 2))), Affine(SIZE)(theta))
    at_the_middle = torch.tensor([[1.0, 0, 0, 0, 1, 0, -2, 0]])  # divides by 1 - 2 x: zero at x = 0.5, of four columns
    assert sample(torch.ones(1, 1, 5, 5), Projective((3, 2))(at_the_middle)).isfinite().all()


def test_parameters_are_about_equal_as_the_paper_has_it():
    counts = {name: sum(p.numel() for p in tf.create_model(name).parameters()) for name in [
        *VARIANTS, "cnn_digits", "fcn_digits"]}  # fmt: skip
    assert len(counts) == 8 and max(counts.values()) / min(counts.values()) < 1.03
    convolutions = [m for name in VARIANTS if "fcn" in name for m in tf.create_model(name).modules()]
    assert not any(isinstance(m, nn.Conv2d) for m in convolutions)
    # by pencil: two convolutions, a linear layer; two convolutions and a regression of six numbers
    pencil = (25 + 1) * 31 + (25 * 31 + 1) * 62 + (16 * 62 + 1) * 10
    assert counts["st_cnn_affine"] == pencil + (25 + 1) * 12 + (25 * 12 + 1) * 24 + (16 * 24 + 1) * 6


@pytest.mark.parametrize("transformers", [1, 2])
def test_the_loss_alone_teaches_a_localizer_to_look(transformers: int):
    """A dot somewhere in the image; the view is asked to have it in the middle. Training mode and eval mode agree."""
    torch.manual_seed(0)
    sizes = SMALL | {"localizer": (32, 16), "convolutions": False}
    model = SpatialTransformerNetwork(**sizes, warp=Affine, transformers=transformers)
    x, y = torch.rand(2, 64, 1, 1, generator=torch.Generator().manual_seed(7)) - 0.5
    at = centers(20, 20)
    dots = torch.exp(-8 * ((at[:, 0] - x[:, 0]).square() + (at[:, 1] - y[:, 0]).square())).view(64, 1, 20, 20)
    middle = torch.exp(-8 * at.square().sum(-1)).view(1, 1, 20, 20)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    losses = []
    for _ in range(60):
        loss = sum(((view - middle).square().mean() for view in model.views(dots)), torch.zeros(()))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 4
    assert torch.equal(model.train()(dots), model.eval()(dots))


@pytest.mark.parametrize(
    "call,message",
    [
        (lambda: Affine((3, 3))(torch.ones(2, 5)), r"theta \(2, 5\): Affine takes \(B, 6\)"),
        (lambda: ThinPlate((3, 3))(torch.ones(32)), r"theta \(32,\): ThinPlate takes \(B, 32\)"),
        (lambda: ThinPlate((3, 3), side=1), "side=1: a spline needs"),
        (lambda: sample(torch.ones(2, 1, 4, 4), torch.zeros(1, 3, 3, 2)), r"places \(1, 3, 3, 2\) for images \(2, 1"),
        (lambda: sample(torch.ones(1, 1, 4, 4), torch.zeros(1, 2, 3, 3)), r"places \(1, 2, 3, 3\)"),
        (lambda: tf.create_model("st_cnn_affine", image=15), "image=15: nothing is left of it"),
        (lambda: tf.create_model("st_cnn_affine", transformers=0), "transformers=0: for none, leave out the warp"),
        (lambda: tf.create_model("cnn_digits", warp=Affine), r"localizer=\(0, 0\): a warp needs one"),
    ],
)
def test_what_cannot_be_right_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
