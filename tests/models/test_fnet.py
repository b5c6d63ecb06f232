"""FNet: equal to transformers' in outputs, loss and gradients; a transform that is what its definition says."""

import cmath
import math
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import FNetConfig, FNetForMaskedLM, FNetForPreTraining, FNetModel

import tformerlib as tf
from tformerlib.models.fnet import FNet, Fourier, Mixing, Nothing
from tformerlib.peers.parity import assert_same, widen

VOCAB = 23
SIZES: dict[str, dict[str, Any]] = {
    "narrow": {"vocab": VOCAB, "dim": 24, "depth": 3, "hidden": 40, "context": 16},
    "wide": {"vocab": VOCAB, "dim": 64, "depth": 2, "hidden": 256, "context": 32},
    "odd": {"vocab": VOCAB, "dim": 35, "depth": 2, "hidden": 44, "context": 12},
}
each_size = pytest.mark.parametrize("size", SIZES)


@pytest.fixture(autouse=True)
def same_weights() -> None:
    torch.manual_seed(0)


def theirs(kind: type, size: str, **config: Any) -> Any:
    s = SIZES[size]
    model = kind(
        FNetConfig(
            vocab_size=VOCAB, hidden_size=s["dim"], num_hidden_layers=s["depth"], intermediate_size=s["hidden"],
            max_position_embeddings=s["context"], hidden_dropout_prob=0.0, pad_token_id=0, **config,
        )
    )  # fmt: skip
    widen(model)
    return model.eval()


def ours(size: str, **config: Any) -> FNet:
    return FNet(**SIZES[size], dropout=0.0, **config).eval()


def batch() -> dict[str, Tensor]:
    torch.manual_seed(1)
    ids, labels = torch.randint(1, VOCAB, (3, 12)), torch.full((3, 12), -100)
    segments = (torch.arange(12) >= torch.tensor([[5], [4], [2]])).long() * 3
    labels[0, 2], labels[0, 9], labels[1, 0], labels[2, 11] = 3, 22, 7, 1
    return {"ids": ids, "segments": segments, "labels": labels, "follows": torch.tensor([0, 1, 1])}


@each_size
def test_fnet_equals_transformers(size):
    peer, b = theirs(FNetForPreTraining, size), batch()
    model = tf.load_published(ours(size), peer.state_dict())
    expected = peer(b["ids"], token_type_ids=b["segments"], labels=b["labels"], next_sentence_label=b["follows"])
    tokens, follows = model(b["ids"], b["segments"])
    assert expected.prediction_logits.std() > 0.5
    assert_same(tokens, expected.prediction_logits)
    assert_same(follows, expected.seq_relationship_logits)
    places = (b["labels"] >= 0).flatten().nonzero()[:, 0]
    asked, _ = model(b["ids"], b["segments"], places)
    loss = F.cross_entropy(asked, b["labels"].flatten()[places]) + F.cross_entropy(follows, b["follows"])
    assert_same(loss, expected.loss)
    loss.backward()
    expected.loss.backward()
    grads = {key: torch.zeros_like(p) if p.grad is None else p.grad for key, p in peer.named_parameters()}
    twin = tf.load_published(ours(size), grads)
    pads = twin.embed.tokens.weight
    for (name, p), g in zip(model.named_parameters(), twin.parameters(), strict=True):
        assert p.grad is not None and p.grad.abs().max() > 1e-4, name
        rows = slice(1, None) if g is pads else slice(None)  # their padding row is never learned from the input
        assert_same(p.grad[rows], g.detach()[rows], name)


@pytest.mark.parametrize("kind", [FNetModel, FNetForMaskedLM])
def test_a_model_with_fewer_heads_leaves_ours_alone(kind):
    peer, model, b = theirs(kind, "narrow"), ours("narrow"), batch()
    before = model.follows.weight.clone()
    tf.load_published(model, peer.state_dict())
    assert torch.equal(model.follows.weight, before)
    expected = (peer if kind is FNetModel else peer.fnet)(b["ids"], token_type_ids=b["segments"]).last_hidden_state
    assert_same(model.encode(b["ids"], b["segments"]), expected)


def test_parity_catches_models_that_are_nearly_right():
    peer, b = theirs(FNetModel, "narrow"), batch()
    expected = peer(b["ids"], token_type_ids=b["segments"]).last_hidden_state
    load = partial(tf.load_published, state=peer.state_dict())

    def error(model: FNet) -> float:
        return (model.encode(b["ids"], b["segments"]) - expected).abs().max().item()

    def over(transform: Any) -> FNet:
        model = load(ours("narrow"))
        for block in model.blocks:
            block.mixer.fn.forward = transform
        return model

    assert error(load(ours("narrow"))) < 2e-5
    assert error(over(lambda x: torch.fft.fft(x, dim=-2).real)) > 0.1  # tokens alone
    assert error(over(lambda x: torch.fft.fft2(x, norm="ortho").real)) > 0.1
    assert error(over(lambda x: torch.fft.fft2(x).abs())) > 0.1
    assert (
        error(over(lambda x: torch.fft.fft(torch.fft.fft(x, dim=-1).real, dim=-2).real)) > 0.1
    )  # real parts too early
    model = load(ours("narrow"))
    model.project = nn.Identity()
    assert error(model) > 0.1
    exact = load(ours("narrow"))
    for block in exact.blocks:
        block.mlp.fn[1] = nn.GELU()
    assert error(exact) > 1e-4


def test_the_transform_is_its_definition():
    x = torch.randn(1, 5, 3, dtype=torch.float64)
    y = Fourier(3, 5)(x)
    assert Fourier(3, 5)(x.bfloat16()).dtype == torch.bfloat16
    for n in range(5):
        for c in range(3):
            turned = sum(
                x[0, m, d].item() * cmath.exp(-2j * math.pi * (m * n / 5 + d * c / 3))
                for m in range(5)
                for d in range(3)
            )
            assert abs(y[0, n, c].item() - turned.real) < 1e-12


def test_the_transform_is_symmetric_and_twice_gives_the_input_and_its_mirror():
    """Re F is one symmetric matrix, and (Re F)^2 is N C / 2 times the sum of the identity and the reversal."""
    matrix = Fourier(4, 6)(torch.eye(24).view(24, 6, 4)).flatten(1)
    torch.testing.assert_close(matrix, matrix.mT, atol=1e-5, rtol=0)
    x = torch.randn(2, 6, 4)
    mirrored = x.roll((-1, -1), (1, 2)).flip((1, 2))
    torch.testing.assert_close(Fourier(4, 6)(Fourier(4, 6)(x)), 12 * (x + mirrored), atol=1e-3, rtol=1e-4)


def test_every_token_reaches_every_other_and_padding_counts():
    model = ours("narrow")
    for p in model.parameters():
        nn.init.normal_(p, std=0.3)
    ids = torch.randint(1, VOCAB, (1, 8))
    for changed, asked in ((0, 7), (7, 0)):
        other = ids.clone()
        other[:, changed] = other[:, changed] % (VOCAB - 1) + 1
        assert (model.encode(other) - model.encode(ids))[:, asked].abs().max() > 1e-3
    assert (model.encode(F.pad(ids, (0, 3)))[:, :8] - model.encode(ids)).abs().max() > 1e-2
    alone = ours("narrow", mixer=Nothing)
    other = ids.clone()
    other[:, 7] = other[:, 7] % (VOCAB - 1) + 1
    assert torch.equal(alone.encode(other)[:, :7], alone.encode(ids)[:, :7])


def test_two_matrices_may_be_the_transform_of_tokens_alone():
    """With a matrix of cosines and the identity, Mixing is the real transform over tokens."""
    mixing, n = Mixing(4, 6, learned=False), torch.arange(6)
    mixing.tokens.data, mixing.channels.data = torch.cos(2 * math.pi * n[:, None] * n / 6), torch.eye(4)
    x = torch.randn(2, 6, 4)
    torch.testing.assert_close(mixing(x), torch.fft.fft(x, dim=-2).real, atol=1e-5, rtol=1e-5)
    assert not any(p.requires_grad for p in mixing.parameters())
    assert all(p.requires_grad for p in Mixing(4, 6, learned=True).parameters())


def test_training_drops_after_the_feed_forward_networks_and_not_after_the_transform():
    model, ids = FNet(**SIZES["narrow"], dropout=0.5), torch.randint(VOCAB, (2, 9))
    assert not torch.equal(model.encode(ids), model.encode(ids))
    layer, x = model.blocks[0], torch.randn(2, 9, 24)
    assert torch.equal(layer.mixer(x), layer.mixer(x)) and not torch.equal(layer.mlp(x), layer.mlp(x))
    model.eval()
    assert torch.equal(model.encode(ids), model.encode(ids))


@pytest.mark.parametrize(
    ("name", "total", "body"), [("fnet_base", 83_486_722, 82_861_056), ("fnet_large", 238_031_106, 236_945_408)]
)
def test_parameter_counts_of_the_published_sizes(name, total, body):
    with torch.device("meta"):
        parameters = dict(tf.create_model(name).named_parameters())
    heads = ("masked.dense", "masked.norm", "masked.output.bias", "follows")
    assert sum(p.numel() for p in parameters.values()) == total
    assert sum(p.numel() for key, p in parameters.items() if not key.startswith(heads)) == body


def test_bad_input_is_refused_with_its_value():
    model = ours("narrow")
    with pytest.raises(ValueError, match="17 tokens do not fit the model's context=16"):
        model(torch.ones(1, 17, dtype=torch.long))
    with pytest.raises(ValueError, match="ids from 1 to 23"):
        model(torch.tensor([[1, VOCAB]]))
    with pytest.raises(ValueError, match="9 tokens, but the matrix mixes context=16"):
        ours("narrow", mixer=partial(Mixing, learned=True))(torch.ones(1, 9, dtype=torch.long))
