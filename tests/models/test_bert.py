"""BERT and SqueezeBERT: sizes, what a token sees, errors, compilation."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import tformerlib as tf
from tformerlib.models.bert import BERT
from tformerlib.models.squeezebert import Grouped, GroupedMLP, SqueezeBERT, cut, join

TINY: dict[str, Any] = {"vocab": 29, "dim": 32, "depth": 2, "heads": 4, "hidden": 64, "context": 16, "dropout": 0.0}
HEADS = ("masked.dense", "masked.norm", "masked.output.bias", "follows")


@pytest.mark.parametrize(
    "name,total,body",
    [
        ("bert_tiny", 4_433_468, 4_385_920),
        ("bert_mini", 11_267_900, 11_170_560),
        ("bert_small", 29_058_876, 28_763_648),
        ("bert_medium", 41_668_412, 41_373_184),
        ("bert_base", 110_106_428, 109_482_240),
        ("bert_large", 336_226_108, 335_141_888),
        ("squeezebert", 51_712_314, 51_089_664),
    ],
)
def test_parameter_counts_of_the_published_sizes(name, total, body):
    with torch.device("meta"):
        parameters = dict(tf.create_model(name).named_parameters())
    assert sum(p.numel() for p in parameters.values()) == total
    assert sum(p.numel() for key, p in parameters.items() if not key.startswith(HEADS)) == body


def wide(model: Any) -> Any:
    torch.manual_seed(0)
    for p in model.parameters():
        nn.init.normal_(p, std=0.3)
    return model.eval()


@pytest.mark.parametrize("model", [BERT(**TINY), SqueezeBERT(**TINY)], ids=["bert", "squeezebert"])
def test_padding_changes_nothing_and_both_sides_are_seen(model):
    wide(model)
    ids = torch.randint(1, 29, (2, 7))
    padded = F.pad(ids, (0, 5))
    torch.testing.assert_close(model.encode(padded)[:, :7], model.encode(ids), atol=1e-5, rtol=1e-5)
    for changed, asked in ((0, 6), (6, 0)):
        other = ids.clone()
        other[:, changed] = other[:, changed] % 28 + 1
        assert (model.encode(other) - model.encode(ids))[:, asked].abs().max() > 1e-3


def test_the_left_to_right_model_sees_nothing_of_the_right():
    model = wide(BERT(**TINY, causal=True))
    ids = torch.randint(1, 29, (2, 7))
    other = ids.clone()
    other[:, 4:] = other[:, 4:] % 28 + 1
    torch.testing.assert_close(model.encode(other)[:, :4], model.encode(ids)[:, :4])
    assert (model.encode(other) - model.encode(ids))[:, 4:].abs().min() > 0


@pytest.mark.parametrize("kind", [BERT, SqueezeBERT])
def test_places_give_the_same_logits_as_all_and_every_parameter_a_gradient(kind):
    model = wide(kind(**TINY))
    ids, segments = torch.randint(1, 29, (3, 9)), torch.randint(2, (3, 9))
    places = torch.tensor([0, 4, 17, 26])
    outputs, asked = model(ids, segments), model(ids, segments, places)
    tokens, asked = (x[0] if kind is BERT else x for x in (outputs, asked))
    torch.testing.assert_close(asked, tokens.flatten(0, 1)[places])
    pooled = outputs[1] if kind is BERT else model.pool(model.encode(ids))
    (asked.logsumexp(-1).mean() + pooled.square().sum()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    assert model.masked.output.weight is model.embed.tokens.weight


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_a_grouped_layer_is_a_matrix_that_is_zero_outside_its_blocks(groups):
    layer, x = Grouped(16, 24, groups), torch.randn(2, 5, 16)
    nn.init.normal_(layer.bias)
    matrix = torch.block_diag(*layer.weight)
    expected = x @ matrix + layer.bias.flatten()
    torch.testing.assert_close(join(layer(cut(x, groups)), 2), expected)
    assert torch.equal(join(cut(x, groups), 2), x)
    conv = F.conv1d(x.mT, layer.weight.mT.flatten(0, 1)[..., None], layer.bias.flatten(), groups=groups).mT
    torch.testing.assert_close(conv, expected)


def test_slices_of_the_channels_meet_only_after_attention():
    mlp, x = GroupedMLP(16, 32, 4), torch.randn(1, 3, 16)
    y = x.clone()
    y[..., :4] = torch.randn(1, 3, 4)
    assert torch.equal(mlp(x)[..., 4:], mlp(y)[..., 4:]) and not torch.allclose(mlp(x)[..., :4], mlp(y)[..., :4])
    attn = SqueezeBERT(**TINY).blocks[0].mixer.fn
    out = {}

    def keep(module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        out[len(out)] = arguments[0]

    attn.out.register_forward_pre_hook(keep)
    x = torch.randn(1, 3, 32)
    y = x.clone()
    y[..., :8] = torch.randn(1, 3, 8)
    a, b = attn(x), attn(y)
    assert torch.equal(out[0][..., 8:], out[1][..., 8:])
    assert (a - b).abs().min() > 0


def test_bad_input_is_refused_with_its_value():
    model, squeezed = BERT(**TINY), SqueezeBERT(**TINY)
    for m in (model, squeezed):
        with pytest.raises(ValueError, match="17 tokens do not fit the model's context=16"):
            m(torch.ones(1, 17, dtype=torch.long))
        with pytest.raises(ValueError, match=r"ids from 1 to 29 are not all in 0 \.\. 28"):
            m(torch.tensor([[1, 29]]))
        with pytest.raises(ValueError, match="ids from -1 to 1"):
            m(torch.tensor([[1, -1]]))
        with pytest.raises(ValueError, match=r"segments from 0 to 2 are not all in 0 \.\. 1"):
            m(torch.ones(1, 2, dtype=torch.long), torch.tensor([[0, 2]]))
        with pytest.raises(ValueError, match=r"segments \(1, 3\) are not one for each of the ids \(1, 2\)"):
            m(torch.ones(1, 2, dtype=torch.long), torch.zeros(1, 3, dtype=torch.long))
    with pytest.raises(ValueError, match="heads=5 does not divide dim=32"):
        BERT(**TINY | {"heads": 5})
    with pytest.raises(ValueError, match="heads=5 does not divide dim=32"):
        SqueezeBERT(**TINY | {"heads": 5})
    with pytest.raises(ValueError, match="groups=3 do not divide the widths 32 and 32"):
        SqueezeBERT(**TINY, groups=3)
    with pytest.raises(TypeError, match="bert_tiny takes no layers; it takes vocab"):
        tf.create_model("bert_tiny", layers=3)


@pytest.mark.parametrize("kind", [BERT, SqueezeBERT])
def test_compiles_into_one_graph(kind):
    model = wide(kind(**TINY))
    ids, places = F.pad(torch.randint(1, 29, (2, 9)), (0, 3)), torch.tensor([1, 5, 14])
    segments = torch.zeros_like(ids)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    for arguments in ((ids,), (ids, segments, places)):
        expected, found = model(*arguments), compiled(*arguments)
        for a, b in zip(expected, found, strict=True) if kind is BERT else [(expected, found)]:
            torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)
    grads = [torch.autograd.grad(m.encode(ids).square().sum(), model.embed.tokens.weight)[0] for m in (model, compiled)]
    torch.testing.assert_close(*grads, atol=1e-3, rtol=1e-4)


def test_training_starts_near_a_uniform_guess():
    torch.manual_seed(0)
    model = tf.create_model("bert_tiny", vocab=100)
    ids = torch.randint(1, 100, (8, 20))
    tokens, follows = model.eval()(ids)
    assert abs(F.cross_entropy(tokens.flatten(0, 1), ids.flatten()).item() - torch.tensor(100.0).log()) < 0.2
    assert follows.abs().max() < 0.2
