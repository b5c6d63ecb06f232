"""Weights that other implementations of the encoder-decoder Transformer hold."""

import re

import torch
from torch import Tensor

from ..models.transformer import Transformer
from .rules import Rules, published


@published("Transformer", "torch")
def from_torch(model: Transformer, state: dict[str, Tensor]) -> tuple[dict[str, Tensor], Rules]:
    """`torch.nn.Transformer`. It has neither embeddings nor an output layer: the model keeps its own.

    Its two LayerNorms after the stacks are not in the paper; they go into a model made with final_norm=True.
    """
    own = {key: x for key, x in model.state_dict().items() if key.startswith(("source.", "target.", "output."))}
    stacks = "encoder", "decoder", "(encoder|decoder)"
    encoder, decoder, either = (rf"{stack}\.layers\.(\d+)\." for stack in stacks)
    return own | state, [
        (r"(source|target|output)\..*", r"\g<0>"),
        (encoder + r"self_attn\.in_proj_(.*)", r"encoder.\1.mixer.fn.{q,k,v}.\2"),
        (encoder + r"self_attn\.out_proj\.(.*)", r"encoder.\1.mixer.fn.out.\2"),
        (encoder + r"norm1\.(.*)", r"encoder.\1.mixer.norm.\2"),
        (encoder + r"norm2\.(.*)", r"encoder.\1.mlp.norm.\2"),
        (decoder + r"self_attn\.in_proj_(.*)", r"decoder.\1.attn.fn.{q,k,v}.\2"),
        (decoder + r"self_attn\.out_proj\.(.*)", r"decoder.\1.attn.fn.out.\2"),
        (decoder + r"multihead_attn\.in_proj_(.*)", r"decoder.\1.cross.fn.{q,k,v}.\2"),
        (decoder + r"multihead_attn\.out_proj\.(.*)", r"decoder.\1.cross.fn.out.\2"),
        (decoder + r"norm1\.(.*)", r"decoder.\1.attn.norm.\2"),
        (decoder + r"norm2\.(.*)", r"decoder.\1.cross.norm.\2"),
        (decoder + r"norm3\.(.*)", r"decoder.\1.mlp.norm.\2"),
        (either + r"linear1\.(.*)", r"\1.\2.mlp.fn.0.\3"),
        (either + r"linear2\.(.*)", r"\1.\2.mlp.fn.3.\3"),
        (r"(encoder|decoder)\.norm\.(.*)", r"\1_norm.\2"),
    ]


@published("Transformer", "transformers")
def from_marian(model: Transformer, state: dict[str, Tensor]) -> tuple[dict[str, Tensor], Rules]:
    """`MarianMTModel` with one vocabulary for both languages. Its activation must be ReLU for equal results.

    Its positions hold all sines, then all cosines; ours alternate. A Transformer does not know the order of its
    channels, so everything that reads or writes the residual stream is reordered instead.

    Raises:
        ValueError: positions that are not the paper's sinusoids; a bias on the logits that the model has no place for.
    """
    shared = state.pop("model.shared.weight", None)
    if shared is not None:  # safetensors hold tied weights once
        tied = ("model.encoder.embed_tokens.weight", "model.decoder.embed_tokens.weight", "lm_head.weight")
        state = dict.fromkeys(tied, shared) | state
    words = [state[key] for key in ("model.encoder.embed_tokens.weight", "model.decoder.embed_tokens.weight")]
    if not all(torch.equal(each, state["lm_head.weight"]) for each in words):
        raise ValueError("the published embeddings and output differ; ours share one table")
    order = torch.arange(model.output.in_features).view(2, -1).T.flatten()
    for key, tensor in state.items():
        if re.fullmatch(r".*(embed_\w+|lm_head|[qkv]_proj|fc1)\.weight", key):
            state[key] = tensor[:, order]
        elif re.fullmatch(r".*(out_proj|fc2|layer_norm)\.\w+", key):
            state[key] = tensor[order]
    for stack, ours in (("encoder", model.source.positions), ("decoder", model.target.positions)):
        theirs = state.pop(f"model.{stack}.embed_positions.weight")[: model.context]
        if ours is None or not torch.allclose(theirs, ours[: len(theirs)], atol=1e-5):
            raise ValueError(f"the published {stack}'s positions are not those of the model")
    bias = state.pop("final_logits_bias")
    if "output.bias" in model.state_dict():
        state["output.bias"] = bias[0]
    elif bias.any():
        raise ValueError("final_logits_bias is not zero: make the model with output_bias=True")
    stacks = "encoder", "decoder", "(encoder|decoder)"
    encoder, decoder, either = (rf"model\.{stack}\.layers\.(\d+)\." for stack in stacks)
    return state, [
        (r"output\.bias", "output.bias"),
        (r"lm_head\.weight", "output.weight"),
        (r"model\.encoder\.embed_tokens\.weight", "source.tokens.weight"),
        (r"model\.decoder\.embed_tokens\.weight", "target.tokens.weight"),
        (encoder + r"self_attn\.([qkv])_proj\.(.*)", r"encoder.\1.mixer.fn.\2.\3"),
        (encoder + r"self_attn\.out_proj\.(.*)", r"encoder.\1.mixer.fn.out.\2"),
        (encoder + r"self_attn_layer_norm\.(.*)", r"encoder.\1.mixer.norm.\2"),
        (decoder + r"self_attn\.([qkv])_proj\.(.*)", r"decoder.\1.attn.fn.\2.\3"),
        (decoder + r"self_attn\.out_proj\.(.*)", r"decoder.\1.attn.fn.out.\2"),
        (decoder + r"self_attn_layer_norm\.(.*)", r"decoder.\1.attn.norm.\2"),
        (decoder + r"encoder_attn\.([qkv])_proj\.(.*)", r"decoder.\1.cross.fn.\2.\3"),
        (decoder + r"encoder_attn\.out_proj\.(.*)", r"decoder.\1.cross.fn.out.\2"),
        (decoder + r"encoder_attn_layer_norm\.(.*)", r"decoder.\1.cross.norm.\2"),
        (either + r"fc1\.(.*)", r"\1.\2.mlp.fn.0.\3"),
        (either + r"fc2\.(.*)", r"\1.\2.mlp.fn.3.\3"),
        (either + r"final_layer_norm\.(.*)", r"\1.\2.mlp.norm.\3"),
    ]
