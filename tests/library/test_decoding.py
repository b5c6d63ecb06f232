"""Searches against brute force, and decoding a token at a time against reading the whole sentence."""

import math
from collections.abc import Sequence
from functools import partial
from itertools import product

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from tformerlib.decoding.search import beam_search, greedy
from tformerlib.layers.blocks import PreNorm, ResPostNorm
from tformerlib.layers.positions import Rotary, learned
from tformerlib.models.rnn import Additive, Dot, General, InputFeeding, Luong, RNNEncoderDecoder
from tformerlib.models.transformer import Transformer

PAD, BOS, EOS = 0, 1, 2
RNN = partial(RNNEncoderDecoder, source_vocab=11, target_vocab=5, embed=6, hidden=8)
TRANSFORMER = partial(Transformer, source_vocab=11, target_vocab=5, dim=16, depth=2, heads=2, hidden=24, context=16)
MODELS = {
    "bahdanau": RNN,
    "bahdanau, general": partial(RNN, attention=General),
    "fixed vector": partial(RNN, attention=None, bidirectional=False),
    "luong": partial(RNN, decoder=Luong, attention=Dot, bidirectional=False),
    "luong, input feeding": partial(RNN, decoder=InputFeeding, attention=Additive, bidirectional=False),
    "transformer": TRANSFORMER,
    "transformer, rotary": partial(TRANSFORMER, positions=None, on_heads=Rotary(8), residual=PreNorm),
    "transformer, learned": partial(TRANSFORMER, positions=learned, residual=ResPostNorm),
}


def wide(make: partial[nn.Module], std: float = 0.7) -> nn.Module:
    torch.manual_seed(0)
    model = make(dropout=0.5)  # which searches must switch off
    for p in model.parameters():
        nn.init.normal_(p, std=std)
    return model


def sources(rows: int = 4) -> Tensor:
    torch.manual_seed(1)
    source = torch.randint(3, 11, (rows, 6))
    source[1, 4:], source[2, 1:] = PAD, PAD
    return source


def log_probabilities(model: nn.Module, source: Tensor, sentences: Sequence[Sequence[int]]) -> list[float]:
    """log P(sentence | source) from one pass over whole sentences; padding has no probability."""
    target = pad_sequence([torch.tensor([BOS, *sentence]) for sentence in sentences], batch_first=True)
    with torch.no_grad():
        logits = model(source.expand(len(target), -1), target[:, :-1])
    logits[..., PAD] = float("-inf")
    chosen = logits.log_softmax(-1).gather(-1, target[:, 1:, None])[..., 0]
    return chosen.masked_fill(target[:, 1:] == PAD, 0.0).sum(1).tolist()


@pytest.mark.parametrize("name", MODELS)
def test_a_token_at_a_time_equals_the_whole_sentence(name):
    model, source = wide(MODELS[name]).eval(), sources()
    target = torch.randint(3, 5, (4, 7))
    with torch.no_grad():
        expected, state = model(source, target), model.start(source, 7)
        for i, ids in enumerate(target.unbind(1)):
            torch.testing.assert_close(state.step(ids), expected[:, i], atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("name", MODELS)
def test_reordered_rows_go_on_as_the_rows_they_were(name):
    model, source, rows = wide(MODELS[name]).eval(), sources(), torch.tensor([2, 2, 0, 3, 1])
    target = torch.randint(3, 5, (5, 7))
    begun = torch.empty(4, 3, dtype=torch.long)
    begun[rows] = target[:, :3].clone()
    target[:, :3] = begun[rows]
    with torch.no_grad():
        state = model.start(source, 7)
        for ids in begun.unbind(1):
            state.step(ids)
        state.reorder(rows)
        expected = model(source[rows], target)
        for i in range(3, 7):
            torch.testing.assert_close(state.step(target[:, i]), expected[:, i], atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("name", MODELS)
def test_greedy_takes_the_likeliest_token_until_the_end(name):
    model, source = wide(MODELS[name]), sources()
    out = greedy(model, source, limit=8)
    assert model.training, "the search must leave the model in the mode it was in"
    model.eval()
    for row, ids in zip(source, out.tolist(), strict=True):
        target = [BOS]
        while len(target) <= 8 and target[-1] != EOS:
            with torch.no_grad():
                logits = model(row[None], torch.tensor([target]))[0, -1]
            logits[PAD] = float("-inf")
            target.append(int(logits.argmax()))
        assert ids == target[1:] + [PAD] * (len(ids) - len(target) + 1)


@pytest.mark.parametrize("alpha", [0.0, 0.6, 2.0])
@pytest.mark.parametrize("name", ["bahdanau", "luong, input feeding", "transformer"])
def test_a_beam_that_is_wide_enough_finds_the_best_of_all(name, alpha):
    limit, words = 4, (BOS, EOS, 3, 4)
    model, source = wide(MODELS[name]).eval(), sources(3)
    every = [s for n in range(1, limit + 1) for s in product(words, repeat=n)]
    every = [s for s in every if EOS not in s[:-1] and (s[-1] == EOS or len(s) == limit)]
    out, scores = beam_search(model, source, beams=len(every), alpha=alpha, limit=limit)
    for row, ids, score in zip(source, out.tolist(), scores.tolist(), strict=True):
        pairs = zip(every, log_probabilities(model, row, every), strict=True)
        table = {s: log_p / ((5 + len(s)) / 6) ** alpha for s, log_p in pairs}
        best = max(every, key=lambda s: table[s])
        assert tuple(ids[: len(best)]) == best and set(ids[len(best) :]) <= {PAD}
        assert score == pytest.approx(table[best], abs=1e-4)


def slow_beam(model: nn.Module, source: Tensor, beams: int, alpha: float, limit: int) -> tuple[list[int], float]:
    """The documented rule with lists: an ended translation leaves its place; it stops where nothing can get better."""
    going: list[tuple[tuple[int, ...], float]] = [((), 0.0)]
    ended: list[tuple[tuple[int, ...], float]] = []
    for length in range(1, limit + 1):
        longer = [(*s, word) for s, _ in going for word in (BOS, EOS, 3, 4)]
        scored = sorted(zip(longer, log_probabilities(model, source, longer), strict=True), key=lambda each: -each[1])
        likely, penalty = scored[: 2 * beams], ((5 + length) / 6) ** alpha
        ended += [(s, p / penalty) for s, p in likely if s[-1] == EOS or length == limit]
        ended = sorted(ended, key=lambda each: -each[1])[:beams]
        going = [(s, p) for s, p in likely if s[-1] != EOS and length < limit][:beams]
        best_possible = going[0][1] / max(penalty, ((5 + limit) / 6) ** alpha) if going else -math.inf
        if len(ended) == beams and best_possible <= ended[-1][1]:
            break
    best, score = ended[0]
    return list(best), score


class Babble(nn.Module):
    """Fixed random logits for every source and beginning: every end is about as likely as every other."""

    source_vocab, target_vocab, pad = 11, 5, PAD

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        logits = torch.empty(*target.shape, self.target_vocab)
        for b, m in product(*map(range, target.shape)):
            seed = hash((*source[b].tolist(), -1, *target[b, : m + 1].tolist())) % 2**31
            logits[b, m] = torch.randn(self.target_vocab, generator=torch.Generator().manual_seed(seed))
        return logits

    def start(self, source: Tensor, capacity: int) -> "Babbling":
        return Babbling(self, source)


class Babbling:
    def __init__(self, model: Babble, source: Tensor) -> None:
        self.model, self.source, self.target = model, source, source[:, :0]

    def step(self, ids: Tensor) -> Tensor:
        self.target = torch.cat([self.target, ids[:, None]], 1)
        return self.model(self.source, self.target)[:, -1]

    def reorder(self, rows: Tensor) -> None:
        self.source, self.target = self.source[rows], self.target[rows]


@pytest.mark.parametrize("beams,alpha", [(2, 0.0), (3, 0.6), (8, 5.0)])  # the last begins with more beams than words
def test_narrow_beams_follow_the_rule(beams, alpha):
    model, source, limit = Babble(), sources(60), 4
    out, scores = beam_search(model, source, beams=beams, alpha=alpha, limit=limit)
    lengths = set()
    for row, ids, score in zip(source, out.tolist(), scores.tolist(), strict=True):
        expected, expected_score = slow_beam(model, row, beams, alpha, limit)
        assert [i for i in ids if i != PAD] == expected
        assert score == pytest.approx(expected_score, abs=1e-4)
        lengths.add(len(expected))
    assert len(lengths) > 2


@pytest.mark.parametrize("name", MODELS)
def test_one_beam_is_never_worse_than_greedy(name):
    model, source = wide(MODELS[name]).eval(), sources(30)
    _, scores = beam_search(model, source, beams=1, alpha=0.0, limit=9)
    for row, ids, score in zip(source, greedy(model, source, limit=9).tolist(), scores.tolist(), strict=True):
        written = [i for i in ids if i != PAD]
        assert score >= log_probabilities(model, row, [written])[0] - 1e-4


def test_an_ended_translation_leaves_its_place():
    """By hand: with two beams, the best ends late, behind a beginning that a kept ended translation would push out."""
    step = {(): {EOS: 0.4, 3: 0.35, 4: 0.25}, (3,): {EOS: 0.5, 3: 0.3, 4: 0.2}, (4,): {EOS: 0.99, 3: 0.005, 4: 0.005}}

    class Tree(Babble):
        def forward(self, source, target):
            logits = torch.full((*target.shape, 5), -30.0)
            for b, m in product(*map(range, target.shape)):
                given = tuple(target[b, 1 : m + 1].tolist())
                for word, p in step.get(given, {EOS: 1.0}).items():
                    logits[b, m, word] = math.log(p)
            return logits

    out, score = beam_search(Tree(), torch.tensor([[3, EOS]]), beams=2, alpha=3.0, limit=4)
    assert out[0].tolist()[:2] == [4, EOS]  # -1.396 / (7/6)^3 = -0.879, where log .4 = -0.916 and 3 gets -0.95
    assert score.item() == pytest.approx(math.log(0.25 * 0.99) / (7 / 6) ** 3, abs=1e-3)


@pytest.mark.parametrize(("pad", "message"), [(2, "pad=2 is bos=1 or eos=2"), (-1, "pad=-1 is not in the target")])
def test_a_padding_that_could_be_chosen_is_refused(pad, message):
    model = Babble()
    model.pad = pad
    for search in (greedy, beam_search):
        with pytest.raises(ValueError, match=message):
            search(model, torch.tensor([[3, 4]]), limit=5)


def test_logits_that_are_nan_are_refused():
    model = wide(TRANSFORMER)
    torch.nn.init.constant_(next(model.parameters()), float("nan"))
    for search in (greedy, beam_search):
        with pytest.raises(ValueError, match="logits are NaN"):
            search(model, sources(3), limit=5)


def test_scores_are_those_of_the_translations_and_more_beams_find_better_ones():
    model, source = wide(TRANSFORMER, 0.4).eval(), sources(30)
    found = []
    for beams in (1, 2, 4, 64):
        out, scores = beam_search(model, source, beams=beams, alpha=0.0, limit=6)
        for row, ids, score in zip(source, out.tolist(), scores.tolist(), strict=True):
            assert log_probabilities(model, row, [[i for i in ids if i != PAD]]) == [pytest.approx(score, abs=1e-4)]
        found.append(scores.mean().item())
    assert found == sorted(found) and found[-1] > found[0] + 0.05


def test_a_larger_alpha_favors_longer_translations():
    model, source = wide(MODELS["luong, input feeding"]), sources(30)
    lengths = [
        (beam_search(model, source, beams=8, alpha=alpha, limit=8)[0] != PAD).sum().item() for alpha in (0.0, 1.0, 5.0)
    ]
    assert lengths[0] < lengths[1] < lengths[2]


@pytest.mark.parametrize("name", ["bahdanau", "luong, input feeding", "transformer"])
def test_a_row_does_not_depend_on_its_neighbors(name):
    model, source = wide(MODELS[name]), sources()
    together, scores = beam_search(model, source, beams=3, limit=7)
    for row, ids, score in zip(source, together, scores, strict=True):
        alone, own = beam_search(model, row[row != PAD][None], beams=3, limit=7)
        assert [i for i in alone[0].tolist() if i] == [i for i in ids.tolist() if i]
        torch.testing.assert_close(own[0], score, atol=1e-4, rtol=0)


@pytest.mark.parametrize("search", [greedy, beam_search])
def test_what_cannot_be_decoded_is_refused(search):
    model = TRANSFORMER()
    good = torch.full((2, 3), 5)
    refused = {
        r"source rows \[1\] are empty": {"source": torch.tensor([[5, 5], [0, 0]])},
        r"source \(2, 0\) holds nothing": {"source": good[:, :0]},
        r"source ids 5 .. 11 reach out of the vocabulary, 0 .. 10": {"source": torch.tensor([[5, 11]])},
        r"source ids -1 .. 5": {"source": torch.tensor([[5, -1]])},
        r"source is torch.float32 \(2, 3\)": {"source": good.float()},
        r"bos=7 is not in the target vocabulary, 0 .. 4": {"bos": 7},
        r"limit=0": {"limit": 0},
        r"17 target tokens .*context=16": {"limit": 17},
    }
    for message, wrong in refused.items():
        with pytest.raises(ValueError, match=message):
            search(model, **({"source": good, "limit": 4} | wrong))
    with pytest.raises(ValueError, match="beams=0"):
        beam_search(model, good, beams=0, limit=4)
