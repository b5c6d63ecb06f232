"""FNet: BERT with a Fourier transform in the place of attention (Lee-Thorp et al. 2022).

Shape letters: B batch, N tokens, C width (`dim`), V vocabulary, K places that are asked for.

The transform has no parameters and no mask: padding is mixed in like any token, and a sequence padded to another
length gives other results. As in the authors' code, a linear layer follows the norm of the embeddings, no dropout
follows the transform, and the activation is the tanh approximation of GELU.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..layers.blocks import MLP, PostNorm, init_truncated_normal
from ..registry import register
from .bert import GELU, Embedding, LayerNorm, MaskedHead

Mixer = Callable[[int, int], nn.Module]  # of width and context


class Fourier(nn.Module):
    """The real part of the transform over tokens and channels, not normalized: (B, N, C) to (B, N, C) (eq. 3)."""

    def __init__(self, dim: int, context: int) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float() if x.dtype.itemsize < 4 else x  # there is no transform of 16-bit numbers on a CPU
        return torch.fft.fft2(wide, dim=(-2, -1)).real.to(x.dtype)


class Mixing(nn.Module):
    """Two matrices instead, one over tokens and one over channels: learned ("Linear"), or left as drawn ("Random").

    Sequences have to be as long as the context.
    """

    def __init__(self, dim: int, context: int, *, learned: bool) -> None:
        super().__init__()
        self.tokens, self.channels = (
            nn.Parameter(torch.randn(n, n) * n**-0.5, requires_grad=learned) for n in (context, dim)
        )

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[-2] != len(self.tokens):
            raise ValueError(f"{x.shape[-2]} tokens, but the matrix mixes context={len(self.tokens)}")
        return self.tokens @ x @ self.channels


class Nothing(nn.Module):
    """No mixing: feed-forward networks alone ("FF-only")."""

    def __init__(self, dim: int, context: int) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x)


class FNet(nn.Module):
    """Logits of the tokens at masked places, and of whether the second segment follows the first.

    Args:
        vocab, segments: numbers of ids; the authors' code has four kinds of segments.
        dim, depth, hidden: width, layers and feed-forward width.  context: the longest sequence, in tokens.
        dropout: on embeddings and what the feed-forward networks add.
        mixer: makes what mixes the tokens in each layer.
    """

    def __init__(
        self, *, vocab: int = 32000, segments: int = 4, dim: int = 768, depth: int = 12, hidden: int = 3072,
        context: int = 512, dropout: float = 0.1, mixer: Mixer = Fourier,
    ) -> None:  # fmt: skip
        super().__init__()
        self.vocab, self.dim, self.dropout = vocab, dim, dropout
        self.embed = Embedding(vocab, segments, dim, context, dropout=0.0)
        self.project = nn.Linear(dim, dim)
        self.blocks = nn.ModuleList(Layer(dim, mixer(dim, context), hidden, dropout) for _ in range(depth))
        self.pooler = nn.Linear(dim, dim)
        self.masked = MaskedHead(self.embed.tokens, GELU())
        self.follows = nn.Linear(dim, 2)
        self.apply(init_truncated_normal)

    def encode(self, ids: Tensor, segments: Tensor | None = None) -> Tensor:
        """Ids (B, N) and their segments (B, N), all 0 by default, to vectors (B, N, C). Padding counts as tokens."""
        x = F.dropout(self.project(self.embed(ids, segments)), self.dropout, self.training)
        for block in self.blocks:
            x = block(x)
        return x

    def pool(self, x: Tensor) -> Tensor:
        """The first token's vector, through one more layer, for tasks about the whole: (B, N, C) to (B, C)."""
        return self.pooler(x[:, 0]).tanh()

    def forward(
        self, ids: Tensor, segments: Tensor | None = None, places: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Ids and segments (B, N) to token logits (B, N, V) and to logits (B, 2), as BERT's.

        At `places` (K,), which number the B * N tokens, token logits are (K, V).
        """
        x = self.encode(ids, segments)
        return self.masked(x if places is None else x.flatten(0, 1)[places]), self.follows(self.pool(x))


class Layer(nn.Module):
    """Mix tokens, then each token's feed-forward network; a norm after each sum."""

    def __init__(self, dim: int, mixer: nn.Module, hidden: int, dropout: float) -> None:
        super().__init__()
        self.mixer = PostNorm(dim, mixer, norm=LayerNorm)
        self.mlp = PostNorm(dim, MLP(dim, hidden, GELU), norm=LayerNorm, dropout=dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self.mlp(self.mixer(x))


@register
def fnet_base(**overrides: Any) -> FNet:
    """83.5 M parameters with both heads; the paper says 83 M (Lee-Thorp et al. 2022)."""
    return FNet(**overrides)


@register
def fnet_large(**overrides: Any) -> FNet:
    """238.0 M parameters with both heads; the paper says 238 M (Lee-Thorp et al. 2022)."""
    return FNet(**{"dim": 1024, "depth": 24, "hidden": 4096} | overrides)


@register
def fnet_linear_base(**overrides: Any) -> FNet:
    """93.7 M parameters: two learned matrices in the place of the transform (Lee-Thorp et al. 2022)."""
    return FNet(**{"mixer": partial(Mixing, learned=True)} | overrides)
