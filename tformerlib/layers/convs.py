"""Convolutional parts, on images and maps (B, C, H, W): residual blocks, and what BiT and DETR have for BatchNorm."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .blocks import DropPath

Norm = Callable[[int], nn.Module]
Conv = Callable[..., nn.Conv2d]


class ConvNorm(nn.Sequential):
    """Convolution without bias, then a norm, then an activation (none if None). Sides shrink by the stride."""

    def __init__(
        self, channels: int, out: int, kernel: int = 3, *, stride: int = 1, groups: int = 1, conv: Conv = nn.Conv2d,
        norm: Norm = nn.BatchNorm2d, act: Callable[..., nn.Module] | None = nn.ReLU,
    ) -> None:  # fmt: skip
        layers = [conv(channels, out, kernel, stride, kernel // 2, groups=groups, bias=False), norm(out)]
        super().__init__(*layers, *([act(inplace=True)] if act else []))


class Residual(nn.Module):
    """relu(shortcut(x) + branch(x)); the shortcut is a 1 x 1 convolution where the shape changes (He et al. 2016)."""

    def __init__(self, channels: int, out: int, stride: int, branch: nn.Module, **conv: Any) -> None:
        super().__init__()
        self.branch, same = branch, stride == 1 and channels == out
        self.shortcut = nn.Identity() if same else ConvNorm(channels, out, 1, stride=stride, act=None, **conv)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.shortcut(x) + self.branch(x), inplace=True)


def basic_block(channels: int, out: int, stride: int = 1, **conv: Any) -> Residual:
    """Two 3 x 3 convolutions (He et al. 2016, fig. 5 left)."""
    last = ConvNorm(out, out, act=None, **conv)
    return Residual(channels, out, stride, nn.Sequential(ConvNorm(channels, out, stride=stride, **conv), last), **conv)


def bottleneck(channels: int, out: int, stride: int = 1, **conv: Any) -> Residual:
    """1 x 1 down to out / 4 channels, 3 x 3, 1 x 1 up (He et al. 2016, fig. 5 right).

    The stride is in the 3 x 3 convolution, as everyone has it now; the paper has it in the first 1 x 1.
    """
    narrow = ConvNorm(channels, out // 4, 1, **conv), ConvNorm(out // 4, out // 4, stride=stride, **conv)
    return Residual(channels, out, stride, nn.Sequential(*narrow, ConvNorm(out // 4, out, 1, act=None, **conv)), **conv)


class SqueezeExcite(nn.Module):
    """Each channel times a number in (0, 1), found by a small network from the means of all channels (Hu et al. 2018).

    Args:
        hidden: width of the network.
    """

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.gate = nn.Sequential(
            nn.Conv2d(channels, hidden, 1), nn.SiLU(), nn.Conv2d(hidden, channels, 1), nn.Sigmoid()
        )

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gate(x.mean((-2, -1), keepdim=True))


class MBConv(nn.Module):
    """Wide in the middle, and cheap there as each channel has a kernel of its own (Sandler et al. 2018).

    Norm, 1 x 1 up to expansion * out channels, 3 x 3 depthwise with the stride, squeeze-excite, 1 x 1 down, and what
    came in is added, pooled where there is a stride. So CoAtNet has it, but that its paper strides in the first 1 x 1,
    which skips three pixels of four; timm does as here. EfficientNet has its first norm at the end instead, and adds
    nothing where the shape changes.

    Args:
        expansion: channels in the middle over `out`.  squeeze: hidden units of squeeze-excite over `out`.
    """

    def __init__(
        self, channels: int, out: int, stride: int = 1, *, expansion: int = 4, squeeze: float = 0.25,
        drop_path: float = 0.0,
    ) -> None:  # fmt: skip
        super().__init__()
        wide = expansion * out
        self.branch = nn.Sequential(
            nn.BatchNorm2d(channels),
            ConvNorm(channels, wide, 1, act=None), nn.GELU(),
            ConvNorm(wide, wide, stride=stride, groups=wide, act=None), nn.GELU(),
            SqueezeExcite(wide, int(squeeze * out)),
            nn.Conv2d(wide, out, 1),
        )  # fmt: skip
        self.shortcut, self.drop_path = pooled(channels, out, stride), DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        return self.shortcut(x) + self.drop_path(self.branch(x))


def pooled(channels: int, out: int, stride: int) -> nn.Sequential:
    """A shortcut without weights where it can be: means of stride x stride pixels, 1 x 1 if the channels change."""
    pool = [nn.AvgPool2d(stride)] if stride > 1 else []
    return nn.Sequential(*pool, *([nn.Conv2d(channels, out, 1)] if channels != out else []))


def depthwise(channels: int, kernel: int = 3) -> nn.Conv2d:
    """A kernel x kernel convolution of each channel alone; the sides stay."""
    return nn.Conv2d(channels, channels, kernel, padding=kernel // 2, groups=channels)


class AddDepthwise(nn.Module):
    """x + a depthwise convolution of x, on a token map (B, H, W, C): tokens learn what surrounds them.

    And where they stand, from the zeros beyond the border (Islam et al. 2020). CMT and UniFormer begin blocks with it.
    """

    def __init__(self, channels: int, kernel: int = 3) -> None:
        super().__init__()
        self.conv = depthwise(channels, kernel)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x.movedim(-1, 1)).movedim(1, -1)


def pad_same(x: Tensor, kernel: int, stride: int, value: float = 0.0) -> Tensor:
    """Pads so that a side of n gives ceil(n / stride); the odd pixel goes to the right and the bottom (TensorFlow)."""
    total = [max((-(-n // stride) - 1) * stride + kernel - n, 0) for n in (x.shape[-1], x.shape[-2])]
    return F.pad(x, [side for n in total for side in (n // 2, n - n // 2)], value=value)


class StandardizedConv2d(nn.Conv2d):
    """A convolution whose kernels have mean 0 and variance 1 for each output channel, padded as TensorFlow does.

    Qiao et al. (2019) made it to go with GroupNorm; the hybrids of ViT use it (Dosovitskiy et al. 2021, sec. 4.1).
    """

    def forward(self, x: Tensor) -> Tensor:
        flat = self.weight.flatten(1)
        variance, mean = flat.var(1, correction=0, keepdim=True), flat.mean(1, keepdim=True)
        weight = ((flat - mean) * (variance + 1e-8).rsqrt()).view_as(self.weight)
        x = pad_same(x, self.kernel_size[0], self.stride[0])
        return F.conv2d(x, weight, self.bias, self.stride, 0, self.dilation, self.groups)


class MaxPoolSame(nn.Module):
    """3 x 3 maxima with stride 2, padded as TensorFlow does."""

    def forward(self, x: Tensor) -> Tensor:
        return F.max_pool2d(pad_same(x, 3, 2, float("-inf")), 3, 2)


class FrozenBatchNorm2d(nn.Module):
    """BatchNorm that neither measures nor learns: a fixed factor and shift for each channel, of buffers alone.

    Detectors have it in pretrained backbones, as their batches are of one or two images (Carion et al. 2020, A.4).
    In one with random weights it does nothing; there train with another norm.
    """

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        for name, value in (("weight", 1.0), ("bias", 0.0), ("running_mean", 0.0), ("running_var", 1.0)):
            self.register_buffer(name, torch.full((channels,), value))
        self.weight: Tensor
        self.bias: Tensor
        self.running_mean: Tensor
        self.running_var: Tensor

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        state_dict.pop(prefix + "num_batches_tracked", None)  # BatchNorm's count of steps, which a fixed norm lacks
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
