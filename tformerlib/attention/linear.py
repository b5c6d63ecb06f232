"""Attention in time linear in the number of tokens: the weights are estimated, or replaced, and never formed.

Shape letters: B batch, H heads, N tokens, D head width, M landmarks, F random features.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn

from .dot_product import attention
from .weights import attention_weights


def linear_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q over D) (softmax(k over N)^T v): (B, H, N, D) each, in time N D^2 (Shen et al. 2021).

    Keys say how much of each token goes into D summaries, queries how to mix the summaries.
    """
    scale = q.shape[-1] ** -0.25
    return (scale * q).softmax(-1) @ ((scale * k).softmax(-2).mT @ v)


class Nystrom(nn.Module):
    """Attention by way of M landmarks, in time N M, plus a convolution of the values (Xiong et al. 2021).

    softmax(q k^T) ~ softmax(q k_l^T) softmax(q_l k_l^T)^+ softmax(q_l k^T); landmarks q_l, k_l are the means of runs of
    N / M tokens. Use as `attend` of an Attention of as many heads.
    """

    def __init__(self, heads: int, landmarks: int = 64, kernel: int = 33, steps: int = 6) -> None:
        super().__init__()
        self.landmarks, self.steps = landmarks, steps
        self.conv = nn.Conv2d(heads, heads, (kernel, 1), padding=(kernel // 2, 0), groups=heads, bias=False)

    def forward(self, q: Tensor, k: Tensor, v: Tensor, **options: Any) -> Tensor:
        refuse(options)
        if q.shape[-2] % self.landmarks:
            raise ValueError(f"landmarks={self.landmarks} do not divide the {q.shape[-2]} tokens")
        q_l, k_l = (x.unflatten(-2, (self.landmarks, -1)).mean(-2) for x in (q, k))
        inverse = pseudo_inverse(attention_weights(q_l, k_l), self.steps)
        return attention(q, k_l, inverse @ attention(q_l, k, v)) + self.conv(v)


def pseudo_inverse(x: Tensor, steps: int = 6) -> Tensor:
    """The pseudo-inverse of matrices (..., M, M), by an iteration of third order.

    Its start is scaled by maxima over the whole *batch*, as in the official code: where it has not converged, what is
    said of one image depends on the others.
    """
    z = x.mT / (x.abs().sum(-1).max() * x.abs().sum(-2).max())
    one = torch.eye(x.shape[-1], device=x.device, dtype=x.dtype)
    for _ in range(steps):
        xz = x @ z
        z = 0.25 * z @ (13 * one - xz @ (15 * one - xz @ (7 * one - xz)))
    return z


class RandomFeatures(nn.Module):
    """Softmax attention estimated with positive random features, in time N F (Choromanski et al. 2021, FAVOR+).

    exp(q k) is the mean over random w of f(q) f(k), f(x) = exp(w x - |x|^2 / 2). The directions are drawn once, in
    orthogonal blocks; CPV never draws them again. Use as `attend`.
    """

    def __init__(self, head_dim: int = 32, features: int | None = None) -> None:
        super().__init__()
        features = features or int(head_dim * math.log(head_dim))
        blocks = [torch.linalg.qr(torch.randn(head_dim, head_dim, device="cpu"))[0].mT
                  for _ in range(-(-features // head_dim))]  # fmt: skip
        lengths = torch.randn(features, head_dim, device="cpu").norm(dim=1, keepdim=True)
        self.directions: Tensor
        drawn = torch.cat(blocks)[:features] * lengths  # hence saved
        self.register_buffer("directions", drawn.to(torch.get_default_device()))

    def forward(self, q: Tensor, k: Tensor, v: Tensor, **options: Any) -> Tensor:
        refuse(options)
        q, k = self.positive(q, (-1,)), self.positive(k, (0, 1, 2, 3))
        return q @ (k.mT @ v) / (q @ k.sum(-2)[..., None])

    def positive(self, x: Tensor, axes: tuple[int, ...]) -> Tensor:
        """f(x / D^(1/4)), scaled by the largest w x along `axes`, plus 1e-4.

        The scale cancels but for that 1e-4. For keys it is taken over the whole *batch*, as in the official code.
        """
        x = x * x.shape[-1] ** -0.25
        scores = x @ self.directions.mT
        largest = scores.amax(axes, keepdim=True)
        return torch.exp(scores - x.square().sum(-1, keepdim=True) / 2 - largest) + 1e-4


def refuse(options: dict[str, Any]) -> None:
    """Raises NotImplementedError for what needs the weights of single pairs, which are never formed."""
    if asked := [name for name, value in options.items() if isinstance(value, Tensor) or value not in (None, False, 0)]:
        raise NotImplementedError(f"attention in linear time never forms the weights: it takes no {', '.join(asked)}")
