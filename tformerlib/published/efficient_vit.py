"""Weights of Efficient-ViT and Cross-Efficient-ViT as the official code names them."""

from torch import Tensor

from ..models.efficient_vit import CrossEfficientViT, EfficientViT, Tokens
from .efficientnet import torch_rules
from .rules import Rules, published


def encoder_rules(theirs: str, ours: str, depth: int, *, query_alone: bool) -> list[tuple[str, str | None]]:
    """Of pre-norm attention and MLP in turn; queries, keys and values lie in one matrix, or keys and values in one."""
    rules: list[tuple[str, str | None]] = []
    for i in range(depth):
        attn, mlp = (theirs + rf"layers\.{i}\.{j}\." for j in (0, 1))
        names = [("q", "q"), ("k", "k"), ("v", "v")] if query_alone else [("qkv", "{q,k,v}")]
        rules += [(attn + rf"fn\.to_{a}\.(.*)", ours + rf"{2 * i}.fn.{b}.\1") for a, b in names]
        rules += [
            (attn + r"norm\.(.*)", ours + rf"{2 * i}.norm.\1"),
            (attn + r"fn\.to_out\.0\.(.*)", ours + rf"{2 * i}.fn.out.\1"),
            (mlp + r"norm\.(.*)", ours + rf"{2 * i + 1}.norm.\1"),
            (mlp + r"fn\.net\.([03])\.(.*)", ours + rf"{2 * i + 1}.fn.\1.\2"),
        ]
    return rules


def as_kernel(weight: Tensor, patch: int) -> Tensor:
    """A projection of patches (row, column, channel) as a kernel (channel, row, column)."""
    return weight.unflatten(1, (patch, patch, -1)).permute(0, 3, 1, 2)


@published("EfficientViT", "official")
def from_official(model: EfficientViT, state: dict[str, Tensor]) -> tuple[dict[str, Tensor], Rules]:
    """Its table of positions has a row for each place in a batch: both tokens get that of the first."""
    tokens = model.tokens
    state["pos_embedding"] = state["pos_embedding"][:1].expand(tokens.positions.shape)
    patch = tokens.patches.conv.kernel_size[0]
    state["patch_to_embedding.weight"] = as_kernel(state["patch_to_embedding.weight"], patch)
    return state, [
        *torch_rules(tokens.trunk, r"efficient_net\.", "tokens.trunk."),
        (r"pos_embedding", "tokens.positions"),
        (r"cls_token", "tokens.cls"),
        (r"patch_to_embedding\.(.*)", r"tokens.patches.conv.\1"),
        *encoder_rules(r"transformer\.", "encoder.", len(model.encoder) // 2, query_alone=False),
        (r"mlp_head\.([02])\.(.*)", r"head.\1.\2"),
    ]


@published("CrossEfficientViT", "official")
def cross_from_official(model: CrossEfficientViT, state: dict[str, Tensor]) -> tuple[dict[str, Tensor], Rules]:
    """Its position tables have rows for tokens that there are not; they are cut off."""
    rules: list[tuple[str, str | None]] = []
    for key in [key for key in state if key.endswith("to_kv.weight")]:
        for name, part in zip("kv", state.pop(key).chunk(2), strict=True):
            state[key.replace("to_kv", f"to_{name}")] = part
    for theirs, ours in (("sm", "small"), ("lg", "large")):
        tokens: Tokens = getattr(model, ours)
        embedder = f"{theirs}_image_embedder."
        name = embedder + "to_patch_embedding.1.weight"
        state[name] = as_kernel(state[name], tokens.patches.conv.kernel_size[0])
        name = embedder + "pos_embedding"
        state[name] = state[name][:, : tokens.positions.shape[1]]
        embedder = rf"{theirs}_image_embedder\."
        rules += [
            *torch_rules(tokens.trunk, embedder + r"efficient_net\.", f"{ours}.trunk."),
            (embedder + r"to_patch_embedding\.1\.(.*)", rf"{ours}.patches.conv.\1"),
            (embedder + "pos_embedding", f"{ours}.positions"),
            (embedder + "cls_token", f"{ours}.cls"),
            (rf"{theirs}_mlp_head\.(.*)", rf"{ours}_head.\1"),
        ]
    for i, step in enumerate(model.rounds):
        here = rf"multi_scale_encoder\.layers\.{i}\."
        for j, ours in enumerate(("small", "large")):
            last = len(getattr(step, ours)) - 1  # the norm, after attention and MLP of each block
            rules += encoder_rules(here + rf"{j}\.", f"rounds.{i}.{ours}.", last // 2, query_alone=True)
            rules.append((here + rf"{j}\.norm\.(.*)", rf"rounds.{i}.{ours}.{last}.\1"))
            crossing, asks = here + rf"2\.layers\.(\d+)\.{j}\.", rf"rounds.{i}.{ours}_asks.\1."
            rules += [
                (crossing + r"project_in\.(.*)", asks + r"go.\2"),
                (crossing + r"project_out\.(.*)", asks + r"back.\2"),
                (crossing + r"fn\.norm\.(.*)", asks + r"norm.\2"),
                (crossing + r"fn\.fn\.to_([qkv])\.(.*)", asks + r"attn.\2.\3"),
                (crossing + r"fn\.fn\.to_out\.0\.(.*)", asks + r"attn.out.\2"),
            ]
    return state, rules
