"""PET over transformers' BERT, with the equations of its code one logit at a time: scores, losses, gradients."""

import copy
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import BertConfig, BertForMaskedLM

import tformerlib as tf
from tformerlib.models.bert import BERT
from tformerlib.objectives.pet import distillation_loss, label_scores, pet_loss

VOCAB, MASK = 31, 4
SIZE: dict[str, Any] = {"vocab": VOCAB, "dim": 32, "depth": 2, "heads": 4, "hidden": 64, "context": 12}
VERBALIZER = [[7, 21], [5], [30, 9, 11]]  # labels with as many tokens as they like
LABELS = torch.tensor([2, 0, 1, 2])


def peer() -> Any:
    """Their masked model, with weights far from where training starts."""
    config = BertConfig(
        vocab_size=VOCAB, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64,
        max_position_embeddings=12, hidden_act="gelu_new", hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    model = BertForMaskedLM(config)
    torch.manual_seed(0)
    for name, p in model.named_parameters():
        norm = "norm" in name.lower() and name.endswith("weight")
        nn.init.normal_(p, mean=float(norm), std=0.3 if norm or p.ndim == 1 else 0.5 * p.shape[1] ** -0.5 + 0.1)
    return model.eval()


def batch() -> tuple[Tensor, Tensor]:
    """Rows with one gap each, at different places, one of them padded; and where the gaps are among all tokens."""
    ids = torch.randint(5, VOCAB, (4, 12), generator=torch.Generator().manual_seed(1))
    ids[2, 9:] = 0
    ids[torch.arange(4), torch.tensor([1, 5, 8, 11])] = MASK
    return ids, (ids == MASK).flatten().nonzero()[:, 0]


def by_the_book(logits: Tensor, verbalizer: list[list[int]]) -> Tensor:
    """The equations: for each gap and label, the sum of its tokens' logits over how many they are."""
    rows = []
    for gap in logits:
        rows.append(
            torch.stack([sum((gap[t] for t in tokens), gap.new_zeros(())) / len(tokens) for tokens in verbalizer])
        )
    return torch.stack(rows)


def losses_by_the_book(scores: Tensor, masked: Tensor) -> Tensor:
    total = scores.new_zeros(())
    for row, label in zip(scores, LABELS.tolist(), strict=True):
        total = total - (row[label] - row.exp().sum().log())
    return (1 - 1e-4) * total / len(LABELS) + 1e-4 * masked


def test_pet_equals_its_equations_over_transformers_bert():
    theirs = peer()
    state = theirs.state_dict()
    ours = tf.load_published(BERT(**SIZE, dropout=0.0).eval(), filled_up(state))
    ids, gaps = batch()
    targets = torch.tensor([6, 12, 20, 8])

    logits = theirs(input_ids=ids, attention_mask=(ids != 0).long()).logits.flatten(0, 1)[gaps]
    expected = by_the_book(logits, VERBALIZER)
    loss = losses_by_the_book(expected, F.cross_entropy(logits, targets))
    loss.backward()

    asked = ours(ids, None, gaps)[0]
    scores = label_scores(asked, VERBALIZER)
    our_loss = pet_loss(scores, LABELS, F.cross_entropy(asked, targets))
    our_loss.backward()

    assert expected.std() > 0.5
    torch.testing.assert_close(scores, expected, atol=2e-5, rtol=2e-5)
    torch.testing.assert_close(our_loss, loss, atol=2e-5, rtol=2e-5)
    twin = copy.deepcopy(ours)
    gradients = {key: torch.zeros_like(p) if p.grad is None else p.grad for key, p in theirs.named_parameters()}
    tf.load_published(twin, filled_up(gradients))
    moved = 0
    for (name, p), g in zip(ours.named_parameters(), twin.parameters(), strict=True):
        if name.startswith(("pooler", "follows")):
            assert p.grad is None  # a cloze question has no use for them
            continue
        assert p.grad is not None
        torch.testing.assert_close(p.grad, g.detach(), atol=2e-5, rtol=2e-5)
        moved += p.grad.abs().max() > 1e-4
    assert moved > 20


def filled_up(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Their masked model has no pooler and no second head; ours gets zeros there."""
    return state | {
        "bert.pooler.dense.weight": torch.zeros(32, 32), "bert.pooler.dense.bias": torch.zeros(32),
        "cls.seq_relationship.weight": torch.zeros(2, 32), "cls.seq_relationship.bias": torch.zeros(2),
    }  # fmt: skip


@pytest.mark.parametrize("temperature", [1.0, 2.0, 5.0])
def test_distillation_equals_its_equation(temperature):
    student, teachers = torch.randn(2, 6, 3, generator=torch.Generator().manual_seed(2)) * 3
    total = 0.0
    for s, t in zip(student.double().tolist(), teachers.double().tolist(), strict=True):
        p, q = ([math.exp(x / temperature) for x in row] for row in (t, s))
        p, q = [x / sum(p) for x in p], [x / sum(q) for x in q]
        total += sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
    expected = temperature**2 * total / 6
    assert math.isclose(distillation_loss(student, teachers, temperature=temperature).item(), expected, rel_tol=2e-5)


def test_the_comparison_catches_pet_that_is_nearly_right():
    ids, gaps = batch()
    theirs = peer()
    with torch.no_grad():
        logits = theirs(input_ids=ids, attention_mask=(ids != 0).long()).logits.flatten(0, 1)[gaps]
    expected = by_the_book(logits, VERBALIZER)
    wrong = {
        "a softmax over the vocabulary first": label_scores(logits.softmax(-1), VERBALIZER),
        "its logarithm": label_scores(logits.log_softmax(-1), VERBALIZER),
        "the sum": torch.stack([logits[:, t].sum(-1) for t in VERBALIZER], -1),
        "the largest": torch.stack([logits[:, t].amax(-1) for t in VERBALIZER], -1),
    }
    for name, scores in wrong.items():
        assert (scores - expected).abs().max() > 1e-2, name
    # the logarithm shifts all scores of a gap alike, which no loss over the labels can see
    shifted = pet_loss(wrong["its logarithm"], LABELS)
    torch.testing.assert_close(shifted, pet_loss(expected, LABELS), atol=2e-5, rtol=2e-5)
    assert (pet_loss(wrong["the sum"], LABELS) - pet_loss(expected, LABELS)).abs() > 1e-2
