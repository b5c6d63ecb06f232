"""Probes: similarity against its definition and others' numbers, layers left out, and images disturbed."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import scipy.ndimage
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tformerlib.models.vit import ViT
from tformerlib.peers.golden import uniform
from tformerlib.peers.parity import widen
from tformerlib.probes import (
    blurred,
    cka,
    cka_map,
    fgsm,
    hsic,
    noisy,
    occluded,
    outputs_of,
    pgd,
    shuffled,
    without,
)  # fmt: skip
from tformerlib.probes.similarity import gram

GOLDEN = json.loads((Path(__file__).parents[2] / "data/golden/what_vits_see.json").read_text("utf-8"))
SHAPES = {"a": (24, 3, 5), "b": (24, 11), "c": (24, 4)}


def representations(batch: int) -> dict[str, Tensor]:
    """Three layers of one batch that share a part, as when the numbers were recorded."""
    shared = uniform(f"shared {batch}", (24, 4))
    found = {}
    for name, shape in SHAPES.items():
        flat = uniform(f"{name} {batch}", shape).flatten(1)
        found[name] = (flat + shared @ uniform(f"mix {name}", (4, flat.shape[1]))).view(shape)
    return found


@pytest.mark.parametrize("package", GOLDEN)
def test_cka_equals_others(package: str) -> None:
    recorded, batches = GOLDEN[package], [representations(i) for i in range(3)]
    for pair, values in recorded["hsic"].items():
        mine = [hsic(gram(x[pair[0]]), gram(x[pair[1]])).item() for x in batches]
        assert mine == pytest.approx(values, rel=1e-9)

    class Given(nn.Module):
        """Hands out the recorded layers of the batch whose number it is given."""

        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleDict({name: nn.Identity() for name in SHAPES})

        def forward(self, x: Tensor) -> None:
            for name, y in representations(int(x)).items():
                self.layers[name](y)

    numbers = [torch.tensor(i) for i in range(3)]
    found = cka_map(numbers, Given(), [f"layers.{name}" for name in SHAPES])
    for (i, a), (j, b) in itertools.product(enumerate("abc"), repeat=2):
        assert found[i, j].item() == pytest.approx(recorded["cka"][a + b], rel=1e-9)


def test_the_estimate_is_the_mean_over_all_quadruples() -> None:
    """The U-statistic that Song et al. (2012) define: over all ordered choices of four different examples."""
    x, y = torch.randn(7, 3, dtype=torch.float64), torch.randn(7, 2, dtype=torch.float64)
    k, l = gram(x), gram(y)
    terms = [k[i, j] * (l[i, j] + l[q, r] - 2 * l[i, q]) for i, j, q, r in itertools.permutations(range(7), 4)]
    assert hsic(k, l).item() == pytest.approx(torch.stack(terms).mean().item(), rel=1e-12)


def test_what_cka_does_not_see() -> None:
    x, turn = torch.randn(40, 6), torch.linalg.qr(torch.randn(6, 6))[0]
    tokens = torch.randn(40, 5, 6)
    assert cka(x, x @ turn) == pytest.approx(1, abs=1e-6)  # a rotation
    assert cka(x, 7 * x) == pytest.approx(1, abs=1e-9)
    assert cka(x, x + 100) == pytest.approx(1, abs=1e-6)  # a shift
    assert cka(tokens, tokens[:, torch.randperm(5)]) == pytest.approx(1, abs=1e-9)  # the order of tokens
    assert cka(x, x @ torch.diag(torch.tensor([9.0, 1, 1, 1, 1, 1]))) < 0.9  # but a stretch
    assert cka(x, x[torch.randperm(40)]) < 0.5  # and other examples


def test_the_estimate_is_unbiased_where_the_usual_one_is_not() -> None:
    draws = [cka(torch.randn(12, 50), torch.randn(12, 50)) for _ in range(200)]
    assert abs(np.mean(draws)) < 0.02
    center = torch.eye(12, dtype=torch.float64) - 1 / 12
    biased = []
    for _ in range(50):
        k, l = (center @ gram(torch.randn(12, 50)) @ center for _ in range(2))
        biased.append(((k * l).sum() / (k.norm() * l.norm())).item())
    assert np.mean(biased) > 0.7


@pytest.mark.parametrize(
    ("k", "l", "message"),
    [((3, 3), (3, 3), "n=3 examples"), ((5, 5), (6, 6), "two square"), ((5, 4), (5, 4), "two square")],
)
def test_estimates_that_cannot_be_made_are_refused(k: tuple[int, int], l: tuple[int, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        hsic(torch.ones(k), torch.ones(l))


# --- layers -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def vit() -> ViT:
    model = ViT(image=16, patch=4, dim=24, depth=3, heads=3, classes=7)
    widen(model)
    return model.eval()


def test_outputs_are_those_on_the_way_and_hooks_are_gone(vit: ViT) -> None:
    x = torch.randn(4, 3, 16, 16)
    found = outputs_of(vit, ["blocks.0", "blocks.2"], x)
    first = vit.blocks[0](vit.embed(x)) if hasattr(vit, "embed") else found["blocks.0"]
    assert list(found) == ["blocks.0", "blocks.2"] and torch.equal(found["blocks.0"], first)
    torch.testing.assert_close(vit.head(vit.norm(found["blocks.2"])[:, 0]), vit(x))
    assert not any(module._forward_hooks for module in vit.modules())
    with pytest.raises(ValueError, match="no submodules \\['blocks.9'\\]"):
        outputs_of(vit, ["blocks.9"], x)


def test_a_model_without_a_block_is_the_model_with_one_less(vit: ViT) -> None:
    x, shorter = torch.randn(2, 3, 16, 16), ViT(image=16, patch=4, dim=24, depth=2, heads=3, classes=7).eval()
    state = {n.replace("blocks.2", "blocks.1"): v for n, v in vit.state_dict().items() if "blocks.1." not in n}
    shorter.load_state_dict(state)
    whole = vit(x)
    with without(vit, "blocks.1"):
        torch.testing.assert_close(vit(x), shorter(x))
    assert torch.equal(vit(x), whole)
    with pytest.raises(ValueError, match=r"Linear makes \(2, 7\) of \(2, 24\)"), without(vit, "head"):
        vit(x)
    assert torch.equal(vit(x), whole)


# --- images -----------------------------------------------------------------------------------------------------------


def test_blur_is_scipys() -> None:
    x = torch.rand(2, 3, 24, 20, dtype=torch.float64)
    for sigma in (0.5, 1.3, 2.0):
        theirs = scipy.ndimage.gaussian_filter(
            x.numpy(), (0, 0, sigma, sigma), mode="mirror", radius=int(np.ceil(4 * sigma))
        )
        np.testing.assert_allclose(blurred(x, sigma).numpy(), theirs, atol=1e-6)
    with pytest.raises(ValueError, match="sigma=9"):
        blurred(x, 9)


def test_covered_noisy_and_shuffled_images() -> None:
    x = torch.rand(6, 3, 12, 12)
    covered = occluded(x, 4)
    changed = (covered != x).any(1)
    assert changed.sum((1, 2)).tolist() == [16] * 6 and (covered[changed[:, None].expand_as(x)] == 0.5).all()
    assert len({tuple(image.nonzero()[0].tolist()) for image in changed}) > 1
    assert abs((noisy(torch.full((1, 3, 200, 200), 0.5), 0.1) - 0.5).std() - 0.1) < 0.002
    mixed = shuffled(x, 4)
    sums = lambda images: F.avg_pool2d(images, 4).flatten(2)  # noqa: E731
    torch.testing.assert_close(sums(mixed).sort(-1).values, sums(x).sort(-1).values)
    assert not torch.equal(mixed, x) and torch.equal(mixed, shuffled(x, 4))
    with pytest.raises(ValueError, match="patch=5"):
        shuffled(x, 5)


def test_attacks_stay_within_their_budget_and_pgd_is_the_stronger(vit: ViT) -> None:
    x, labels = torch.rand(8, 3, 16, 16), torch.arange(8) % 7
    classify = lambda images: vit(2 * images - 1)  # noqa: E731
    loss = lambda images: F.cross_entropy(classify(images), labels).item()  # noqa: E731
    one, many = fgsm(classify, x, labels, 0.02), pgd(classify, x, labels, 0.02, steps=20)
    for attacked in (one, many):
        assert (attacked - x).abs().max() <= 0.02 + 1e-6 and attacked.min() >= 0 and attacked.max() <= 1
    assert loss(x) < loss(one) < loss(many)
    inside = (x > 0.02) & (x < 0.98)
    assert ((one - x).abs()[inside] > 0.0199).float().mean() > 0.99  # FGSM spends the whole budget in every pixel
    with pytest.raises(ValueError, match="not in 0 .. 1"):
        fgsm(classify, x - 0.5, labels, 0.1)
