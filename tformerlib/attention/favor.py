"""FAVOR+: softmax attention estimated by random features, forwards only or both ways (Choromanski et al. 2021).

Shape letters: B batch, H heads, N tokens, D head width, E value width, F random features.

With features f such that f(q) f(k) is exp(q k / sqrt(D)) on average, attention is a product of three thin matrices,
f(q) (f(k)^T v), divided by f(q) sum f(k): time and memory N F, and no weight of a single pair is ever formed.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .linear import refuse

CHUNK = 128  # tokens whose pairs are formed, triangle by triangle; the time stays linear
SAFE = 64.0  # exp(64) times many thousand tokens is still far from float32's largest number


def positive(q: Tensor, k: Tensor, directions: Tensor, eps: float, causal: bool) -> tuple[Tensor, Tensor]:
    """exp(w x - |x|^2 / 2) for each direction w: positive whatever x is (Lemma 1).

    To keep exponents small, the largest w q of each query is taken off, and the largest w k of all keys of a head. Both
    would cancel, were it not for `eps`, which is added after them, as in the official code. With `causal` the largest
    of all keys would tell a query of the future, so a bound that knows no keys is taken off instead:
    exp(w k - |k|^2 / 2) is never above exp(|w|^2 / 2).
    """
    (q_scores, q_norms), (k_scores, k_norms) = (projected(x, directions) for x in (q, k))
    if causal:
        largest = (directions.square().sum(-1).max() / 2 - SAFE).clamp_min(0)
    else:
        largest = k_scores.amax((-2, -1), keepdim=True)
    f_q = torch.exp(q_scores - q_norms - q_scores.amax(-1, keepdim=True))
    return f_q + eps, torch.exp(k_scores - k_norms - largest) + eps


def trigonometric(q: Tensor, k: Tensor, directions: Tensor, eps: float, causal: bool) -> tuple[Tensor, Tensor]:
    """exp(|x|^2 / 2) times cosine and sine of w x: what random features were before, and no longer positive (sec. 2.3).

    The factor of a query cancels, and `eps` is not added. Of the keys' factors the largest is taken off; it would
    cancel, but with `causal` it could make the past vanish beside a long key of the future.
    """
    (q_scores, _), (k_scores, k_norms) = (projected(x, directions) for x in (q, k))
    f_q, f_k = (torch.cat([scores.cos(), scores.sin()], -1) for scores in (q_scores, k_scores))
    return f_q, f_k * torch.exp(k_norms if causal else k_norms - k_norms.amax(-2, keepdim=True))


def relu(q: Tensor, k: Tensor, directions: Tensor, eps: float, causal: bool) -> tuple[Tensor, Tensor]:
    """max(x, 0) + eps, another kernel and no estimate of the softmax (sec. 2.2); officially it has no directions."""
    return q.relu() + eps, k.relu() + eps


def orthogonal_directions(features: int, head_dim: int) -> Tensor:
    """Directions (F, D), each standard normal by itself, at right angles within blocks of D (sec. 2.4).

    The paper orthogonalizes by Gram and Schmidt. The QR of torch and NumPy, which the official code takes instead,
    prefers a sign for each row: w x is then not symmetric, and exp(w x) no longer right on average. Hence the coins.
    """
    blocks = [torch.linalg.qr(torch.randn(head_dim, head_dim, device="cpu"))[0].mT
              for _ in range(-(-features // head_dim))]  # fmt: skip
    coins = 2.0 * torch.randint(2, (features, 1), device="cpu") - 1
    lengths = torch.randn(features, head_dim, device="cpu").norm(dim=1, keepdim=True)
    return torch.cat(blocks)[:features] * coins * lengths


def independent_directions(features: int, head_dim: int) -> Tensor:
    """Directions (F, D) from the standard normal distribution."""
    return torch.randn(features, head_dim, device="cpu")


def projected(x: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
    """w x (..., N, F) and |x|^2 / 2 (..., N, 1) of x / D^(1/4): dividing both sides divides the score by sqrt(D)."""
    x = x * x.shape[-1] ** -0.25
    return x @ directions.mT, x.square().sum(-1, keepdim=True) / 2


class FAVOR(nn.Module):
    """Estimated softmax attention; use as `attend` of an Attention.

    Args:
        head_dim, features: D, and the number F of directions; the official code has 256.
        kernel: `positive`, `trigonometric` or `relu`.
        draw: `orthogonal_directions` or `independent_directions`.
        eps: added to each positive feature: 1e-6, and 1e-3 with ReLU, in the official code.
        redraw: in training, new directions after so many calls; never if 0. (Officially at each call, in training or
            not, from a seed that is the sum of the queries.)
    """

    def __init__(
        self, head_dim: int, features: int = 256, *, kernel: Callable[..., tuple[Tensor, Tensor]] = positive,
        draw: Callable[[int, int], Tensor] = orthogonal_directions, eps: float | None = None, redraw: int = 0,
    ) -> None:  # fmt: skip
        super().__init__()
        if features < 1 or redraw < 0:
            raise ValueError(f"features={features} has to be positive, and redraw={redraw} not negative")
        self.kernel, self.draw, self.redraw, self.calls = kernel, draw, redraw, 0
        self.eps = (1e-3 if kernel is relu else 1e-6) if eps is None else eps
        self.directions: Tensor
        self.register_buffer("directions", draw(features, head_dim).to(torch.get_default_device()))

    def extra_repr(self) -> str:
        return f"{tuple(self.directions.shape)}, kernel={self.kernel.__name__}, draw={self.draw.__name__}"

    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, *, mask: Tensor | None = None, causal: bool = False, **options: Any
    ) -> Tensor:
        """q (B, H, N, D), k (B, H, M, D), v (B, H, M, E) to (B, H, N, E).

        Args:
            mask: bool, the same for all queries: (B, 1 or H, 1, M). False is padding.
            causal: query n sees keys 0 .. n.

        Raises:
            NotImplementedError: what needs the weights of single pairs: a mask of pairs, bias, dropout.
            ValueError: heads that do not fit, or more or fewer queries than keys with `causal`.
        """
        refuse(options)
        if mask is not None and (mask.ndim != 4 or mask.shape[-2] != 1 or mask.dtype != torch.bool):
            raise NotImplementedError(f"the weights are never formed: a mask of keys, not {tuple(mask.shape)}")
        if q.shape[:2] != k.shape[:2] or (causal and q.shape[-2] != k.shape[-2]):
            raise ValueError(f"queries {tuple(q.shape)} and keys {tuple(k.shape)} do not fit together")
        if self.training and self.redraw:
            self.calls += 1
            if self.calls % self.redraw == 0:
                self.directions.copy_(self.draw(*self.directions.shape))
        if mask is not None:  # before the features: what padding holds must not enter the largest score
            k = k.masked_fill(~mask.mT, 0.0)
        f_q, f_k = self.kernel(q, k, self.directions, self.eps, causal)
        if mask is not None:
            f_k, v = f_k.masked_fill(~mask.mT, 0.0), v.masked_fill(~mask.mT, 0.0)
        return weighted(f_q, f_k, v, causal=causal)


def weighted(f_q: Tensor, f_k: Tensor, v: Tensor, *, causal: bool = False) -> Tensor:
    """The mean of the values under weights f(q) f(k) (eq. 4), without the weights: (B, H, N, E)."""
    v = F.pad(v, (0, 1), value=1.0)  # a last column of ones adds the weights up
    sums = prefix_sums(f_q, f_k, v) if causal else f_q @ (f_k.mT @ v)
    return sums[..., :-1] / sums[..., -1:]


def prefix_sums(f_q: Tensor, f_k: Tensor, v: Tensor, chunk: int = CHUNK) -> Tensor:
    """tril(f(q) f(k)^T) v, (..., N, E), in time N F E: earlier chunks in one matrix, pairs inside a chunk (B.1)."""
    past, parts = torch.zeros(*f_k.shape[:-2], f_k.shape[-1], v.shape[-1], dtype=v.dtype, device=v.device), []
    for a, b, c in zip(f_q.split(chunk, -2), f_k.split(chunk, -2), v.split(chunk, -2), strict=True):
        parts.append((a @ b.mT).tril() @ c + a @ past)
        past = past + b.mT @ c
    return torch.cat(parts, -2)
