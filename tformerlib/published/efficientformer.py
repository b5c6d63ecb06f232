"""Weights of EfficientFormer as timm names them."""

from torch import Tensor

from ..models.efficientformer import EfficientFormer
from .rules import Rules, published

BLOCK = r"stages\.(\d)\.blocks\.(\d+)\."


@published("EfficientFormer", "timm")
def from_timm(model: EfficientFormer, state: dict[str, Tensor]) -> tuple[dict[str, Tensor], Rules]:
    """timm's `efficientformer_*`. A step that flattens the map counts as a block there: the blocks behind it move."""
    moved: dict[str, str] = {}
    for s, stage in enumerate(model.stages):
        numbers = sorted({int(key.split(".")[3]) for key in state if key.startswith(f"stages.{s}.blocks.")})
        moved |= {f"stages.{s}.blocks.{theirs}.": f"stages.{s}.blocks.{ours}." for ours, theirs in enumerate(numbers)}
        if len(numbers) != len(stage):  # type: ignore[arg-type]
            raise ValueError(f"stage {s + 1} has {len(numbers)} blocks there, {len(stage)} here")  # type: ignore[arg-type]

    def rename(key: str) -> str:
        old = ".".join(key.split(".")[:4]) + "."
        return key.replace(old, moved[old], 1) if old in moved else key

    ours = r"stages.\1.\2."
    return {rename(key): x for key, x in state.items()}, [
        (r"stem\.conv1\.(.*)", r"embed.0.0.\1"),
        (r"stem\.norm1\.(.*)", r"embed.0.1.\1"),
        (r"stem\.conv2\.(.*)", r"embed.0.3.\1"),
        (r"stem\.norm2\.(.*)", r"embed.0.4.\1"),
        (r"stages\.(\d)\.downsample\.conv\.(.*)", r"embed.\1.0.\2"),
        (r"stages\.(\d)\.downsample\.norm\.(.*)", r"embed.\1.1.\2"),
        (BLOCK + r"ls1\.gamma", ours + "mixer.gamma"),
        (BLOCK + r"ls2\.gamma", ours + "mlp.gamma"),
        (BLOCK + r"token_mixer\.qkv\.(.*)", ours + r"mixer.fn.qkv.\3"),
        (BLOCK + r"token_mixer\.proj\.(.*)", ours + r"mixer.fn.out.\3"),
        (BLOCK + r"token_mixer\.attention_biases", ours + "mixer.fn.table"),
        (BLOCK + r"token_mixer\.attention_bias_idxs", None),
        (BLOCK + r"mlp\.norm1\.(.*)", ours + r"mlp.fn.1.\3"),
        (BLOCK + r"mlp\.norm2\.(.*)", ours + r"mlp.fn.4.\3"),
        (BLOCK + r"norm1\.(.*)", ours + r"mixer.norm.\3"),
        (BLOCK + r"norm2\.(.*)", ours + r"mlp.norm.\3"),
        (BLOCK + r"mlp\.fc1\.(.*)", ours + r"mlp.fn.0.\3"),
        (BLOCK + r"mlp\.fc2\.(.*)", ours + r"mlp.fn.3.\3"),
        (r"norm\.(.*)", r"norm.\1"),
        (r"head\.(.*)", r"head.\1"),
        (r"head_dist\.(.*)", r"teacher_head.\1"),
    ]
