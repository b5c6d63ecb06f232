"""Parts that every Transformer is made of. Tokens are (B, ..., C): channels last, whatever the grid."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..attention import attention


class Attention(nn.Module):
    """Multi-head attention (Vaswani et al. 2017, sec. 3.2.2) over sequences (B, N, C).

    Self-attention: `attn(x)`. Cross-attention: `attn(x, memory)`. Different keys and values: `attn(q, k, v)`.

    Args:
        dim: width C of the queries.  heads: number of query heads; must divide dim unless head_dim is given.
        out_dim, kv_dim: widths of the output and of keys and values, if not dim.
        kv_heads: number of key/value heads, if not heads; must divide heads.
        on_heads: called as q, k = on_heads(q, k, start) after the head split, start being the position of the first
            token (not 0 when a cache holds earlier ones); rotary embeddings, QK-norm.
        attend: replaces softmax attention (linear, cosine, gated, ...); same signature as `attention`.

    Raises:
        ValueError: heads that do not divide dim, or kv_heads that do not divide heads.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        *,
        head_dim: int | None = None,
        out_dim: int | None = None,
        kv_dim: int | None = None,
        kv_heads: int | None = None,
        qkv_bias: bool = True,
        causal: bool = False,
        scale: float | None = None,
        dropout: float = 0.0,
        on_heads: Callable[[Tensor, Tensor, int], tuple[Tensor, Tensor]] | None = None,
        attend: Callable[..., Tensor] = attention,
    ) -> None:
        super().__init__()
        if head_dim is None and dim % heads:
            raise ValueError(f"heads={heads} does not divide dim={dim}")
        if heads % (kv_heads or heads):
            raise ValueError(f"kv_heads={kv_heads} does not divide heads={heads}")
        self.head_dim, kv_dim, kv_heads = head_dim or dim // heads, kv_dim or dim, kv_heads or heads
        self.q = nn.Linear(dim, heads * self.head_dim, bias=qkv_bias)
        self.k = nn.Linear(kv_dim, kv_heads * self.head_dim, bias=qkv_bias)
        self.v = nn.Linear(kv_dim, kv_heads * self.head_dim, bias=qkv_bias)
        self.out = nn.Linear(heads * self.head_dim, out_dim or dim)
        self.causal, self.scale, self.dropout, self.on_heads, self.attend = causal, scale, dropout, on_heads, attend

    def split(self, x: Tensor) -> Tensor:
        """(B, N, heads * head_dim) to (B, heads, N, head_dim)."""
        return x.unflatten(-1, (-1, self.head_dim)).transpose(-3, -2)

    def keys_values(self, key: Tensor, value: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Keys and values (B, G, M, head_dim) of a memory (B, M, C): project once, attend to it many times."""
        return self.split(self.k(key)), self.split(self.v(key if value is None else value))

    def forward(
        self,
        query: Tensor,
        key: Tensor | None = None,
        value: Tensor | None = None,
        *,
        mask: Tensor | None = None,
        bias: Tensor | None = None,
        cache: "KVCache | None" = None,
        kv: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """(B, N, C) queries, with keys and values from `key`/`value`, from the queries themselves, or ready in `kv`.

        A cache holds the keys and values of earlier tokens; those of this call are appended to it.
        """
        q = self.split(self.q(query))
        k, v = kv if kv is not None else self.keys_values(query if key is None else key, value)
        if self.on_heads is not None:
            q, k = self.on_heads(q, k, 0 if cache is None else cache.length)
        if cache is not None:
            k, v = cache.extend(k, v)
        dropout = self.dropout if self.training else 0.0
        x = self.attend(q, k, v, mask=mask, bias=bias, causal=self.causal, scale=self.scale, dropout=dropout)
        return self.out(x.transpose(-3, -2).flatten(-2))


class KVCache:
    """Keys and values of the tokens already decoded by one attention layer, in memory that is allocated once.

    Args:
        capacity: the most tokens it can hold. Writing in place leaves no trace for gradients: decode under no_grad.
    """

    def __init__(self, capacity: int) -> None:
        if capacity < 1:
            raise ValueError(f"capacity={capacity}: a cache holds at least one token")
        self.capacity, self.length = capacity, 0
        self.k: Tensor | None = None
        self.v: Tensor | None = None

    def extend(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Appends (B, G, N, D) keys and (B, G, N, E) values; returns views of all tokens so far."""
        if torch.is_grad_enabled() and (k.requires_grad or v.requires_grad):
            raise RuntimeError("a KVCache keeps no gradients: decode under torch.no_grad()")
        if self.k is not None and self.v is not None:
            for new, old in ((k, self.k), (v, self.v)):
                if new.shape[:-2] != old.shape[:-2] or new.shape[-1] != old.shape[-1]:
                    raise ValueError(
                        f"{tuple(new.shape)} does not fit a cache of {tuple(old.shape)} (but for the tokens)"
                    )
        else:
            self.k, self.v = (x.new_empty(*x.shape[:-2], self.capacity, x.shape[-1]) for x in (k, v))
        end = self.length + k.shape[-2]
        if end > self.capacity:
            raise ValueError(f"{end} tokens do not fit a cache of capacity {self.capacity}")
        self.k[..., self.length : end, :], self.v[..., self.length : end, :] = k, v
        self.length = end
        return self.k[..., :end, :], self.v[..., :end, :]

    def reorder(self, rows: Tensor) -> None:
        """Row i becomes the old row rows[i], in every batch entry: what beam search does to its beams."""
        if self.k is not None and self.v is not None:
            self.k, self.v = self.k[rows], self.v[rows]


class MLP(nn.Sequential):
    """Linear, activation, dropout, Linear on the last axis (Vaswani et al. 2017, eq. 2)."""

    def __init__(self, dim: int, hidden: int, act: Callable[[], nn.Module] = nn.GELU, dropout: float = 0.0) -> None:
        super().__init__(nn.Linear(dim, hidden), act(), nn.Dropout(dropout), nn.Linear(hidden, dim))


class DropPath(nn.Module):
    """Zeroes whole samples with probability p and rescales the rest (Huang et al. 2016). Identity in eval mode."""

    def __init__(self, p: float) -> None:
        super().__init__()
        if not 0.0 <= p < 1.0:
            raise ValueError(f"drop path p={p} is not in [0, 1)")
        self.p = p

    def extra_repr(self) -> str:
        return f"p={self.p:g}"

    def forward(self, x: Tensor) -> Tensor:
        if self.p == 0.0 or not self.training:
            return x
        keep = torch.rand(x.shape[0], *[1] * (x.ndim - 1), device=x.device) >= self.p
        return x * keep / (1 - self.p)


class Branch(nn.Module):
    """A sublayer with its norm and residual; the subclasses say where the norm sits.

    Args:
        dropout: on the sublayer's output, before it is added.  drop_path: probability of skipping it for a sample.
        layer_scale: initial value of a learned factor per channel (Touvron et al. 2021); none if None.
    """

    def __init__(
        self,
        dim: int,
        fn: nn.Module,
        *,
        norm: Callable[[int], nn.Module] = nn.LayerNorm,
        dropout: float = 0.0,
        drop_path: float = 0.0,
        layer_scale: float | None = None,
    ) -> None:
        super().__init__()
        self.fn, self.norm = fn, norm(dim)
        self.dropout, self.drop_path = dropout, DropPath(drop_path)
        self.gamma = nn.Parameter(torch.full((dim,), layer_scale)) if layer_scale is not None else None

    def add(self, x: Tensor, y: Tensor) -> Tensor:
        y = y if self.gamma is None else self.gamma * y
        return x + self.drop_path(F.dropout(y, self.dropout, self.training))


class PreNorm(Branch):
    """x + fn(norm(x))  (GPT-2, ViT)."""

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return self.add(x, self.fn(self.norm(x), *args, **kwargs))


class PostNorm(Branch):
    """norm(x + fn(x))  (Vaswani et al. 2017, BERT, DETR)."""

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return self.norm(self.add(x, self.fn(x, *args, **kwargs)))


class ResPostNorm(Branch):
    """x + norm(fn(x))  (Swin V2)."""

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return self.add(x, self.norm(self.fn(x, *args, **kwargs)))


class Block(nn.Module):
    """Mix tokens, then mix channels; keyword arguments of forward go to the token mixer."""

    def __init__(
        self, dim: int, mixer: nn.Module, mlp: nn.Module, *, residual: type[Branch] = PreNorm, **branch: Any
    ) -> None:
        super().__init__()
        self.mixer, self.mlp = residual(dim, mixer, **branch), residual(dim, mlp, **branch)

    def forward(self, x: Tensor, **kwargs: Any) -> Tensor:
        return self.mlp(self.mixer(x, **kwargs))


def look_up(table: nn.Embedding, ids: Tensor, what: str = "ids") -> Tensor:
    """table(ids), and an error that names ids outside the table, on a CPU; a GPU would have to stop to look.

    Raises:
        ValueError: such ids.
    """
    try:
        return table(ids)
    except IndexError:
        low, high = ids.min().item(), ids.max().item()
        raise ValueError(f"{what} from {low} to {high} are not all in 0 .. {table.num_embeddings - 1}") from None


def drop_path_rates(rate: float, depths: tuple[int, ...]) -> list[list[float]]:
    """Rates rising linearly from 0 to `rate` over all blocks, one list per stage."""
    rates = iter(torch.linspace(0, rate, sum(depths), device="cpu").tolist())  # also where sizes are counted on "meta"
    return [[next(rates) for _ in range(depth)] for depth in depths]


def init_truncated_normal(module: nn.Module, std: float = 0.02) -> None:
    """Linear and Embedding weights from N(0, std^2) cut at +-2, biases 0. Use as model.apply(init_truncated_normal)."""
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.trunc_normal_(module.weight, std=std)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)
