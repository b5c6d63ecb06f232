"""Answers to the exercises of the chapter on spatial transformers."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def by_hats(image: Tensor, x: float, y: float) -> Tensor:
    rows = (1 - (torch.arange(len(image)) - y).abs()).clamp_min(0)
    columns = (1 - (torch.arange(image.shape[1]) - x).abs()).clamp_min(0)
    return rows @ image @ columns


def four_pixels(image: Tensor, x: float, y: float) -> Tensor:
    """Weights of the four pixels around."""
    padded = F.pad(image[None, None], (32, 32, 32, 32))[0, 0]
    x0, y0 = (math.floor(torch.as_tensor(place).item()) for place in (x, y))
    u, v = x - x0, y - y0
    a = padded[y0 + 32 : y0 + 34, x0 + 32 : x0 + 34]
    return (1 - v) * ((1 - u) * a[0, 0] + u * a[0, 1]) + v * ((1 - u) * a[1, 0] + u * a[1, 1])


def nearest(image: Tensor, x: float, y: float) -> Tensor:
    i, j = round(float(y)), round(float(x))
    return image[i, j] if 0 <= i < len(image) and 0 <= j < image.shape[1] else image.sum() * 0


def around(angle: float, x: float, y: float) -> Tensor:
    turn = torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    middle = torch.tensor([x, y])
    return torch.cat([turn, (middle - turn @ middle)[:, None]], 1)


def full(theta: Tensor) -> Tensor:
    return torch.cat([theta, torch.tensor([0.0, 0, 1]).expand(len(theta), 1, 3)], 1)


def in_parts(first: Tensor, second: Tensor) -> Tensor:
    shift = first[:, :, 2:] + first[:, :, :2] @ second[:, :, 2:]
    return torch.cat([first[:, :, :2] @ second[:, :, :2], shift], 2)


def mirrored(angle: float, x: float, y: float) -> Tensor:
    flip = torch.tensor([[math.cos(angle), math.sin(angle)], [math.sin(angle), -math.cos(angle)]])
    middle = torch.tensor([x, y])
    return torch.cat([flip, (middle - flip @ middle)[:, None]], 1)


def wrong_turn(angle: float, x: float, y: float) -> Tensor:
    return around(-angle, x, y)


RIGHT = {
    "stn-sample": [four_pixels, by_hats],
    "stn-turn": [around],
    "stn-compose": [in_parts, lambda first, second: (full(first) @ full(second))[:, :2]],
}
WRONG = {
    "stn-sample": {
        "the nearest pixel": nearest,
        "x and y exchanged": lambda image, x, y: by_hats(image, y, x),
        "the border goes on": lambda image, x, y: by_hats(
            image, min(max(x, 0), image.shape[1] - 1), min(max(y, 0), len(image) - 1)
        ),
        "no gradient": lambda image, x, y: by_hats(image, *(torch.as_tensor(place).item() for place in (x, y))),
        "negative weights": lambda image, x, y: (
            (1 - (torch.arange(len(image)) - y).abs()) @ image @ (1 - (torch.arange(image.shape[1]) - x).abs())
        ),
        "squared hats": lambda image, x, y: (
            (1 - (torch.arange(len(image)) - y).abs()).clamp_min(0).square()
            @ image
            @ (1 - (torch.arange(image.shape[1]) - x).abs()).clamp_min(0).square()
        ),
    },
    "stn-turn": {
        "the other way": wrong_turn,
        "about the middle of the image": lambda angle, x, y: around(angle, 0.0, 0.0),
        "moved, not turned about": lambda angle, x, y: torch.cat(
            [around(angle, 0.0, 0.0)[:, :2], torch.tensor([[x], [y]])], 1
        ),
        "mirrored": mirrored,
        "degrees": lambda angle, x, y: around(math.radians(angle), x, y),
        "three rows": lambda angle, x, y: full(around(angle, x, y)[None])[0],
    },
    "stn-compose": {
        "in the other order": lambda first, second: in_parts(second, first),
        "shifts added": lambda first, second: torch.cat(
            [first[:, :, :2] @ second[:, :, :2], first[:, :, 2:] + second[:, :, 2:]], 2
        ),
        "all added": lambda first, second: first + second - torch.eye(2, 3),
        "only the second": lambda first, second: second,
        "product by entries": lambda first, second: first * second,
    },
}
