"""Same weights, same padded batch: the outputs, losses and gradients of transformers' BERT and SqueezeBERT."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForPreTraining,
    BertModel,
    SqueezeBertConfig,
    SqueezeBertForMaskedLM,
    SqueezeBertModel,
)

import tformerlib as tf
from tformerlib.layers.blocks import PreNorm
from tformerlib.models.bert import BERT
from tformerlib.models.squeezebert import SqueezeBERT

VOCAB = 23
SIZES: dict[str, dict[str, Any]] = {
    "narrow": {"vocab": VOCAB, "dim": 24, "depth": 3, "heads": 3, "hidden": 40, "context": 16},
    "wide": {"vocab": VOCAB, "dim": 64, "depth": 2, "heads": 8, "hidden": 256, "context": 32},
    "deep": {"vocab": VOCAB, "dim": 32, "depth": 5, "heads": 4, "hidden": 64, "context": 12},
}
each_size = pytest.mark.parametrize("size", SIZES)


def theirs(kind: type, size: str, **config: Any) -> Any:
    """Their model of a size, with weights far from where training starts: small ones hide errors."""
    s = SIZES[size]
    made = (BertConfig if "Squeeze" not in kind.__name__ else SqueezeBertConfig)(
        vocab_size=VOCAB, hidden_size=s["dim"], num_hidden_layers=s["depth"], num_attention_heads=s["heads"],
        intermediate_size=s["hidden"], max_position_embeddings=s["context"], hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        **({"hidden_act": "gelu_new"} if "Squeeze" not in kind.__name__ else {"embedding_size": s["dim"]}) | config,
    )  # fmt: skip
    model = kind(made)
    torch.manual_seed(0)
    for name, p in model.named_parameters():
        norm = "norm" in name.lower() and name.endswith("weight")
        nn.init.normal_(p, mean=float(norm), std=0.3 if norm or p.ndim == 1 else 0.5 * p.shape[1] ** -0.5 + 0.1)
    return model.eval()


def ours(kind: type, size: str, **config: Any) -> Any:
    return kind(**SIZES[size], dropout=0.0, **config).eval()


def batch() -> dict[str, Tensor]:
    """Rows of 12, 7 and 3 tokens; the second segment begins in the middle; some places are asked for."""
    torch.manual_seed(1)
    ids = torch.randint(1, VOCAB, (3, 12))
    segments = (torch.arange(12) >= torch.tensor([[5], [4], [2]])).long()
    ids[1, 7:], ids[2, 3:] = 0, 0
    labels = torch.full((3, 12), -100)
    labels[0, 2], labels[0, 9], labels[1, 0], labels[1, 6], labels[2, 1] = 3, 22, 7, 1, 0
    return {"ids": ids, "segments": segments, "labels": labels, "follows": torch.tensor([0, 1, 1])}


def inputs(b: dict[str, Tensor]) -> dict[str, Tensor]:
    return {"input_ids": b["ids"], "attention_mask": (b["ids"] != 0).long(), "token_type_ids": b["segments"]}


def assert_same(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=2e-5)


def assert_same_gradients(model: Any, peer: Any, twin: Any) -> None:
    """The twin, of our kind, carries their gradients under our names."""
    grads = {key: torch.zeros_like(p) if p.grad is None else p.grad for key, p in peer.named_parameters()}
    tf.load_published(twin, grads)
    for (name, p), g in zip(model.named_parameters(), twin.parameters(), strict=True):
        assert p.grad is not None
        assert p.grad.abs().max() > 2e-4 or name.endswith("k.bias"), name  # which moves all scores alike, in vain
        assert_same(p.grad, g.detach())


@each_size
@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_bert_equals_transformers(size, implementation):
    peer = theirs(BertForPreTraining, size, attn_implementation=implementation)
    model = tf.load_published(ours(BERT, size), peer.state_dict())
    b = batch()
    real, places = b["ids"] != 0, (b["labels"] >= 0).flatten().nonzero()[:, 0]
    expected = peer(**inputs(b), labels=b["labels"], next_sentence_label=b["follows"])
    tokens, follows = model(b["ids"], b["segments"])
    assert expected.prediction_logits.std() > 0.5
    assert_same(tokens[real], expected.prediction_logits[real])
    assert_same(follows, expected.seq_relationship_logits)
    asked, follows = model(b["ids"], b["segments"], places)
    assert_same(asked, expected.prediction_logits.flatten(0, 1)[places])
    loss = F.cross_entropy(asked, b["labels"].flatten()[places]) + F.cross_entropy(follows, b["follows"])
    assert_same(loss, expected.loss)
    loss.backward()
    expected.loss.backward()
    assert_same_gradients(model, peer, ours(BERT, size))


@each_size
def test_squeezebert_equals_transformers(size):
    peer = theirs(SqueezeBertForMaskedLM, size)
    model = tf.load_published(ours(SqueezeBERT, size), peer.state_dict())
    b = batch()
    real, places = b["ids"] != 0, (b["labels"] >= 0).flatten().nonzero()[:, 0]
    expected = peer(**inputs(b), labels=b["labels"])
    assert expected.logits.std() > 0.5
    assert_same(model(b["ids"], b["segments"])[real], expected.logits[real])
    pooled = peer.transformer(**inputs(b)).pooler_output
    assert_same(model.pool(model.encode(b["ids"], b["segments"])), pooled)
    loss = F.cross_entropy(model(b["ids"], b["segments"], places), b["labels"].flatten()[places])
    assert_same(loss, expected.loss)
    (loss + model.pool(model.encode(b["ids"], b["segments"])).square().mean()).backward()
    (expected.loss + pooled.square().mean()).backward()
    assert_same_gradients(model, peer, ours(SqueezeBERT, size))


@pytest.mark.parametrize("groups", [1, 2, 8])
def test_squeezebert_equals_transformers_at_other_groups(groups):
    names = ("q_groups", "k_groups", "v_groups", "intermediate_groups", "output_groups")
    peer = theirs(SqueezeBertModel, "wide", **dict.fromkeys(names, groups))
    model = tf.load_published(ours(SqueezeBERT, "wide", groups=groups), peer.state_dict())
    b = batch()
    real = b["ids"] != 0
    assert_same(model.encode(b["ids"], b["segments"])[real], peer(**inputs(b)).last_hidden_state[real])


def test_without_groups_squeezebert_is_bert_with_the_exact_gelu():
    bert = theirs(BertModel, "narrow", hidden_act="gelu")
    model = ours(SqueezeBERT, "narrow", groups=1)
    ours_named = tf.load_published(ours(BERT, "narrow"), bert.state_dict()).state_dict()
    renamed = {}
    for key, x in ours_named.items():
        if key.startswith("follows"):
            continue
        new = key.replace("mlp.fn.0", "mlp.fn.layers.0").replace("mlp.fn.3", "mlp.fn.layers.2")
        if ".mixer.fn.out" not in key and ("mixer.fn" in key or "mlp.fn" in key):
            x = x.T[None] if x.ndim == 2 else x[None, None]
        renamed[new] = x
    model.load_state_dict(renamed)
    b = batch()
    real = b["ids"] != 0
    assert_same(model.encode(b["ids"], b["segments"])[real], bert(**inputs(b)).last_hidden_state[real])


@pytest.mark.parametrize(
    "kind,body,pooled", [(BertModel, "", True), (BertForMaskedLM, "bert.", False), (BertForPreTraining, "bert.", True)]
)
def test_a_model_with_fewer_heads_leaves_ours_alone(kind, body, pooled):
    peer, model = theirs(kind, "narrow"), ours(BERT, "narrow")
    before = {key: x.clone() for key, x in model.state_dict().items()}
    tf.load_published(model, peer.state_dict())
    after = model.state_dict()
    assert torch.equal(after["follows.weight"], before["follows.weight"]) == (kind is not BertForPreTraining)
    assert torch.equal(after["pooler.weight"], before["pooler.weight"]) != pooled
    assert model.masked.output.weight is model.embed.tokens.weight
    b = batch()
    real = b["ids"] != 0
    hidden = peer.base_model(**inputs(b)).last_hidden_state
    assert_same(model.encode(b["ids"], b["segments"])[real], hidden[real])


def test_tied_weights_may_be_stored_once_and_are_never_torn_apart():
    peer = theirs(BertForPreTraining, "narrow")
    state = peer.state_dict()
    once = {key: x for key, x in state.items() if "decoder" not in key}
    a, b = (tf.load_published(ours(BERT, "narrow"), s).state_dict() for s in (state, once))
    assert all(torch.equal(a[key], b[key]) for key in a)
    with pytest.raises(ValueError, match=r"decoder\.weight.*differ"):
        tf.load_published(ours(BERT, "narrow"), state | {"cls.predictions.decoder.weight": torch.ones(VOCAB, 24)})
    with pytest.raises(KeyError, match=r"no rule for 'bert\.extra'"):
        tf.load_published(ours(BERT, "narrow"), state | {"bert.extra": torch.ones(1)})
    with pytest.raises(RuntimeError, match="size mismatch"):
        tf.load_published(ours(BERT, "wide"), state)


def test_parity_catches_models_that_are_nearly_right():
    """Mistakes that people make: each must show far above the tolerance, or the tests above prove little."""
    b = batch()
    real = b["ids"] != 0

    def error(model: Any, peer: Any) -> float:
        return (model.encode(b["ids"], b["segments"]) - peer(**inputs(b)).last_hidden_state)[real].abs().max().item()

    peer = theirs(BertModel, "narrow")
    load = lambda **wrong: tf.load_published(ours(BERT, "narrow", **wrong), peer.state_dict())  # noqa: E731
    assert error(load(), peer) < 2e-5
    assert error(load(), theirs(BertModel, "narrow", hidden_act="gelu")) > 1e-4  # the exact GELU is not BERT's
    assert error(load(causal=True), peer) > 0.1
    assert error(load(pad=-1), peer) > 0.1  # padding is seen
    assert error(tf.load_published(BERT(**SIZES["narrow"] | {"heads": 4}, dropout=0.0), peer.state_dict()), peer) > 0.1
    wrong = load()
    for block in wrong.blocks:
        for branch in (block.mixer, block.mlp):
            branch.__class__ = PreNorm
    assert error(wrong, peer) > 0.1
    squeezed = theirs(SqueezeBertModel, "wide")
    model = tf.load_published(ours(SqueezeBERT, "wide"), squeezed.state_dict())
    assert error(model, squeezed) < 2e-5
    model.blocks[0].mixer.fn.q.weight.data = model.blocks[0].mixer.fn.q.weight.data.flip(0)  # groups in another order
    assert error(model, squeezed) > 0.1
