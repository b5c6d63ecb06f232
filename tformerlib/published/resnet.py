"""Weights that other implementations of ResNet hold."""

from torch import Tensor

from ..models.resnet import ResNet
from .rules import Rules, published


@published("ResNet", "timm")
def from_timm(model: ResNet, state: dict[str, Tensor]) -> tuple[dict[str, Tensor], Rules]:
    """timm's `resnet18` .. `resnet152`, and torchvision's, which have the same names."""
    rules: Rules = [
        (r"conv1\.(.*)", r"stem.0.0.\1"),
        (r"bn1\.(.*)", r"stem.0.1.\1"),
        (r"fc\.(.*)", r"head.\1"),
        *[(rf"layer{i + 1}\.(\d+)\.conv{j + 1}\.(.*)", rf"stages.{i}.\1.branch.{j}.0.\2")
          for i in range(4) for j in range(3)],
        *[(rf"layer{i + 1}\.(\d+)\.bn{j + 1}\.(.*)", rf"stages.{i}.\1.branch.{j}.1.\2")
          for i in range(4) for j in range(3)],
        *[(rf"layer{i + 1}\.(\d+)\.downsample\.([01])\.(.*)", rf"stages.{i}.\1.shortcut.\2.\3") for i in range(4)],
    ]  # fmt: skip
    return state, rules


@published("ResNet", "transformers")
def from_transformers(model: ResNet, state: dict[str, Tensor]) -> tuple[dict[str, Tensor], Rules]:
    """`ResNetForImageClassification`."""
    stage = r"resnet\.encoder\.stages\.(\d+)\.layers\.(\d+)\."
    return state, [
        (r"resnet\.embedder\.embedder\.convolution\.(.*)", r"stem.0.0.\1"),
        (r"resnet\.embedder\.embedder\.normalization\.(.*)", r"stem.0.1.\1"),
        (stage + r"layer\.(\d+)\.convolution\.(.*)", r"stages.\1.\2.branch.\3.0.\4"),
        (stage + r"layer\.(\d+)\.normalization\.(.*)", r"stages.\1.\2.branch.\3.1.\4"),
        (stage + r"shortcut\.convolution\.(.*)", r"stages.\1.\2.shortcut.0.\3"),
        (stage + r"shortcut\.normalization\.(.*)", r"stages.\1.\2.shortcut.1.\3"),
        (r"classifier\.1\.(.*)", r"head.\1"),
    ]
