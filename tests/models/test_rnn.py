"""Recurrent encoder-decoders against their equations, written one step and one sentence at a time."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import tformerlib as tf
from tformerlib.attention import record_attention
from tformerlib.models.rnn import Additive, Bahdanau, Dot, General, InputFeeding, Luong, Memory, RNNEncoderDecoder

SIZES: dict[str, Any] = {"source_vocab": 13, "target_vocab": 11, "embed": 6, "hidden": 8}
MODELS = {
    "rnnsearch": partial(RNNEncoderDecoder, attention=partial(Additive, hidden=5), decoder=partial(Bahdanau, maxout=3)),
    "rnnsearch, general": partial(RNNEncoderDecoder, attention=General),
    "rnnencdec": partial(RNNEncoderDecoder, attention=None, bidirectional=False),
    "fixed vector, both directions": partial(RNNEncoderDecoder, attention=None),
    "luong, dot": partial(RNNEncoderDecoder, attention=Dot, decoder=Luong, bidirectional=False),
    "luong, general": partial(RNNEncoderDecoder, attention=General, decoder=Luong),
    "luong, concat": partial(RNNEncoderDecoder, attention=Additive, decoder=Luong),
    "luong, dot, fed": partial(RNNEncoderDecoder, attention=Dot, decoder=InputFeeding, bidirectional=False),
    "luong, general, fed": partial(RNNEncoderDecoder, attention=General, decoder=InputFeeding),
}


def wide(name: str) -> RNNEncoderDecoder:
    torch.manual_seed(0)
    model = MODELS[name](**SIZES)
    for p in model.parameters():
        nn.init.normal_(p, std=0.6)
    return model


def batch() -> tuple[Tensor, Tensor]:
    """Sources of 7, 4 and 1 tokens, targets of 5, 5 and 3."""
    torch.manual_seed(1)
    source, target = torch.randint(3, 13, (3, 7)), torch.randint(3, 11, (3, 5))
    source[1, 4:], source[2, 1:], target[2, 3:], target[:, 0] = 0, 0, 0, 1
    return source, target


def gru(gates: Mapping[str, Tensor], x: Tensor, h: Tensor, suffix: str = "") -> Tensor:
    """One step of torch's GRU: reset gate after the product, update gate keeping the old state."""
    wx = gates[f"weight_ih_l0{suffix}"] @ x + gates[f"bias_ih_l0{suffix}"]
    wh = gates[f"weight_hh_l0{suffix}"] @ h + gates[f"bias_hh_l0{suffix}"]
    (xr, xz, xn), (hr, hz, hn) = wx.chunk(3), wh.chunk(3)
    r, z = torch.sigmoid(xr + hr), torch.sigmoid(xz + hz)
    return (1 - z) * torch.tanh(xn + r * hn) + z * h


def run(gates: Mapping[str, Tensor], xs: list[Tensor], suffix: str = "") -> list[Tensor]:
    states = [torch.zeros(8, dtype=xs[0].dtype)]
    for x in xs:
        states.append(gru(gates, x, states[-1], suffix))
    return states[1:]


def oracle(model: RNNEncoderDecoder, source: list[int], target: list[int], mistake: str = "") -> Tensor:
    """Logits (M, V) of one sentence without padding by the papers' equations, in float64; or with a common mistake."""
    w = {name: p.double() for name, p in model.named_parameters()}
    encoder, gates = ({k[len(p) :]: x for k, x in w.items() if k.startswith(p)} for p in ("encoder.", "decoder.gru."))
    linear = lambda name, x: w[f"{name}.weight"] @ x + w.get(f"{name}.bias", 0.0)  # noqa: E731
    embedded = [w["source.weight"][i] for i in source]
    forward = run(encoder, embedded)
    cells, whole, last = forward, forward[-1], forward[-1]
    if model.encoder.bidirectional:
        backward = run(encoder, embedded[::-1], "_reverse")[::-1]
        cells = [torch.cat(pair) for pair in zip(forward, backward, strict=True)]
        whole, last = torch.cat([forward[-1], backward[0]]), backward[0]
        last = forward[-1] if mistake == "first state from the forward encoder" else last

    def context(state: Tensor) -> Tensor:
        mechanism = model.decoder.attention
        if mechanism is None:
            return whole
        if isinstance(mechanism, Additive):
            key = [linear("decoder.attention.keys", c) for c in cells]
            query = linear("decoder.attention.query", state)
            scores = [(w["decoder.attention.v.weight"][0] * torch.tanh(query + k)).sum() for k in key]
        elif isinstance(mechanism, General):
            scores = [state @ w["decoder.attention.keys.weight"] @ c for c in cells]
        else:
            scores = [state @ c for c in cells]
        return sum(a * c for a, c in zip(torch.stack(scores).softmax(0), cells, strict=True))

    logits, fed = [], torch.zeros_like(last)
    s = torch.tanh(linear("decoder.first", last)) if isinstance(model.decoder, Bahdanau) else last
    for y in (w["target.weight"][i] for i in target):
        if isinstance(model.decoder, Bahdanau):
            c = context(s)
            new = gru(gates, torch.cat([y, c]), s)
            if mistake == "attends with the state after the step":
                c = context(new)
            deep = linear("decoder.deep", torch.cat([new if mistake == "output sees the new state" else s, y, c]))
            feature, s = torch.maximum(deep[0::2], deep[1::2]), new
        else:
            before, feeding = s, isinstance(model.decoder, InputFeeding) and mistake != "no input feeding"
            beside = fed if feeding else fed.new_zeros(gates["weight_ih_l0"].shape[1] - len(y))
            s = gru(gates, torch.cat([y, beside]), s)
            c = context(before if mistake == "attends with the state before the step" else s)
            feature = fed = torch.tanh(linear("decoder.combine", torch.cat([c, s])))
        logits.append(linear("output", feature))
    return torch.stack(logits)


@pytest.mark.parametrize("name", MODELS)
def test_equals_the_equations_and_never_sees_the_padding(name):
    model, (source, target) = wide(name), batch()
    grads = []
    for logits in (
        model(source, target)[target != 0],
        torch.cat(
            [
                oracle(model, [i for i in s if i], [i for i in t if i])
                for s, t in zip(source.tolist(), target.tolist(), strict=True)
            ]
        ),
    ):
        grads.append((logits, *torch.autograd.grad(F.cross_entropy(logits, target[target != 0]), model.parameters())))
    assert grads[0][0].std() > 0.5
    for ours, expected in zip(*grads, strict=True):
        torch.testing.assert_close(ours, expected, atol=2e-5, rtol=2e-5, check_dtype=False)


@pytest.mark.parametrize(
    "name,mistake",
    [
        ("rnnsearch", "attends with the state after the step"),
        ("rnnsearch", "first state from the forward encoder"),
        ("rnnsearch", "output sees the new state"),
        ("luong, general", "attends with the state before the step"),
        ("luong, general, fed", "no input feeding"),
    ],
)
def test_mistakes_show(name, mistake):
    model, (source, target) = wide(name), batch()
    right, wrong = (oracle(model, source[0].tolist(), target[0].tolist(), m) for m in ("", mistake))
    assert (right - wrong).abs().max() > 0.05


def test_the_cells_are_torchs():
    """The oracle's GRU is nn.GRU's and nn.GRUCell's, so agreement with it is agreement with them."""
    torch.manual_seed(0)
    layer, cell, x, h = nn.GRU(6, 8), nn.GRUCell(6, 8), torch.randn(6), torch.randn(8)
    cell.load_state_dict({key.removesuffix("_l0"): p for key, p in layer.state_dict().items()})
    ours = gru(dict(layer.named_parameters()), x, h)
    torch.testing.assert_close(ours, cell(x[None], h[None])[0])
    torch.testing.assert_close(ours, layer(x[None], h[None])[0][0])


@pytest.mark.parametrize("name", MODELS)
def test_a_target_changes_no_earlier_logit(name):
    model, (source, target) = wide(name), batch()
    other = target.clone()
    other[:, 3:] = 5
    change = (model(source, target) - model(source, other)).abs().amax((0, 2))
    assert (change[:3] == 0).all() and (change[3:] > 1e-3).all()


@pytest.mark.parametrize("name", [name for name, make in MODELS.items() if make.keywords["attention"] is not None])
def test_alignments_are_seen_and_sum_to_one_over_real_tokens(name):
    model, (source, target) = wide(name), batch()
    expected = model(source, target)
    with record_attention() as weights:
        torch.testing.assert_close(model(source, target), expected)
    weights = torch.cat(weights, 2)
    assert weights.shape == (3, 1, 5, 7)
    torch.testing.assert_close(weights.sum(-1), torch.ones(3, 1, 5))
    assert (weights.transpose(1, 3)[source == 0] == 0).all()


def test_additive_attention_can_do_what_dot_products_cannot():
    """Saturated hidden units bound the score by the sum of |v|, however long the query grows."""
    torch.manual_seed(0)
    additive, cells = Additive(4, 4, hidden=8), torch.randn(1, 5, 4)
    mask = torch.ones(1, 1, 5, dtype=torch.bool)
    memory = Memory(cells, additive.keys(cells), mask, cells[:, 0], cells[:, 0])
    with record_attention() as weights:
        additive(torch.randn(1, 1, 4) * 1e4, memory)
    bound = 2 * additive.v.weight.abs().sum()
    assert weights[0].max() / weights[0].min() <= bound.exp()


def test_parameter_counts_of_the_published_sizes():
    """App. A.2 of Bahdanau et al. lists the matrices, without biases; ours add the biases."""
    vocab, m, n, maxout, align = 30_000, 620, 1000, 500, 1000
    gru_matrices = lambda inputs: 3 * n * (inputs + n)  # noqa: E731
    search = 2 * vocab * m + 2 * gru_matrices(m) + n * n  # embeddings, both encoders, W_s
    search += gru_matrices(m + 2 * n) + align * (n + 2 * n + 1)  # decoder, W_a, U_a, v_a
    search += 2 * maxout * (n + m + 2 * n) + vocab * maxout  # U_o, V_o, C_o, W_o
    encdec = 2 * vocab * m + gru_matrices(m) + n * n + gru_matrices(m + n) + 2 * maxout * (n + m + n) + vocab * maxout
    assert (search, encdec) == (80_401_000, 68_540_000)
    for name, matrices in (("rnnsearch", search), ("rnnencdec", encdec)):
        with torch.device("meta"):
            model = tf.create_model(name)
        biases = sum(p.numel() for key, p in model.named_parameters() if "bias" in key)
        assert sum(p.numel() for p in model.parameters()) - biases == matrices
        assert biases < 0.001 * matrices


def test_variants_are_the_papers():
    models = {name: tf.create_model(f"luong_{name}", **SIZES) for name in ("dot", "general", "concat")}
    assert [type(model.decoder.attention) for model in models.values()] == [Dot, General, Additive]
    assert all(isinstance(model.decoder, InputFeeding) for model in models.values())
    assert tf.create_model("rnnencdec", **SIZES).decoder.attention is None


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="Dot needs states as wide as memory cells, not 8 and 16"):
        RNNEncoderDecoder(**SIZES, attention=Dot)
    with pytest.raises(ValueError, match="attention=None"):
        RNNEncoderDecoder(**SIZES, attention=None, decoder=Luong)
