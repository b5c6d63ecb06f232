"""`window_attention` on Triton: how the kernels are launched, and the custom op."""

from typing import Any

import torch
from torch import Tensor

from . import tiles
from .fused import LOG2E, Launch, accumulator, architecture, on, parts, precision, rows_contiguous, strides, triton_type


class WindowProblem:
    """One call's tensors and options. qkv: (B, H, W, 3, heads, D); bias: (heads, window^2, window^2)."""

    def __init__(self, qkv: Tensor, bias: Tensor, window: int, shift: int, scale: float, arch: int) -> None:
        self.qkv, self.bias, self.scale = rows_contiguous(qkv), bias, scale
        batch, height, width, _, self.heads, head_width = qkv.shape
        windows = batch * (height // window) * (width // window)
        d0, d1 = parts(head_width)
        self.tile = tiles.find(tiles.WINDOW, arch, (d0 + d1) * qkv.element_size() // 2)
        self.acc, self.count = accumulator(qkv.dtype), window**2
        wanted = tiles.processors(qkv.device) * self.tile.programs
        self.programs = min(windows, -(-wanted // self.heads))  # for each head; more would find no place to run
        self.common: dict[str, Any] = {
            "QKV": self.qkv,
            "Bias": bias,
            "qkv_s": strides(self.qkv),
            "bias_s": strides(bias),
        }
        self.common |= {"WINDOWS": windows, "PROGRAMS": self.programs, "HEADS": self.heads}
        self.common |= {"HEIGHT": height, "WIDTH": width, "scale_log2": scale * LOG2E}
        self.common |= {"SIDE": window, "SHIFT": shift, "TOKENS": max(16, 1 << (self.count - 1).bit_length())}
        self.common |= {"D": head_width, "D0": d0, "D1": d1, "ACC": triton_type(self.acc), "PRECISION": precision(qkv)}

    def forward(self, o: Tensor) -> Launch:
        from .window_kernels import window_forward

        args: dict[str, Any] = {"O": o, "o_s": strides(o)}
        return Launch(window_forward, self.programs * self.heads, args | self.common, self.tile.options())

    def backward(self, do: Tensor, dqkv: Tensor, dbias: Tensor | None) -> Launch:
        """`dbias`: one partial sum for each program, from `partial_bias`."""
        from .window_kernels import window_backward

        args: dict[str, Any] = {"DO": do, "DQKV": dqkv, "DBias": dbias, "do_s": strides(do), "dqkv_s": strides(dqkv)}
        args |= {"scale": self.scale}
        return Launch(window_backward, self.programs * self.heads, args | self.common, self.tile.options())

    def partial_bias(self) -> Tensor:
        return self.qkv.new_empty(self.programs, self.heads, self.count, self.count, dtype=self.acc)


def span(x: Tensor) -> int:
    """Elements between the first and the last token of a map (B, H, W, ...): the kernels count them in 32 bits."""
    return (x.shape[1] - 1) * x.stride(1) + (x.shape[2] - 1) * x.stride(2)


def addressable(x: Tensor) -> Tensor:
    return rows_contiguous(x) if span(x) < 2**31 else x.contiguous()


@torch.library.custom_op("tformerlib::window_attention", mutates_args=())
def fused_window_attention(qkv: Tensor, bias: Tensor, window: int, shift: int, scale: float) -> Tensor:
    """(B, H, W, heads, D) by the Triton kernel. What it takes is checked by `window.obstacle`."""
    o = _output(qkv)
    with on(qkv.device):
        WindowProblem(qkv, bias, window, shift, scale, architecture(qkv.device)).forward(o).run()
    return o


def _output(qkv: Tensor) -> Tensor:
    return qkv.new_empty(*qkv.shape[:3], *qkv.shape[4:])


@fused_window_attention.register_fake
def _(qkv: Tensor, bias: Tensor, window: int, shift: int, scale: float) -> Tensor:
    return _output(qkv)


@torch.library.custom_op("tformerlib::window_attention_backward", mutates_args=())
def fused_window_backward(
    do: Tensor, qkv: Tensor, bias: Tensor, window: int, shift: int, scale: float, bias_gradient: bool
) -> tuple[Tensor, Tensor]:
    """Gradients of qkv and bias; the latter is empty unless asked for."""
    problem = WindowProblem(qkv, bias, window, shift, scale, architecture(qkv.device))
    dqkv, dbias = _gradients(qkv, bias, bias_gradient)
    partial = problem.partial_bias() if bias_gradient else None
    with on(qkv.device):
        problem.backward(addressable(do), dqkv, partial).run()
        if partial is not None:
            dbias.copy_(partial.sum(0))
    return dqkv, dbias


def _gradients(qkv: Tensor, bias: Tensor, bias_gradient: bool) -> tuple[Tensor, Tensor]:
    return qkv.new_empty(qkv.shape), bias.new_empty(bias.shape if bias_gradient else 0)


@fused_window_backward.register_fake
def _(
    do: Tensor, qkv: Tensor, bias: Tensor, window: int, shift: int, scale: float, bias_gradient: bool
) -> tuple[Tensor, Tensor]:
    return _gradients(qkv, bias, bias_gradient)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:2])
    ctx.options = inputs[2:]


def _differentiate(ctx: Any, do: Tensor) -> tuple[Tensor | None, ...]:
    dqkv, dbias = fused_window_backward(do, *ctx.saved_tensors, *ctx.options, ctx.needs_input_grad[1])
    return dqkv, dbias if ctx.needs_input_grad[1] else None, None, None, None


def _differentiate_twice(ctx: Any, *gradients: Tensor) -> None:
    raise NotImplementedError("the Triton path of window_attention has no second derivative: use backend='torch'")


fused_window_attention.register_autograd(_differentiate, setup_context=_save)
fused_window_backward.register_autograd(_differentiate_twice)
