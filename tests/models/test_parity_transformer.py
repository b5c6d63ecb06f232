"""Same weights, same input: the same logits and gradients as torch's and as transformers' Transformer."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import MarianConfig, MarianMTModel

import tformerlib as tf
from tformerlib.layers.blocks import PostNorm, PreNorm
from tformerlib.layers.positions import sinusoids
from tformerlib.models.transformer import Transformer

SIZES: dict[str, Any] = {"source_vocab": 23, "dim": 32, "depth": 2, "heads": 4, "hidden": 48, "dropout": 0.0}


def widen(model: nn.Module) -> None:
    """Weights far from where training starts: small ones hide errors, as every softmax is then nearly uniform."""
    torch.manual_seed(0)
    for name, p in model.named_parameters():
        if "embed_positions" not in name:
            nn.init.normal_(p, mean=float("norm" in name and name.endswith("weight")), std=0.3)


def batch() -> tuple[Tensor, Tensor]:
    """Sources of 9, 7 and 2 tokens and targets of 6, 3 and 4, padded."""
    torch.manual_seed(1)
    source, target = torch.randint(3, 23, (3, 9)), torch.randint(3, 23, (3, 6))
    source[1, 7:], source[2, 2:], target[1, 3:], target[2, 4:], target[:, 0] = 0, 0, 0, 0, 1
    return source, target


class TorchTransformer(nn.Module):
    """nn.Transformer between embeddings and output of our model."""

    def __init__(self, ours: Transformer, norm_first: bool, final_norm: bool) -> None:
        super().__init__()
        dim, heads, hidden = SIZES["dim"], SIZES["heads"], SIZES["hidden"]
        self.body = nn.Transformer(dim, heads, 2, 2, hidden, 0.0, norm_first=norm_first, batch_first=True)
        if not final_norm:
            self.body.encoder.norm = self.body.decoder.norm = None
        self.embed = nn.Embedding.from_pretrained(ours.target.tokens.weight.detach().clone(), freeze=False)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        x, y = (self.embed(ids) * 32**0.5 + sinusoids(ids.shape[1], 32) for ids in (source, target))
        causal, pad = nn.Transformer.generate_square_subsequent_mask(target.shape[1]) < 0, source == 0
        y = self.body(x, y, tgt_mask=causal, src_key_padding_mask=pad, memory_key_padding_mask=pad)
        return y @ self.embed.weight.T


def loss(logits: Tensor, target: Tensor) -> Tensor:
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), target[:, 1:].flatten(), ignore_index=0)


def assert_same(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=2e-5)


@pytest.mark.filterwarnings("ignore:enable_nested_tensor")
@pytest.mark.parametrize("residual,final_norm", [(PostNorm, False), (PostNorm, True), (PreNorm, True)])
def test_equals_torch(residual, final_norm):
    ours = Transformer(**SIZES, residual=residual, final_norm=final_norm)
    widen(ours)
    theirs = TorchTransformer(ours, residual is PreNorm, final_norm)
    widen(theirs.body)
    tf.load_published(ours, theirs.body.state_dict(), source="torch")
    source, target = batch()
    logits, expected = ours(source, target), theirs(source, target)
    assert expected.std() > 1
    assert_same(logits[target != 0], expected[target != 0])
    loss(logits, target).backward()
    loss(expected, target).backward()
    grads = {key: p.grad for key, p in theirs.body.named_parameters()}
    twin = Transformer(**SIZES, residual=residual, final_norm=final_norm)  # carries their gradients under our names
    tf.load_published(twin, grads, source="torch")
    for (name, p), g in zip(ours.named_parameters(), twin.parameters(), strict=True):
        assert_same(p.grad, theirs.embed.weight.grad if "tokens" in name else g.detach())


def marian(**config: Any) -> MarianMTModel:
    model = MarianMTModel(
        MarianConfig(
            vocab_size=23,
            d_model=32,
            encoder_layers=2,
            decoder_layers=2,
            encoder_attention_heads=4,
            decoder_attention_heads=4,
            encoder_ffn_dim=48,
            decoder_ffn_dim=48,
            activation_function="relu",
            scale_embedding=True,
            max_position_embeddings=64,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
            decoder_start_token_id=1,
            forced_eos_token_id=None,
            dropout=0.0,
            **config,
        )
    )
    widen(model)
    return model


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_equals_marian(implementation):
    theirs = marian(attn_implementation=implementation)
    theirs.final_logits_bias.normal_()
    ours = tf.load_published(Transformer(**SIZES, output_bias=True), theirs.state_dict())
    source, target = batch()
    expected = theirs(input_ids=source, attention_mask=(source != 0).long(), decoder_input_ids=target).logits
    logits = ours(source, target)
    assert expected.std() > 1
    assert_same(logits[target != 0], expected[target != 0])
    loss(logits, target).backward()
    loss(expected, target).backward()
    grads = {key: p.grad for key, p in theirs.named_parameters() if p.grad is not None}
    fixed = {key: x for key, x in theirs.state_dict().items() if "positions" in key or key == "final_logits_bias"}
    twin = tf.load_published(Transformer(**SIZES, output_bias=True), grads | fixed)
    for (name, p), g in zip(ours.named_parameters(), twin.parameters(), strict=True):
        if name != "output.bias":  # Marian's is not trained
            assert_same(p.grad, g.detach())


def test_marians_tied_weights_may_be_stored_once_and_its_bias_is_never_dropped():
    theirs = marian()
    source, target = batch()
    state = {key: x for key, x in theirs.state_dict().items() if "embed_tokens" not in key and "lm_head" not in key}
    ours = tf.load_published(Transformer(**SIZES), state)
    expected = theirs(input_ids=source, attention_mask=(source != 0).long(), decoder_input_ids=target).logits
    assert_same(ours(source, target)[target != 0], expected[target != 0])
    with pytest.raises(ValueError, match="output_bias=True"):
        tf.load_published(Transformer(**SIZES), state | {"final_logits_bias": torch.ones(1, 23)})
    with pytest.raises(ValueError, match="positions are not those"):
        tf.load_published(Transformer(**SIZES, positions=None), state)
    with pytest.raises(KeyError, match=r"no rule for 'model\.encoder\.extra'"):
        tf.load_published(Transformer(**SIZES), state | {"model.encoder.extra": torch.ones(1)})


def test_parity_catches_a_transformer_that_is_nearly_right():
    """Mistakes that people make: each must show far above the tolerance, or the tests above prove little."""
    theirs = marian()
    source, target = batch()
    expected = theirs(input_ids=source, attention_mask=(source != 0).long(), decoder_input_ids=target).logits

    def error(ours: Transformer) -> float:
        return (ours(source, target) - expected)[target != 0].abs().max().item()

    right = tf.load_published(Transformer(**SIZES), theirs.state_dict())
    assert error(right) < 1e-4
    right.target.tokens.embedding_dim = 1  # embeddings not times sqrt(dim)
    assert error(right) > 0.1
    for wrong in ({"residual": PreNorm, "final_norm": False}, {"heads": 2}):
        assert error(tf.load_published(Transformer(**(SIZES | wrong)), theirs.state_dict())) > 0.1
    no_mask = tf.load_published(Transformer(**SIZES, pad=-1), theirs.state_dict())
    assert error(no_mask) > 0.1
