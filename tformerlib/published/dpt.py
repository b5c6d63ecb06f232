"""Weights that other implementations of DPT hold."""

from torch import Tensor

from ..models.dpt import DPT
from .rules import Rules, published
from .vit import _tokens


@published("DPT", "transformers")
def from_transformers(model: DPT, state: dict[str, Tensor]) -> tuple[dict[str, Tensor], Rules]:
    """`DPTForDepthEstimation` and `DPTForSemanticSegmentation`, hybrids with a `BitBackbone` included.

    Not taken, because no output depends on them: the norm behind the last block, the residual unit of the first fusion
    block for an input that it has not, and the auxiliary head. Norms there have eps 1e-12, ours 1e-6 as official.
    """
    block = r"dpt\.encoder\.layer\.(\d+)\."
    neck, fuse = r"neck\.reassemble_stage\.", r"neck\.fusion_stage\.layers\.(\d+)\."
    skipped = len(model.stem_taps)
    rules: list[tuple[str, str | None]] = [
        (r"prefix|positions", r"encoder.\g<0>"),
        (r"dpt\.layernorm\..*|auxiliary_head\..*", None),
        (r"neck\.fusion_stage\.layers\.0\.residual_layer1\..*", None),
        (r"dpt\.embeddings\.(?:patch_embeddings\.)?projection\.(.*)", r"encoder.patches.conv.\1"),
        (block + r"attention\.attention\.([qkv])(?:uery|ey|alue)\.(.*)", r"encoder.blocks.\1.mixer.fn.\2.\3"),
        (block + r"attention\.output\.dense\.(.*)", r"encoder.blocks.\1.mixer.fn.out.\2"),
        (block + r"layernorm_before\.(.*)", r"encoder.blocks.\1.mixer.norm.\2"),
        (block + r"layernorm_after\.(.*)", r"encoder.blocks.\1.mlp.norm.\2"),
        (block + r"intermediate\.dense\.(.*)", r"encoder.blocks.\1.mlp.fn.0.\2"),
        (block + r"output\.dense\.(.*)", r"encoder.blocks.\1.mlp.fn.3.\2"),
        (r"neck\.convs\.(\d+)\.(.*)", r"decoder.adapt.\1.\2"),
        (fuse + r"projection\.(.*)", r"decoder.fuse.\1.project.\2"),
        (r"head\.head\.(\d+)\.(.*)", r"head.\1.\2"),
    ]
    for i in range(len(model.reassemble)):
        rules += [
            (neck + rf"readout_projects\.{i + skipped}\.0\.(.*)", rf"reassemble.{i}.readout.map.0.\1"),
            (neck + rf"layers\.{i + skipped}\.projection\.(.*)", rf"reassemble.{i}.project.\1"),
            (neck + rf"layers\.{i + skipped}\.resize\.(.*)", rf"reassemble.{i}.resample.\1"),
        ]
    step = 3 if any(".batch_norm1." in key for key in state) else 2  # layers of a residual unit: ReLU, conv, norm
    for unit, ours in ((1, "skip"), (2, "refine")):
        for n in range(2):
            rules += [
                (fuse + rf"residual_layer{unit}\.convolution{n + 1}\.(.*)",
                 rf"decoder.fuse.\1.{ours}.layers.{step * n + 1}.\2"),
                (fuse + rf"residual_layer{unit}\.batch_norm{n + 1}\.(.*)",
                 rf"decoder.fuse.\1.{ours}.layers.{step * n + 2}.\2"),
            ]  # fmt: skip
    return _tokens(model.encoder, state, *(f"dpt.embeddings.{n}" for n in ("cls_token", "none", "position_embeddings"))
                   ), [*rules, *_stem(state)]  # fmt: skip


def _stem(state: dict[str, Tensor]) -> list[tuple[str, str]]:
    """Rules of a hybrid's ResNet, whose blocks stand in one row in ours."""
    bit = r"dpt\.embeddings\.backbone\.bit\."
    rules = [
        (bit + r"embedder\.convolution\.(.*)", r"encoder.stem.0.0.\1"),
        (bit + r"embedder\.norm\.(.*)", r"encoder.stem.0.1.\1"),
    ]
    blocks = sorted({(int(k.split(".")[6]), int(k.split(".")[8])) for k in state if ".bit.encoder.stages." in k})
    for place, (i, j) in enumerate(blocks, 2):  # after the convolution and the pooling
        here = bit + rf"encoder\.stages\.{i}\.layers\.{j}\."
        rules += [(here + rf"conv{n + 1}\.(.*)", rf"encoder.stem.{place}.branch.{n}.0.\1") for n in range(3)]
        rules += [(here + rf"norm{n + 1}\.(.*)", rf"encoder.stem.{place}.branch.{n}.1.\1") for n in range(3)]
        rules += [(here + r"downsample\.conv\.(.*)", rf"encoder.stem.{place}.shortcut.0.\1")]
        rules += [(here + r"downsample\.norm\.(.*)", rf"encoder.stem.{place}.shortcut.1.\1")]
    return rules
