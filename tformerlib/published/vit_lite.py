"""Weights of ViT-Lite, CVT and CCT as the official code names them; vit-pytorch has the same names for CCT."""

from torch import Tensor, nn

from .rules import Rules, published

BLOCK = r"classifier\.blocks\.(\d+)\."


@published("CVT", "official")
@published("ViTLite", "official")
def from_official(model: nn.Module, state: dict[str, Tensor]) -> tuple[dict[str, Tensor], Rules]:
    """SHI-Labs/Compact-Transformers, `src/{vit,cvt,cct}.py`.

    Raises:
        ValueError: positions that are not those of a model whose positions are fixed. The official `*_sine` builders
            make learned ones where `pretrained` is not set, so a file of that name may hold either.
    """
    given, own = state.get("classifier.positional_emb"), model.positions
    if given is not None:
        if own is None:
            raise ValueError("the published weights have positions, the model has positions=None")
        if not isinstance(own, nn.Parameter):
            error = (given[0] - own).abs().max().item()  # type: ignore[operator]
            if error > 1e-5:
                raise ValueError(f"the published positions are not sinusoids: they differ by up to {error:.2g}")
            del state["classifier.positional_emb"]
        else:
            state["classifier.positional_emb"] = given[0]
    if "tokens.conv.weight" in model.state_dict():  # patches
        convs: Rules = [(r"tokenizer\.conv_layers\.0\.0\.(.*)", r"tokens.conv.\1")]
    else:
        convs = [(rf"tokenizer\.conv_layers\.{i}\.0\.(.*)", rf"tokens.{3 * i}.\1") for i in range(8)]
    return state, [
        *convs,
        (r"classifier\.positional_emb", "positions"),
        (r"classifier\.class_emb", "cls"),
        (r"classifier\.attention_pool\.(.*)", r"pool.score.\1"),
        (BLOCK + r"pre_norm\.(.*)", r"blocks.\1.mixer.norm.\2"),
        (BLOCK + r"self_attn\.qkv\.(.*)", r"blocks.\1.mixer.fn.{q,k,v}.\2"),
        (BLOCK + r"self_attn\.proj\.(.*)", r"blocks.\1.mixer.fn.out.\2"),
        (BLOCK + r"norm1\.(.*)", r"blocks.\1.norm.\2"),
        (BLOCK + r"linear1\.(.*)", r"blocks.\1.mlp.0.\2"),
        (BLOCK + r"linear2\.(.*)", r"blocks.\1.mlp.3.\2"),
        (r"classifier\.norm\.(.*)", r"norm.\1"),
        (r"classifier\.fc\.(.*)", r"head.\1"),
    ]
