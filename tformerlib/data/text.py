"""Text as numbers: vocabularies, padding, pairs of sentences as tensors."""

from collections.abc import Iterable, Sequence
from typing import Literal

import torch
from torch import Tensor

PAD, BOS, EOS, UNK = 0, 1, 2, 3
SPECIAL = ("<pad>", "<bos>", "<eos>", "<unk>")


class Vocabulary:
    """A list of tokens and their ids; ids 0 to 3 are padding, begin, end and unknown.

    Args:
        tokens: the tokens in the order of their ids, without the special four.
        level: what a token is: one character ("char"), or what stands between spaces ("word").
    """

    def __init__(self, tokens: Sequence[str], level: Literal["char", "word"] = "char") -> None:
        if level not in ("char", "word"):
            raise ValueError(f"level={level!r} is not one of char, word")
        self.level = level
        self.tokens = [*SPECIAL, *tokens]
        self.ids = {token: number for number, token in enumerate(self.tokens)}
        if len(self.ids) != len(self.tokens):
            raise ValueError("a token occurs twice in the vocabulary")

    @classmethod
    def from_texts(cls, texts: Iterable[str], level: Literal["char", "word"] = "char") -> "Vocabulary":
        """All characters or words of the texts, sorted."""
        return cls(sorted({token for text in texts for token in (text if level == "char" else text.split())}), level)

    def __len__(self) -> int:
        return len(self.tokens)

    def encode(self, text: str) -> list[int]:
        """The ids of a text's tokens, without BOS and EOS; UNK for a token that is not in the vocabulary."""
        return [self.ids.get(token, UNK) for token in (text if self.level == "char" else text.split())]

    def decode(self, ids: Iterable[int] | Tensor) -> str:
        """The text of ids up to the first EOS; PAD and BOS are left out, UNK is written as <unk>.

        Raises ValueError for an id that is not in the vocabulary, such as -100 of ignored targets.
        """
        tokens: list[str] = []
        for number in ids.tolist() if isinstance(ids, Tensor) else ids:
            if number == EOS:
                break
            if not 0 <= number < len(self.tokens):
                raise ValueError(f"id {number} is not in the vocabulary, 0 .. {len(self.tokens) - 1}")
            if number not in (PAD, BOS):
                tokens.append(self.tokens[number])
        return ("" if self.level == "char" else " ").join(tokens)


def pad(sequences: Sequence[Sequence[int]], *, length: int | None = None) -> Tensor:
    """Sequences of ids as one tensor (B, N), filled up with PAD to the longest or to `length`.

    Raises ValueError for a sequence longer than `length`.
    """
    longest = max(map(len, sequences), default=0)
    if length is not None and longest > length:
        raise ValueError(f"a sequence of {longest} ids does not fit into length={length}")
    padded = torch.full((len(sequences), longest if length is None else length), PAD)
    for row, sequence in zip(padded, sequences, strict=True):
        row[: len(sequence)] = torch.tensor(sequence)
    return padded


def encode_pairs(pairs: Sequence[tuple[str, str]], source: Vocabulary, target: Vocabulary) -> tuple[Tensor, Tensor]:
    """Pairs of texts as ids: sources (P, N) that end with EOS, targets (P, M) from BOS to EOS, padded.

    A decoder reads `target[:, :-1]` and is asked for `target[:, 1:]`.
    """
    sources = pad([[*source.encode(text), EOS] for text, _ in pairs])
    return sources, pad([[BOS, *target.encode(text), EOS] for _, text in pairs])


def trim(batch: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Cuts the columns that hold nothing but padding off each tensor (B, N): short batches cost less.

    Of a tensor that is all padding nothing is left.
    """
    used = [(tensor != PAD).any(0).nonzero().flatten().tolist() for tensor in batch]
    return tuple(tensor[:, : columns[-1] + 1 if columns else 0] for tensor, columns in zip(batch, used, strict=True))
