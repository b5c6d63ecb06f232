"""What is timed: the grid of calls, their tensors, their work, and the formula that every provider must meet."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from tformerlib.attention.masks import merge_masks

LENGTHS = (49, 64, 144, 197, 256, 512, 577, 1024, 2048, 4096, 8192, 16384)
WIDTHS = (32, 64, 80, 96, 128)
KINDS = ("dense", "causal", "padding", "bias", "bias-grad")
LONGEST_BIAS = 4096  # a longer table of (heads, queries, keys) would be gigabytes
STAGES = ((56, 3, 3), (28, 6, 3), (14, 12, 3), (7, 24, 0))  # side, heads and shift of Swin-T's stages, windows of 7


@dataclass
class Inputs:
    """Tensors that get gradients, other arguments, and the direction in which the output is differentiated."""

    leaves: dict[str, Tensor]
    fixed: dict[str, Tensor]
    direction: Tensor
    options: dict[str, Any] = field(default_factory=dict)

    def cast(self, dtype: torch.dtype, heads: slice = slice(None)) -> "Inputs":
        """The same call in another precision, for some heads of it; a key mask has none."""
        leaves = {name: x.detach()[:, heads].to(dtype).requires_grad_() for name, x in self.leaves.items()}
        fixed = {name: x[:, heads].to(dtype) if x.is_floating_point() else x for name, x in self.fixed.items()}
        return Inputs(leaves, fixed, self.direction[:, heads].to(dtype), self.options)


@dataclass(frozen=True)
class Case:
    """One call of attention: `batch` sequences of `n` queries and `m` keys, in `heads` heads of `width`."""

    kind: str
    training: bool  # forward and backward, or forward alone
    batch: int
    heads: int
    n: int
    m: int
    width: int

    @property
    def name(self) -> str:
        what = "train" if self.training else "forward"
        length = str(self.n) if self.n == self.m else f"{self.n}x{self.m}"
        return f"{self.kind} {what} L{length} D{self.width} B{self.batch} H{self.heads}"

    @property
    def seen(self) -> float:
        """Share of the scores that somebody needs."""
        return {"causal": 0.5 + 0.5 / self.m, "padding": sum(self.lengths()) / (self.batch * self.m)}.get(
            self.kind, 1.0
        )

    @property
    def flops(self) -> float:
        """Two products of 2 N M D each; the backward has five, counted as 2.5 times the forward."""
        forward = 4 * self.batch * self.heads * self.n * self.m * self.width * self.seen
        return forward * (3.5 if self.training else 1)

    @property
    def bytes(self) -> int:
        """What has to move at least: each input read and each output written once, 16 bits a number."""
        queries, keys = (2 * self.batch * self.heads * length * self.width for length in (self.n, self.m))
        bias = 2 * self.heads * self.n * self.m if "bias" in self.kind else 0
        forward = 2 * queries + 2 * keys + bias
        backward = 4 * queries + 4 * keys + bias * (2 if self.kind == "bias-grad" else 1)  # q, o, do, dq; k, v, dk, dv
        return forward + (backward if self.training else 0)

    def lengths(self) -> list[int]:
        """Real keys of each sequence: from one to all, half on average."""
        return [1 + round((self.m - 1) * i / max(1, self.batch - 1)) for i in range(self.batch)]

    def inputs(self, device: torch.device, dtype: torch.dtype) -> Inputs:
        """Random tensors, (B, N, H, D) in memory as a layer's projections leave them."""
        generator = torch.Generator(device).manual_seed(self.n + self.width)

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator, device=device, dtype=torch.float32).to(dtype)

        leaves = {
            name: normal(self.batch, length, self.heads, self.width).transpose(1, 2)
            for name, length in (("q", self.n), ("k", self.m), ("v", self.m))
        }
        fixed: dict[str, Tensor] = {}
        if "bias" in self.kind:
            (leaves if self.kind == "bias-grad" else fixed)["bias"] = normal(1, self.heads, self.n, self.m)
        if self.kind == "padding":
            real = torch.tensor(self.lengths(), device=device)[:, None]
            fixed["key_mask"] = torch.arange(self.m, device=device) < real
        direction = normal(self.batch, self.n, self.heads, self.width).transpose(1, 2)
        leaves = {name: x.requires_grad_(self.training) for name, x in leaves.items()}
        return Inputs(leaves, fixed, direction, {"causal": True} if self.kind == "causal" else {})

    def sample(self, inputs: Inputs, dtype: torch.dtype) -> Inputs:
        """One head of the call: enough to judge all, and the formula's scores fit the memory."""
        return inputs.cast(dtype, slice(0, 1))

    def sampled(self, results: list[Tensor]) -> list[Tensor]:
        return [x[:, :1] for x in results]

    def formula(self, inputs: Inputs) -> Tensor:
        """Scores, softmax, product, as written."""
        call: dict[str, Any] = {**inputs.leaves, **inputs.fixed, **inputs.options}
        return eager(**call)

    def describe(self) -> dict[str, Any]:
        return {"what": "attention", **asdict(self)}


def eager(
    q: Tensor, k: Tensor, v: Tensor, *, bias: Tensor | None = None, key_mask: Tensor | None = None, causal: bool = False
) -> Tensor:
    """Attention as everybody writes it first, in the precision of q."""
    scores = q @ k.mT * q.shape[-1] ** -0.5
    if bias is not None:
        scores = scores + bias
    mask = merge_masks(q, k, None, key_mask, causal, None)
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    return scores.softmax(-1) @ v


@dataclass(frozen=True)
class WindowCase:
    """One stage of Swin-T: from qkv on the map (B, H, W, 3, heads, D) to (B, H, W, heads, D), with a trained bias."""

    stage: int
    training: bool
    batch: int
    side: int
    heads: int
    shift: int
    window: int = 7
    width: int = 32

    kind = "window"

    @property
    def name(self) -> str:
        return f"window {'train' if self.training else 'forward'} stage {self.stage} B{self.batch}"

    @property
    def flops(self) -> float:
        forward = 4 * self.batch * self.side**2 * self.heads * self.window**2 * self.width
        return forward * (3.5 if self.training else 1)

    @property
    def bytes(self) -> int:
        """The forward reads q, k, v and writes o; the backward reads q, k, v, do and writes three gradients."""
        return 2 * self.batch * self.side**2 * self.heads * self.width * (11 if self.training else 4)

    def inputs(self, device: torch.device, dtype: torch.dtype) -> Inputs:
        generator = torch.Generator(device).manual_seed(self.stage)
        shape = (self.batch, self.side, self.side, 3, self.heads, self.width)
        tokens = self.window**2

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator, device=device, dtype=torch.float32).to(dtype)

        leaves = {"qkv": normal(*shape), "bias": normal(self.heads, tokens, tokens)}
        leaves = {name: x.requires_grad_(self.training) for name, x in leaves.items()}
        options = {"window": self.window, "shift": self.shift}
        return Inputs(leaves, {}, normal(*shape[:3], *shape[4:]), options)

    def sample(self, inputs: Inputs, dtype: torch.dtype) -> Inputs:
        """All of it: the gradient of the bias is a sum over all windows."""
        return inputs.cast(dtype)

    def sampled(self, results: list[Tensor]) -> list[Tensor]:
        return results

    def formula(self, inputs: Inputs) -> Tensor:
        from .attention_providers import eager_windows

        return eager_windows(*inputs.leaves.values(), **inputs.options)

    def describe(self) -> dict[str, Any]:
        return {"what": "window", **asdict(self)}


AnyCase = Case | WindowCase


def on_gpu() -> Iterator[AnyCase]:
    """The grid, what has a target first, so that an interrupted run has answered the questions that were asked."""
    windows = [WindowCase(i, True, batch, *stage) for batch in (128, 8) for i, stage in enumerate(STAGES, 1)]
    yield from windows
    asked = [
        *(("padding", True, n, 64) for n in (512, 1024, 2048)),
        *(("bias-grad", True, n, 64) for n in (197, 512, 1024)),
        ("dense", True, 197, 64),
        *(("dense", training, n, d) for n in (4096, 8192, 16384) for d in (64, 128) for training in (False, True)),
    ]
    grid = [
        (kind, training, n, d)
        for d in WIDTHS
        for n in LENGTHS
        for kind in KINDS
        for training in (False, True)
        if (training or kind != "bias-grad") and (n <= LONGEST_BIAS or "bias" not in kind)
    ]
    for kind, training, n, d in dict.fromkeys([*asked, *grid]):
        yield Case(kind, training, max(1, 16384 // n), 2048 // d, n, n, d)
    for m in (850, 1100):  # DETR's decoder: 100 object queries look at an image
        for kind in ("dense", "padding"):
            yield from (Case(kind, training, 16, 8, 100, m, 32) for training in (False, True))
    yield from (WindowCase(i, False, 128, *stage) for i, stage in enumerate(STAGES, 1))


def on_cpu() -> Iterator[AnyCase]:
    """PyTorch's paths alone, in sizes that a laptop bears: 2048 tokens, 8 heads of 64."""
    for n in (197, 512, 1024, 2048):
        for kind in KINDS:
            for training in (False, True):
                if training or kind != "bias-grad":
                    yield Case(kind, training, max(1, 2048 // n), 8, n, n, 64)
    yield from (WindowCase(i, True, 2, *stage) for i, stage in enumerate(STAGES, 1))


def quick(device: torch.device) -> Iterator[AnyCase]:
    """A cut through the grid."""
    if device.type == "cpu":
        for n in (512, 2048):
            yield from (Case("dense", training, max(1, 2048 // n), 8, n, n, 64) for training in (False, True))
        yield Case("bias-grad", True, 4, 8, 512, 512, 64)
        yield WindowCase(1, True, 1, *STAGES[0])
        return
    yield WindowCase(1, True, 128, *STAGES[0])
    yield WindowCase(3, True, 128, *STAGES[2])
    yield Case("padding", True, 16, 32, 1024, 1024, 64)
    yield Case("bias-grad", True, 32, 32, 512, 512, 64)
    yield Case("dense", True, 83, 32, 197, 197, 64)
    for n in (4096, 1024, 16384):
        yield from (Case("dense", training, max(1, 16384 // n), 16, n, n, 128) for training in (False, True))


def small() -> Iterator[AnyCase]:
    """For --check: shapes that an interpreter can bear, and that no tile divides."""
    for kind in KINDS:
        yield Case(kind, True, 2, 2, 37, 37, 16)
    yield Case("padding", True, 3, 1, 9, 21, 24)
    yield WindowCase(1, True, 2, 8, 2, 1, window=4, width=16)
    yield WindowCase(4, True, 2, 4, 2, 0, window=4, width=16)
