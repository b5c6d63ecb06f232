"""`attention` on Triton: how the kernels are launched, and the custom op by which PyTorch sees one differentiable call.

Kernels are imported on first use, so that the library installs and imports without Triton.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from . import tiles

Function = TypeVar("Function", bound=Callable[..., Any])
LOG2E = 1.4426950408889634


class Launch(NamedTuple):
    """A kernel, the number of its programs, its arguments, and how it is compiled (num_warps, num_stages)."""

    kernel: Any
    programs: int
    args: dict[str, Any]
    options: dict[str, int]

    def run(self) -> None:
        self.kernel[(self.programs,)](**self.args, **self.options)


def parts(width: int) -> tuple[int, int]:
    """Powers of two that cover a head width: 80 is 64 + 16 and 96 is 64 + 32, where one tile would take 128."""
    first = max(16, 1 << (width.bit_length() - 1))
    second = 0 if width <= first else max(16, 1 << (width - first - 1).bit_length())
    return (2 * first, 0) if second == first else (first, second)


def accumulator(dtype: torch.dtype) -> torch.dtype:
    """Sums are kept in float32, or in float64 where the interpreter checks gradients."""
    return torch.promote_types(dtype, torch.float32)


class Problem:
    """One call's tensors and options, and what every kernel takes of them.

    Args:
        arch: 10 * major + minor of the GPU, or tiles.INTERPRETED; it picks the tiles.
    """

    def __init__(
        self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, mask: Tensor | None, key_mask: Tensor | None,
        scale: float, causal: bool, window: int, softcap: float, arch: int,
    ) -> None:  # fmt: skip
        self.q, self.k, self.v = (addressable(x) for x in (q, k, v))
        self.batch, self.heads, self.n, self.width = q.shape
        self.groups, self.m, self.value_width = k.shape[1], k.shape[2], v.shape[3]
        full = (self.batch, self.heads, self.n, self.m)
        self.bias_shape = None if bias is None else tuple(bias.shape)
        self.bias = None if bias is None else near(bias).expand(full)
        self.mask = None if mask is None else near(mask).expand(full).view(torch.uint8)
        self.key_mask = None if key_mask is None else key_mask.view(torch.uint8)
        self.bounds = None if key_mask is None else torch.empty(self.batch, 3, dtype=torch.int32, device=q.device)
        wide = q.dtype == torch.float32 and arch != tiles.INTERPRETED
        self.scale, self.arch = scale, tiles.FLOAT32 if wide else arch
        self.acc = accumulator(q.dtype)
        d0, d1 = parts(self.width)
        e0, e1 = parts(self.value_width)
        self.tile_width = max(d0 + d1, e0 + e1) * q.element_size() // 2
        self.value: dict[str, Any] = {"E": self.value_width, "E0": e0, "E1": e1}
        self.common: dict[str, Any] = self.value | {"D": self.width, "D0": d0, "D1": d1}
        self.common |= {"H": self.heads, "GROUP": self.heads // self.groups, "N": self.n, "M": self.m, "scale": scale}
        self.common |= {"Bias": self.bias, "Mask": self.mask, "KeyMask": self.key_mask}
        self.common |= {"bias_s": strides(self.bias), "mask_s": strides(self.mask), "keys_s": strides(self.key_mask)}
        self.common |= {"CAUSAL": causal, "WINDOW": window, "SOFTCAP": softcap}
        self.common |= {"ACC": triton_type(self.acc), "PRECISION": precision(q)}

    def find_bounds(self) -> Launch:
        from .kernels import attention_bounds

        args: dict[str, Any] = {
            "KeyMask": self.key_mask,
            "keys_s": strides(self.key_mask),
            "Bounds": self.bounds,
            "M": self.m,
        }
        return Launch(attention_bounds, self.batch, args | {"BLOCK": 1024}, {"num_warps": 4})

    def forward(self, o: Tensor, lse: Tensor) -> Launch:
        from .kernels import attention_forward

        tile = tiles.find(tiles.FORWARD, self.arch, self.tile_width, self.m)
        args: dict[str, Any] = {"Q": self.q, "K": self.k, "V": self.v, "O": o, "LSE": lse, "Bounds": self.bounds}
        args |= {"q_s": strides(self.q), "k_s": strides(self.k), "v_s": strides(self.v), "o_s": strides(o)}
        args |= {"scale_log2": self.scale * LOG2E, "WHOLE": self.whole(self.m, tile.keys)}
        args |= {"BM": tile.rows, "BN": tile.keys}
        programs = self.batch * self.heads * blocks(self.n, tile.rows)
        return Launch(attention_forward, programs, args | self.common, tile.options())

    def delta(self, o: Tensor, do: Tensor, dlse: Tensor | None, delta: Tensor) -> Launch:
        from .kernels import attention_delta

        rows = 16 if self.arch == tiles.INTERPRETED else 128
        args: dict[str, Any] = {"O": o, "DO": do, "DLSE": dlse, "Delta": delta, "o_s": strides(o), "do_s": strides(do)}
        args |= {"dlse_s": strides(dlse), "H": self.heads, "N": self.n, "BM": rows, "ACC": triton_type(self.acc)}
        return Launch(
            attention_delta, self.batch * self.heads * blocks(self.n, rows), args | self.value, {"num_warps": 4}
        )

    def backward(
        self, do: Tensor, lse: Tensor, delta: Tensor, dq: Tensor, dk: Tensor, dv: Tensor, dbias: Tensor | None
    ) -> Launch:
        """`dbias` of full size (B, H, N, M), zeroed: it is filled on the way. A shared one has a kernel of its own."""
        from .kernels import attention_backward

        tile = tiles.find(tiles.BACKWARD, self.arch, self.tile_width, self.m)
        args = self.gradient_args(do, lse, delta)
        args |= {"DQ": dq, "DK": dk, "DV": dv, "DBias": dbias, "Bounds": self.bounds}
        args |= {"dq_s": strides(dq), "dk_s": strides(dk), "dv_s": strides(dv), "scale_log2": self.scale * LOG2E}
        args |= {"BM1": tile.rows1, "BN1": tile.keys1, "BM2": tile.rows2, "BN2": tile.keys2}
        args |= {"WHOLE": self.whole(min(self.n, self.m), min(tile.rows1, tile.keys2))}
        programs = self.batch * self.groups * blocks(self.m, tile.keys1)
        programs += self.batch * self.heads * blocks(self.n, tile.rows2)
        return Launch(attention_backward, programs, args | self.common, tile.options())

    def bias_gradient(self, do: Tensor, lse: Tensor, delta: Tensor) -> tuple[Launch, Tensor]:
        """The launch, and the partial sums (splits, B or 1, H or 1, N or row tiles, M or key tiles) that it fills."""
        from .kernels import attention_bias_gradient

        tile = tiles.find(tiles.BIAS, self.arch, self.tile_width)
        rows, keys = blocks(self.n, tile.rows), blocks(self.m, tile.keys)
        over = self.shared_axes()
        own = (1 if over[0] else self.batch) * (1 if over[1] else self.heads) * rows * keys
        shared = self.batch * self.heads * rows * keys // own
        splits = min(shared, blocks(tiles.BIAS_PROGRAMS, own))
        shape = (splits, 1 if over[0] else self.batch, 1 if over[1] else self.heads)
        partial = torch.empty(
            *shape, rows if over[2] else self.n, keys if over[3] else self.m, dtype=self.acc, device=self.q.device
        )
        args = self.gradient_args(do, lse, delta) | {"DBias": partial, "dbias_s": strides(partial), "B": self.batch}
        args |= dict(zip(("OVER_BATCH", "OVER_HEADS", "OVER_ROWS", "OVER_KEYS"), over, strict=True))
        args |= {"SPLITS": splits, "BM": tile.rows, "BN": tile.keys}
        return Launch(attention_bias_gradient, splits * own, args | self.common, tile.options()), partial

    def gradient_args(self, do: Tensor, lse: Tensor, delta: Tensor) -> dict[str, Any]:
        args: dict[str, Any] = {"Q": self.q, "K": self.k, "V": self.v, "DO": do, "LSE": lse, "Delta": delta}
        return args | {"q_s": strides(self.q), "k_s": strides(self.k), "v_s": strides(self.v), "do_s": strides(do)}

    def shared_axes(self) -> list[bool]:
        """Along which of (B, H, N, M) the bias is one value for all, so that its gradient is a sum."""
        full = (self.batch, self.heads, self.n, self.m)
        return [given == 1 < size for given, size in zip(self.bias_shape or full, full, strict=True)]

    def whole(self, length: int, block: int) -> bool:
        """Whether tiles that need no masks get a loop of their own: for a few, one loop is faster than two."""
        return self.mask is None and (length > 4 * block or length % block == 0 or self.arch == tiles.INTERPRETED)


def rows_contiguous(x: Tensor) -> Tensor:
    """Kernels read any strides but that of the last axis, which must be 1."""
    return x if x.stride(-1) == 1 else x.contiguous()


def near(x: Tensor) -> Tensor:
    """Offsets inside a tile of at most 128 x 128 are 32-bit numbers: rows and columns must not lie too far apart."""
    return x if max(x.stride()[-2:]) < 2**23 else x.contiguous()


def addressable(x: Tensor) -> Tensor:
    return near(rows_contiguous(x))


def strides(x: Tensor | None) -> tuple[int, ...]:
    return () if x is None else x.stride()


def constant_when_compiled(function: Function) -> Function:
    """What torch.compiler.assume_constant_result does, without the second that importing torch._dynamo takes."""
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function


@constant_when_compiled
def architecture(device: torch.device) -> int:
    """10 * major + minor of a GPU; tiles.INTERPRETED for a CPU."""
    if device.type != "cuda":
        return tiles.INTERPRETED
    major, minor = torch.cuda.get_device_capability(device)
    return 10 * major + minor


def autocast(*tensors: Tensor) -> list[Tensor]:
    """What torch.autocast does to the arguments of torch's own attention."""
    kind = tensors[0].device.type
    if kind == "meta" or not torch.is_autocast_enabled(kind):  # shapes without content have no precision
        return list(tensors)
    return [x if x.dtype == torch.float64 else x.to(torch.get_autocast_dtype(kind)) for x in tensors]


def on(device: torch.device) -> AbstractContextManager[object]:
    """Triton launches on the current GPU, which need not be the tensors'."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def blocks(length: int, block: int) -> int:
    return -(-length // block)


def triton_type(dtype: torch.dtype) -> Any:
    import triton.language as tl

    return tl.float64 if dtype == torch.float64 else tl.float32


def precision(x: Tensor) -> str:
    """Of matrix products: as torch's own are set, IEEE unless the caller allowed TF32. Matters to float32 alone."""
    tf32 = x.dtype == torch.float32 and torch.get_float32_matmul_precision() != "highest"
    return "tf32" if tf32 else "ieee"


@torch.library.custom_op("tformerlib::attention", mutates_args=())
def fused_attention(
    q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, mask: Tensor | None, key_mask: Tensor | None,
    scale: float, causal: bool, window: int, softcap: float,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Output (B, H, N, E) and natural log-sum-exp (B, H, N) by the Triton kernels; window and softcap 0 for none.

    bias and mask have four axes, each of full size or 1. What it takes is checked by `dispatch.obstacle`; torch's
    function modes, `record_attention` among them, hear it as torch.ops.tformerlib.attention.default.
    """
    problem = Problem(q, k, v, bias, mask, key_mask, scale, causal, window, softcap, architecture(q.device))
    o, lse = fake_outputs(q, v)
    with on(q.device):
        if key_mask is not None:
            problem.find_bounds().run()
        problem.forward(o, lse).run()
    return o, lse


def fake_outputs(q: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """In memory the output is (B, N, H, E), so that joining the heads copies nothing."""
    o = q.new_empty(q.shape[0], q.shape[2], q.shape[1], v.shape[3]).transpose(1, 2)
    return o, q.new_empty(q.shape[:3], dtype=accumulator(q.dtype))


@fused_attention.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    return fake_outputs(q, v)


@torch.library.custom_op("tformerlib::attention_backward", mutates_args=())
def fused_attention_backward(
    do: Tensor, dlse: Tensor | None, o: Tensor, lse: Tensor, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None,
    mask: Tensor | None, key_mask: Tensor | None, scale: float, causal: bool, window: int, softcap: float,
    bias_gradient: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of q, k, v and bias; the last is empty unless asked for."""
    problem = Problem(q, k, v, bias, mask, key_mask, scale, causal, window, softcap, architecture(q.device))
    o, do, lse = addressable(o), addressable(do), lse.contiguous()
    delta = torch.empty_like(lse)
    dq, dk, dv, dbias = fake_gradients(q, k, v, bias if bias_gradient else None)
    shared = any(problem.shared_axes())
    with on(q.device):
        if key_mask is not None:
            problem.find_bounds().run()
        problem.delta(o, do, dlse, delta).run()
        problem.backward(do, lse, delta, dq, dk, dv, dbias.zero_() if bias_gradient and not shared else None).run()
        if bias_gradient and shared:
            launch, partial = problem.bias_gradient(do, lse, delta)
            launch.run()
            sizes = [size if over else 1 for size, over in zip(partial.shape[1:], problem.shared_axes(), strict=True)]
            axes = [0] + [axis for axis, size in enumerate(sizes, 1) if size > 1]
            dbias.copy_(partial.sum(axes).view_as(dbias))
    return dq, dk, dv, dbias


def fake_gradients(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Laid out in memory as the tensors are, where those fill their memory."""
    dbias = q.new_empty(0) if bias is None else bias.new_empty(bias.shape)
    dq, dk, dv = (torch.empty_like(addressable(x)) for x in (q, k, v))
    return dq, dk, dv, dbias


@fused_attention_backward.register_fake
def _(
    do: Tensor, dlse: Tensor | None, o: Tensor, lse: Tensor, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None,
    mask: Tensor | None, key_mask: Tensor | None, scale: float, causal: bool, window: int, softcap: float,
    bias_gradient: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    return fake_gradients(q, k, v, bias if bias_gradient else None)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(*output, *inputs[:6])
    ctx.options = inputs[6:]
    ctx.set_materialize_grads(False)


def _differentiate(ctx: Any, do: Tensor | None, dlse: Tensor | None) -> tuple[Tensor | None, ...]:
    o, lse, *inputs = ctx.saved_tensors
    if do is None:
        do = torch.zeros_like(o)
    bias_gradient = ctx.needs_input_grad[3]
    dq, dk, dv, dbias = fused_attention_backward(do, dlse, o, lse, *inputs, *ctx.options, bias_gradient)
    return dq, dk, dv, dbias if bias_gradient else None, *[None] * 6


def _differentiate_twice(ctx: Any, *gradients: Tensor) -> None:
    raise NotImplementedError("the Triton path of attention has no second derivative: use backend='torch'")


fused_attention.register_autograd(_differentiate, setup_context=_save)
fused_attention_backward.register_autograd(_differentiate_twice)
