"""Weights that other implementations of EfficientNet hold."""

from torch import Tensor, nn

from ..models.efficientnet import EfficientNet, Trunk
from .rules import Rules, published


@published("EfficientNet", "timm")
def from_timm(model: EfficientNet, state: dict[str, Tensor]) -> tuple[dict[str, Tensor], Rules]:
    """timm's `tf_efficientnet_b0` (with our defaults) and `efficientnet_b0` (see the model's docstring)."""
    places = sorted({(int(a), int(b)) for key in state if key.startswith("blocks.") for a, b in [key.split(".")[1:3]]})
    state = {_flat(key, places): x for key, x in state.items()}
    rules: list[tuple[str, str | None]] = [
        (r"conv_stem\.(.*)", r"trunk.stem.0.\1"),
        (r"bn1\.(.*)", r"trunk.stem.1.\1"),
        (r"conv_head\.(.*)", r"trunk.last.0.\1"),
        (r"bn2\.(.*)", r"trunk.last.1.\1"),
        (r"classifier\.(.*)", r"head.\1"),
    ]
    for i in range(len(places)):
        first, ours, theirs = int(f"blocks.{i}.conv_pwl.weight" in state), f"trunk.blocks.{i}.branch", rf"blocks\.{i}\."
        tail = [("conv_dw", "bn2"), ("se", ""), ("conv_pwl", "bn3")]
        names = [("conv_pw", "bn1"), *tail] if first else [("conv_dw", "bn1"), ("se", ""), ("conv_pw", "bn2")]
        for place, (conv, norm) in enumerate(names):
            if conv == "se":
                rules += [(theirs + r"se\.conv_reduce\.(.*)", rf"{ours}.{place}.gate.0.\1")]
                rules += [(theirs + r"se\.conv_expand\.(.*)", rf"{ours}.{place}.gate.2.\1")]
            else:
                rules += [(theirs + rf"{conv}\.(.*)", rf"{ours}.{place}.0.\1")]
                rules += [(theirs + rf"{norm}\.(.*)", rf"{ours}.{place}.1.\1")]
    return state, rules


def _flat(key: str, places: list[tuple[int, int]]) -> str:
    """blocks.stage.block.* as blocks.number.*"""
    if not key.startswith("blocks."):
        return key
    _, stage, block, rest = key.split(".", 3)
    return f"blocks.{places.index((int(stage), int(block)))}.{rest}"


def torch_rules(trunk: Trunk, theirs: str, ours: str) -> list[tuple[str, str | None]]:
    """Rules for the network of the package efficientnet_pytorch, found under the prefix `theirs`, as `Trunk`.

    Layers that the trunk leaves out are dropped, by name: the classifier, and blocks after its last one.
    """
    blocks, last = len(trunk.blocks), isinstance(trunk.last, nn.Sequential)
    rules: list[tuple[str, str | None]] = [
        (theirs + r"_conv_stem\.(.*)", ours + r"stem.0.\1"),
        (theirs + r"_bn0\.(.*)", ours + r"stem.1.\1"),
        (theirs + r"_conv_head\.(.*)", ours + r"last.0.\1" if last else None),
        (theirs + r"_bn1\.(.*)", ours + r"last.1.\1" if last else None),
        (theirs + r"_fc\..*", None),
    ]
    for i in range(blocks):
        up = int(i > 0)  # the first block alone does not expand
        block, branch = theirs + rf"_blocks\.{i}\.", f"{ours}blocks.{i}.branch."
        rules += [
            (block + r"_expand_conv\.(.*)", branch + r"0.0.\1"),
            (block + r"_bn0\.(.*)", branch + r"0.1.\1"),
            (block + r"_depthwise_conv\.(.*)", branch + rf"{up}.0.\1"),
            (block + r"_bn1\.(.*)", branch + rf"{up}.1.\1"),
            (block + r"_se_reduce\.(.*)", branch + rf"{up + 1}.gate.0.\1"),
            (block + r"_se_expand\.(.*)", branch + rf"{up + 1}.gate.2.\1"),
            (block + r"_project_conv\.(.*)", branch + rf"{up + 2}.0.\1"),
            (block + r"_bn2\.(.*)", branch + rf"{up + 2}.1.\1"),
        ]
    return [*rules, (theirs + r"_blocks\.\d+\..*", None)]
