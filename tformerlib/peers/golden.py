"""Numbers that official code produced, for models which no installed library has, and how ours are held against them.

A file data/golden/<chapter>.json holds no weights and no code. For each repository, its commit and cases: the names
and shapes of the official state dict, of which `fill` makes the same wide weights again on every machine; the logits
for three images; and for each parameter the product of its gradient with `uniform` of its name, in which an error of
any entry shows.
"""

import copy
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import tformerlib as tf
from tformerlib.peers.parity import TOLERANCE, assert_same


def uniform(name: str, shape: tuple[int, ...]) -> Tensor:
    """Numbers in -1 .. 1 (float64) that depend on the name and the place alone: SplitMix64 of both."""
    z = np.arange(1, 1 + int(np.prod(shape)), dtype=np.uint64) + (np.uint64(zlib.crc32(name.encode())) << np.uint64(32))
    with np.errstate(over="ignore"):
        z = z * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z ^= z >> np.uint64(31)
    return torch.from_numpy((z >> np.uint64(11)).astype(np.float64) / 2**52 - 1).reshape(shape)


def fill(shapes: Mapping[str, list[int]]) -> dict[str, Tensor]:
    """A wide state dict: matrices and kernels of variance 2 / fan-in, norms' scales around 1, variances above 0.5."""
    state = {}
    for name, size in shapes.items():
        shape, leaf = tuple(size), name.rpartition(".")[2]
        x = uniform(name, shape)
        if leaf == "running_var":
            state[name] = 1.25 + 0.75 * x
        elif leaf == "num_batches_tracked":
            state[name] = torch.tensor(1)
        elif len(shape) == 1 and leaf == "weight":
            state[name] = 1 + 0.5 * x
        elif len(shape) in (2, 4):
            state[name] = x * (6 / np.prod(shape[1:])) ** 0.5
        else:
            state[name] = 0.8 * x
    return state


def run(model: nn.Module, side: int, size: dict[str, Any], ours: str) -> dict[str, Any]:
    """A case: what an official model says. `ours` and `size` are the name of our model and its options."""
    model = model.double().eval()
    shapes = {name: list(x.shape) for name, x in model.state_dict().items()}
    model.load_state_dict(fill(shapes))
    logits = model(uniform("images", (3, 3, side, side)) * 2).flatten(1)  # of a pixel or of a whole image
    assert logits.std() > 0.1
    (logits * uniform("cotangent", tuple(logits.shape))).sum().backward()
    projections = {
        name: round((p.grad * uniform(f"probe {name}", tuple(p.shape))).sum().item(), 10)
        for name, p in model.named_parameters() if p.grad is not None
    }  # fmt: skip
    numbers = [[round(v, 10) for v in row] for row in logits.tolist()]
    return {"ours": ours, "size": size, "side": side, "shapes": shapes, "logits": numbers, "gradients": projections}


def rebuilt(case: Mapping[str, Any], dtype: torch.dtype = torch.float64) -> nn.Module:
    """Our model of a case, with the official weights."""
    size = {key: tuple(x) if isinstance(x, list) else x for key, x in case["size"].items()}  # JSON knows no tuples
    model = tf.create_model(case["ours"], **size).to(dtype).eval()
    return tf.load_published(model, fill(case["shapes"]), source="official")


def assert_equal(case: Mapping[str, Any]) -> None:
    """Ours says what the official model said: logits in float32 and float64, and all gradients in float64.

    The directions that gradients were multiplied with travel to our names by the rules by which weights do; so do the
    numbers of the official parameters, which tell to which of them an entry of ours belongs.
    """
    images = 2 * uniform("images", (3, 3, case["side"], case["side"]))
    expected = torch.tensor(case["logits"], dtype=torch.float64)
    with torch.no_grad():
        assert_same(rebuilt(case, torch.float32)(images.float()).flatten(1).double(), expected, "logits in float32")
    model = rebuilt(case)
    logits = model(images).flatten(1)
    assert_same(logits, expected, "logits")
    (logits * uniform("cotangent", tuple(logits.shape))).sum().backward()
    names = list(case["shapes"])
    directions = {name: uniform(f"probe {name}", tuple(shape)) for name, shape in case["shapes"].items()}
    numbers = {name: torch.full_like(x, i, dtype=torch.float64) for i, (name, x) in enumerate(directions.items())}
    travelled = [tf.load_published(copy.deepcopy(model), state, source="official") for state in (directions, numbers)]
    products, squares = torch.zeros(2, len(names), dtype=torch.float64)
    for p, direction, number in zip(model.parameters(), *(m.parameters() for m in travelled), strict=True):
        assert p.grad is not None
        which = number.detach().flatten().long()
        products.index_add_(0, which, (p.grad * direction.detach()).flatten())
        squares.index_add_(0, which, p.grad.square().flatten())
    for name, product, square in zip(names, products.tolist(), squares.tolist(), strict=True):
        if name in case["gradients"]:
            error, scale = abs(product - case["gradients"][name]), max(1.0, square**0.5)
            assert error <= TOLERANCE * scale, f"gradient of {name}: {error:.1e} off, {square**0.5:.2g} long"
        else:
            assert square == 0, f"{name} is no parameter of theirs and gets a gradient in ours"
