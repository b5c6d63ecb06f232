"""Masking's rates, PET's scores by hand, and what both refuse."""

import math

import pytest
import torch
from torch import Tensor

from tformerlib.data.tokens import byte_bpe, word_piece
from tformerlib.objectives.masking import mask_tokens, next_tokens
from tformerlib.objectives.pet import check_labels, distillation_loss, label_scores, pet_loss, verbalize

VOCAB, PAD, CLS, SEP, MASK = 50, 0, 2, 3, 4
SPECIAL = (PAD, 1, CLS, SEP, MASK)


def rows(count: int = 64, length: int = 40) -> Tensor:
    """[CLS] ... [SEP] and padding, in rows of different lengths."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(5, VOCAB, (count, length), generator=generator)
    ends = torch.linspace(3, length - 1, count).long()
    ids[torch.arange(length) > ends[:, None]] = PAD
    ids[torch.arange(count), ends], ids[:, 0] = SEP, CLS
    return ids


def masked(ids: Tensor, seed: int = 0, **options):
    generator = torch.Generator().manual_seed(seed)
    return mask_tokens(ids, vocab=VOCAB, mask=MASK, special=SPECIAL, generator=generator, **options)


def test_fifteen_percent_of_each_row_is_chosen_and_never_a_special_token():
    ids = rows()
    ordinary = ~torch.isin(ids, torch.tensor(SPECIAL))
    for seed in range(20):
        shown, places, targets = masked(ids, seed)
        chosen = torch.zeros(ids.numel(), dtype=torch.bool).index_fill(0, places, True).view_as(ids)
        assert (chosen <= ordinary).all()
        expected = (0.15 * ordinary.sum(1)).round().clamp(min=1)
        assert torch.equal(chosen.sum(1), expected.long())
        assert torch.equal(shown[~chosen], ids[~chosen]) and torch.equal(targets, ids.flatten()[places])
        assert not torch.isin(shown[chosen], torch.tensor([PAD, 1, CLS, SEP])).any()


def test_of_the_chosen_eighty_percent_are_hidden_ten_replaced_ten_left():
    ids = torch.randint(5, VOCAB, (400, 100), generator=torch.Generator().manual_seed(1))
    shown, places, targets = masked(ids)
    seen = shown.flatten()[places]
    assert len(places) == 400 * 15
    shares = [(seen == MASK).float().mean(), (seen == targets).float().mean()]
    assert abs(shares[0] - 0.8) < 0.02
    assert abs(shares[1] - (0.1 + 0.1 / 45)) < 0.015  # a random token of 45 is the right one now and then
    strangers = seen[(seen != MASK) & (seen != targets)]
    counts = torch.bincount(strangers, minlength=VOCAB)[5:]
    assert counts.min() > 0 and counts.float().std() < 3 * counts.float().mean().sqrt()  # no favorites
    everywhere = torch.bincount(places % 100, minlength=100).float()
    assert everywhere.min() > 30 and everywhere.max() < 95  # each place as often: 60, give or take


def test_masking_is_deterministic_and_moves_with_the_seed():
    ids = rows()
    a, b, c = masked(ids, 3), masked(ids, 3), masked(ids, 4)
    assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
    assert not torch.equal(a.places, c.places)
    torch.manual_seed(7)
    first = mask_tokens(ids, vocab=VOCAB, mask=MASK, special=SPECIAL)
    torch.manual_seed(7)
    assert torch.equal(first.ids, mask_tokens(ids, vocab=VOCAB, mask=MASK, special=SPECIAL).ids)
    assert torch.equal(ids, rows())  # what was given is not touched


def test_other_rates_and_shares():
    ids = rows()
    ordinary = ~torch.isin(ids, torch.tensor(SPECIAL))
    every = masked(ids, rate=1.0, shares=(1.0, 0.0))
    assert (every.ids[ordinary] == MASK).all() and len(every.places) == ordinary.sum()
    kept = masked(ids, rate=0.5, shares=(0.0, 0.0))
    assert torch.equal(kept.ids, ids)
    swapped = masked(ids, rate=1.0, shares=(0.0, 1.0))
    assert not (swapped.ids == MASK).any() and (swapped.ids == ids)[ordinary].float().mean() < 0.1


def test_masking_refuses_what_it_cannot_mean():
    ids = rows()
    for options, message in (
        ({"rate": 0.0}, r"rate=0.0 is not in \(0, 1\]"),
        ({"rate": 1.5}, "rate=1.5"),
        ({"shares": (0.8, 0.3)}, r"shares=\(0.8, 0.3\)"),
        ({"shares": (-0.1, 0.3)}, "shares="),
    ):
        with pytest.raises(ValueError, match=message):
            masked(ids, **options)
    with pytest.raises(ValueError, match=r"ids from 2 to 99 are not all in 0 \.\. 49"):
        masked(torch.tensor([[2, 99]]))
    with pytest.raises(ValueError, match=r"special ids from 60 to 60"):
        mask_tokens(ids, vocab=VOCAB, mask=60, special=())
    with pytest.raises(ValueError, match="none of the 3 ids may be masked"):
        masked(torch.tensor([[CLS, SEP, PAD]]))
    with pytest.raises(ValueError, match="all 2 ids are special"):
        mask_tokens(torch.zeros(1, 1, dtype=torch.long), vocab=2, mask=1, special=[0])


def test_the_left_to_right_question_is_every_next_token():
    ids = torch.tensor([[2, 7, 8, 3], [2, 9, 3, 0]])
    shown, places, targets = next_tokens(ids)
    assert torch.equal(shown, ids)
    assert places.tolist() == [0, 1, 2, 4, 5] and targets.tolist() == [7, 8, 3, 9, 3]


# --- PET ----------------------------------------------------------------------------------------------------------


def test_a_label_s_score_is_the_mean_raw_logit_of_its_tokens():
    logits = torch.tensor([[9.0, 1.0, 3.0, -2.0, 0.0], [0.0, 0.0, 1.0, 4.0, 5.0]])
    scores = label_scores(logits, [[1, 2], [3]])
    assert scores.tolist() == [[2.0, -2.0], [0.5, 4.0]]  # (1 + 3) / 2 against -2; token 0 with its 9 counts for nothing


def test_the_loss_by_hand():
    scores = torch.tensor([[math.log(3.0), 0.0], [0.0, math.log(4.0)]])
    labels = torch.tensor([0, 0])
    by_hand = (math.log(4 / 3) + math.log(5)) / 2  # probabilities 3/4 and 1/5
    assert math.isclose(pet_loss(scores, labels).item(), by_hand, rel_tol=1e-6)
    mixed = pet_loss(scores, labels, torch.tensor(7.0))
    assert math.isclose(mixed.item(), 0.9999 * by_hand + 0.0007, rel_tol=1e-6)
    assert math.isclose(pet_loss(scores, labels, torch.tensor(7.0), weight=0.5).item(), by_hand / 2 + 3.5, rel_tol=1e-6)


def test_the_gradient_reaches_the_verbalizer_s_tokens_alone():
    logits = torch.randn(4, 9, requires_grad=True)
    pet_loss(label_scores(logits, [[1, 2], [5], [7]]), torch.tensor([0, 1, 2, 1])).backward()
    assert logits.grad is not None
    assert (logits.grad.abs().sum(0) > 0).nonzero().flatten().tolist() == [1, 2, 5, 7]
    torch.testing.assert_close(logits.grad[:, 1], logits.grad[:, 2])


def test_distillation_by_hand():
    # at T = 2 the teacher's odds of 9 soften to 3: (3/4, 1/4); a student without an opinion says (1/2, 1/2)
    teachers, student = torch.tensor([[math.log(9.0), 0.0]]), torch.zeros(1, 2, requires_grad=True)
    by_hand = 4 * (0.75 * math.log(1.5) + 0.25 * math.log(0.5))
    loss = distillation_loss(student, teachers)
    assert math.isclose(loss.item(), by_hand, rel_tol=1e-5)
    loss.backward()
    assert student.grad is not None
    torch.testing.assert_close(student.grad, torch.tensor([[-0.5, 0.5]]))  # T (q - p): 2 * (1/2 - 3/4)
    assert distillation_loss(teachers, teachers).abs() < 1e-6
    one = distillation_loss(student, teachers, temperature=1.0)
    p = teachers.softmax(-1)
    assert math.isclose(one.item(), (p * (p.log() - math.log(0.5))).sum().item(), rel_tol=1e-5)


def test_pet_refuses_what_it_cannot_mean():
    logits, labels = torch.randn(2, 9), torch.tensor([0, 1])
    for verbalizer, message in (
        ([[1]], "1 labels: a choice has two or more"),
        ([[1], []], "label 1 has no token"),
        ([[1], [9]], r"token 9 of label 1 is not in 0 \.\. 8"),
        ([[1], [-1]], "token -1 of label 1"),
        ([[1], [2, 1]], "token 1 stands for the labels 0 and 1"),
    ):
        with pytest.raises(ValueError, match=message):
            label_scores(logits, verbalizer)
    scores = label_scores(logits, [[1], [2]])
    with pytest.raises(ValueError, match=r"labels from 0 to 2 are not in 0 \.\. 1"):
        pet_loss(scores, torch.tensor([0, 2]))
    with pytest.raises(ValueError, match="labels from -1 to 1"):
        check_labels(torch.tensor([-1, 1]), 2)
    with pytest.raises(ValueError, match=r"no example of the classes \[1, 3\]"):
        check_labels(torch.tensor([0, 2, 2]), 4, every=True)
    check_labels(labels, 2, every=True)
    with pytest.raises(ValueError, match="temperature=0"):
        distillation_loss(scores, scores, temperature=0)


def test_a_verbalizer_is_words_of_one_token_each():
    texts = ["good good good bad bad bad terrible"]
    tokenizer = word_piece(texts, 60)
    ids = verbalize([["good"], ["bad", "terrible"]], tokenizer)
    good, bad, terrible = (tokenizer.token_to_id(word) for word in ("good", "bad", "terrible"))
    assert ids == [[good], [bad, terrible]] and None not in (good, bad, terrible)
    with pytest.raises(ValueError, match=r"'goodbad' of label 1 is \d tokens \['good', '##.*a gap holds one"):
        verbalize([["good"], ["bad", "goodbad"]], tokenizer)
    with pytest.raises(ValueError, match="'' of label 0 is 0 tokens"):
        verbalize([[""], ["bad"]], tokenizer)
    with pytest.raises(ValueError, match="'漢' of label 1 is not in the tokenizer's vocabulary"):
        verbalize([["good"], ["漢"]], tokenizer)
    with pytest.raises(ValueError, match="'漢' of label 0 is 3 tokens"):
        verbalize([["漢"], ["a"]], byte_bpe(texts, 300))  # bytes know everything, in pieces
