"""Pattern-exploiting training: a task as a gap to fill, scored by a masked model (Schick & Schütze 2021).

Shape letters: B batch, V vocabulary.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:
    from tokenizers import Tokenizer

Verbalizer = Sequence[Sequence[int]]  # for each label, the ids of the tokens that say it


def verbalize(words: Sequence[Sequence[str]], tokenizer: "Tokenizer") -> list[list[int]]:
    """For each label, the ids of the words that say it. One gap holds one token, so each word has to be one.

    Raises:
        ValueError: a word that the tokenizer cuts into several tokens, or does not know.
    """
    unknown = getattr(tokenizer.model, "unk_token", None)
    ids: list[list[int]] = [[] for _ in words]
    for label, choices in enumerate(words):
        for word in choices:
            found = tokenizer.encode(word, add_special_tokens=False)
            if len(found.ids) != 1:
                raise ValueError(
                    f"{word!r} of label {label} is {len(found.ids)} tokens {found.tokens}: a gap holds one"
                )
            if found.tokens[0] == unknown:
                raise ValueError(f"{word!r} of label {label} is not in the tokenizer's vocabulary")
            ids[label].append(found.ids[0])
    return ids


def label_scores(logits: Tensor, verbalizer: Verbalizer) -> Tensor:
    """Logits at the gap (B, V) to scores (B, labels): of each label, the mean raw logit of its tokens (official code).

    No softmax over the vocabulary comes before it: what the model would rather say than any of the tokens is ignored.

    Raises:
        ValueError: fewer than two labels, a label without a token, an id outside the vocabulary, or one token that
            stands for two labels.
    """
    vocab = logits.shape[-1]
    if len(verbalizer) < 2:
        raise ValueError(f"{len(verbalizer)} labels: a choice has two or more")
    seen: dict[int, int] = {}
    for label, tokens in enumerate(verbalizer):
        if not tokens:
            raise ValueError(f"label {label} has no token that says it")
        for token in tokens:
            if not 0 <= token < vocab:
                raise ValueError(f"token {token} of label {label} is not in 0 .. {vocab - 1}")
            if seen.setdefault(token, label) != label:
                raise ValueError(f"token {token} stands for the labels {seen[token]} and {label}")
    return torch.stack([logits[:, list(tokens)].mean(-1) for tokens in verbalizer], -1)


def pet_loss(scores: Tensor, labels: Tensor, masked_loss: Tensor | None = None, *, weight: float = 1e-4) -> Tensor:
    """Cross-entropy over the labels (B,) only; with a masked language model's loss on unlabeled text beside it.

    The two are mixed as (1 - weight) and weight, which is small because the masked loss is by far the larger one
    (Schick & Schütze 2021, "Exploiting Cloze Questions", sec. 3.2).
    """
    check_labels(labels, scores.shape[-1])
    loss = F.cross_entropy(scores, labels)
    return loss if masked_loss is None else (1 - weight) * loss + weight * masked_loss


def distillation_loss(student: Tensor, teachers: Tensor, *, temperature: float = 2.0) -> Tensor:
    """KL divergence from the ensemble's softened labels to the student's, times the temperature squared.

    Args:
        student: (B, labels) logits of the final classifier.  teachers: the mean of the ensemble's scores, likewise.
    """
    if temperature <= 0:
        raise ValueError(f"temperature={temperature} is not positive")
    target = (teachers / temperature).softmax(-1)
    divergence = F.kl_div((student / temperature).log_softmax(-1), target, reduction="batchmean")
    return divergence * temperature**2


def check_labels(labels: Tensor, classes: int, *, every: bool = False) -> None:
    """Raises ValueError for labels outside 0 .. classes - 1 and, if `every` is asked for, for classes without one."""
    counts = torch.bincount(labels.clamp(min=0).flatten(), minlength=classes)
    if labels.numel() and (labels.min() < 0 or len(counts) > classes):
        raise ValueError(f"labels from {labels.min().item()} to {labels.max().item()} are not in 0 .. {classes - 1}")
    if every and (counts == 0).any():
        raise ValueError(f"no example of the classes {(counts == 0).nonzero().flatten().tolist()}")
