"""Weights of CoAtNet as timm names them; the authors published none."""

from einops import rearrange
from torch import Tensor

from ..models.coatnet import CoAtNet
from .rules import Rules, published


@published("CoAtNet", "timm")
def from_timm(model: CoAtNet, state: dict[str, Tensor]) -> tuple[dict[str, Tensor], Rules]:
    """timm's `coatnet_0_224` .. `coatnet_5_224`.

    Its linear layers are 1 x 1 convolutions in which q, k and v lie head by head. Blocks of both kinds have a `norm1`
    and a `norm2`, so that those of convolution are renamed first.
    """
    own, convs = model.state_dict(), {key.split(".conv1_1x1.")[0] for key in state if ".conv1_1x1." in key}
    state = {key.replace("blocks", "convs") if ".".join(key.split(".")[:4]) in convs else key: x
             for key, x in state.items()}  # fmt: skip
    for key in [key for key in state if ".attn." in key or ".mlp." in key]:
        x = state[key].flatten(1) if key.endswith("weight") else state[key]
        if ".attn.qkv." in key:
            heads = own[key.split(".attn.")[0].replace(".blocks.", ".") + ".attn.bias.table"].shape[1]
            x = rearrange(x, "(n qkv d) ... -> (qkv n d) ...", n=heads, qkv=3)
        state[key] = x
    conv, block, ours = r"stages\.(\d)\.convs\.(\d+)\.", r"stages\.(\d)\.blocks\.(\d+)\.", r"stages.\1.\2."
    parts = [("pre_norm", "0"), ("conv1_1x1", "1.0"), ("norm1", "1.1"), ("conv2_kxk", "3.0"), ("norm2", "3.1"),
             (r"se\.fc1", "5.gate.0"), (r"se\.fc2", "5.gate.2"), ("conv3_1x1", "6")]  # fmt: skip
    return state, [
        (r"stem\.conv1\.(.*)", r"stem.0.0.\1"),
        (r"stem\.norm1\.(.*)", r"stem.0.1.\1"),
        (r"stem\.conv2\.(.*)", r"stem.2.\1"),
        *((conv + theirs + r"\.(.*)", ours + f"0.branch.{place}" + r".\3") for theirs, place in parts),
        (conv + r"shortcut\.expand\.(.*)", ours + r"0.shortcut.1.\3"),
        (block + r"shortcut\.expand\.(.*)", ours + r"shortcut.0.1.\3"),
        (block + r"norm1\.(?:norm\.)?(weight|bias)", ours + r"norm.\3"),
        (block + r"attn\.qkv\.(.*)", ours + r"attn.qkv.\3"),
        (block + r"attn\.proj\.(.*)", ours + r"attn.out.\3"),
        (block + r"attn\.rel_pos\.relative_position_bias_table", ours + "attn.bias.table"),
        (block + r"norm2\.(.*)", ours + r"mlp.norm.\3"),
        (block + r"mlp\.fc1\.(.*)", ours + r"mlp.fn.0.\3"),
        (block + r"mlp\.fc2\.(.*)", ours + r"mlp.fn.3.\3"),
        (r"head\.norm\.(.*)", r"head.0.\1"),
        (r"head\.pre_logits\.fc\.(.*)", r"head.1.\1"),
        (r"head\.fc\.(.*)", rf"head.{len(model.head) - 1}.\1"),
    ]  # fmt: skip
