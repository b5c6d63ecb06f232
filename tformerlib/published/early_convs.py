"""Weights of ViT_P and ViT_C: as pycls, the authors' code, names them, and as torchvision does."""

from torch import Tensor, nn

from .rules import Rules, published


@published("EarlyConvViT", "official")
def from_pycls(model: nn.Module, state: dict[str, Tensor]) -> tuple[dict[str, Tensor], Rules]:
    """facebookresearch/pycls, `pycls/models/vit.py`: positions (N, 1, C), as its tokens go before the batch.

    Its LayerNorms have 1e-5 where its configuration says nothing else; ours have 1e-6.
    """
    state["pos_embedding"] = state["pos_embedding"].transpose(0, 1)
    block = r"encoder\.block_(\d+)\."
    stem: Rules = [
        *((rf"stem\.cstem{i}_conv\.(.*)", rf"stem.{i}.0.\1") for i in range(8)),
        *((rf"stem\.cstem{i}_bn\.(.*)", rf"stem.{i}.1.\1") for i in range(8)),
        (r"stem\.(?:cstem_last_conv|patchify)\.(.*)", r"patches.conv.\1"),
    ]
    return state, [
        *stem,
        (r"class_token", "prefix"),
        (r"pos_embedding", "positions"),
        (block + r"ln_1\.(.*)", r"blocks.\1.mixer.norm.\2"),
        (block + r"ln_2\.(.*)", r"blocks.\1.mlp.norm.\2"),
        (block + r"self_attention\.block\.in_proj_(.*)", r"blocks.\1.mixer.fn.{q,k,v}.\2"),
        (block + r"self_attention\.block\.out_proj\.(.*)", r"blocks.\1.mixer.fn.out.\2"),
        (block + r"mlp_block\.linear_1\.(.*)", r"blocks.\1.mlp.fn.0.\2"),
        (block + r"mlp_block\.linear_2\.(.*)", r"blocks.\1.mlp.fn.3.\2"),
        (r"encoder\.ln\.(.*)", r"norm.\1"),
        (r"head\.head_fc\.(.*)", r"head.\1"),
    ]


@published("EarlyConvViT", "torchvision")
def from_torchvision(model: nn.Module, state: dict[str, Tensor]) -> tuple[dict[str, Tensor], Rules]:
    """`torchvision.models.VisionTransformer`, with `conv_stem_configs` or without."""
    block = r"encoder\.layers\.encoder_layer_(\d+)\."
    return state, [
        (r"class_token", "prefix"),
        (r"encoder\.pos_embedding", "positions"),
        (r"conv_proj\.conv_bn_relu_(\d+)\.([01])\.(.*)", r"stem.\1.\2.\3"),
        (r"conv_proj\.(?:conv_last\.)?(weight|bias)", r"patches.conv.\1"),
        (block + r"ln_1\.(.*)", r"blocks.\1.mixer.norm.\2"),
        (block + r"ln_2\.(.*)", r"blocks.\1.mlp.norm.\2"),
        (block + r"self_attention\.in_proj_(.*)", r"blocks.\1.mixer.fn.{q,k,v}.\2"),
        (block + r"self_attention\.out_proj\.(.*)", r"blocks.\1.mixer.fn.out.\2"),
        (block + r"mlp\.0\.(.*)", r"blocks.\1.mlp.fn.0.\2"),
        (block + r"mlp\.3\.(.*)", r"blocks.\1.mlp.fn.3.\2"),
        (block + r"mlp\.linear_1\.(.*)", r"blocks.\1.mlp.fn.0.\2"),
        (block + r"mlp\.linear_2\.(.*)", r"blocks.\1.mlp.fn.3.\2"),
        (r"encoder\.ln\.(.*)", r"norm.\1"),
        (r"heads\.head\.(.*)", r"head.\1"),
    ]
