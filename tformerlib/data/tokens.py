"""Subwords: tokenizers trained on a corpus, and streams of their ids cut into examples."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..extras import needs

if TYPE_CHECKING:
    from tokenizers import Tokenizer

END = "<|endoftext|>"
UNKNOWN = "[UNK]"
BERT_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def byte_bpe(texts: Iterable[str], vocab: int, *, special: Sequence[str] = (END,)) -> "Tokenizer":
    """GPT-2's tokenizer (Radford et al. 2019, sec. 2.2), trained: byte-pair encoding whose alphabet is the 256 bytes.

    Any text comes back from its ids as it was. The special tokens have the first ids: END is 0. The same texts give
    the same ids on every machine.

    Args:
        vocab: number of ids: the special tokens, 256 bytes, and a merge for each of the others.

    Raises:
        ValueError: a vocabulary that is too small for the bytes, or special tokens that repeat.
    """
    with needs("data"):
        from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    if vocab < 256 + len(special):
        raise ValueError(f"vocab={vocab} has no room for 256 bytes and {len(special)} special tokens")
    if len(set(special)) != len(special):
        raise ValueError(f"special tokens repeat: {', '.join(special)}")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab, special_tokens=list(special), initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.encode_special_tokens = True  # written in a text, END is thirteen characters like others and comes back
    return tokenizer


def word_piece(
    texts: Iterable[str], vocab: int, *, lowercase: bool = False, special: Sequence[str] = BERT_SPECIAL
) -> "Tokenizer":
    """BERT's tokenizer (Devlin et al. 2019, sec. 3), trained: words and signs, cut into the longest known pieces.

    Pieces that go on inside a word are written ##piece. The special tokens have the first ids: [PAD] is 0, [UNK] 1,
    [CLS] 2, [SEP] 3, [MASK] 4. White space is lost. The same texts give the same ids on every machine.

    Raises:
        ValueError: a vocabulary that is too small for the texts' characters, special tokens without [UNK].
    """
    with needs("data"):
        from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    if UNKNOWN not in special:
        raise ValueError(f"special={tuple(special)} lacks {UNKNOWN}, which stands for words that can't be written")
    normalizer = normalizers.BertNormalizer(lowercase=lowercase, handle_chinese_chars=True)  # each is a word
    splitter = pre_tokenizers.BertPreTokenizer()
    texts = list(texts)
    words = {w for text in texts for w, _ in splitter.pre_tokenize_str(normalizer.normalize_str(text))}
    inner = sorted({character for word in words for character in word[1:]})

    def tokenizer(model: "models.WordPiece") -> "Tokenizer":
        made = Tokenizer(model)
        made.normalizer, made.pre_tokenizer, made.decoder = normalizer, splitter, decoders.WordPiece()
        return made

    # The trainer numbers ##characters in the order of a hash table, and ties between merges follow the numbers. Given
    # as special tokens they keep the order that they are given in; a second tokenizer, not trained, forgets they were.
    first = [*special, *(f"##{c}" for c in inner)]
    trained = tokenizer(models.WordPiece(unk_token=UNKNOWN))
    trainer = trainers.WordPieceTrainer(vocab_size=vocab, special_tokens=first, show_progress=False)
    trained.train_from_iterator(texts, trainer)
    if (size := trained.get_vocab_size()) > vocab:
        raise ValueError(f"vocab={vocab} has no room for {size} special tokens and characters")
    final = tokenizer(models.WordPiece(trained.get_vocab(), unk_token=UNKNOWN))
    final.add_special_tokens(list(special))
    return final


def token_stream(texts: Iterable[str], tokenizer: "Tokenizer", end: str | None = END) -> Tensor:
    """The ids of all texts one after another, (T,), each text followed by the id of `end`.

    Raises:
        ValueError: an `end` that the tokenizer does not know, or texts without a token.
    """
    last = tokenizer.token_to_id(end) if end is not None else None
    if end is not None and last is None:
        raise ValueError(f"the tokenizer has no token {end!r}")
    tail = [] if last is None else [last]
    parts = [torch.tensor(encoding.ids + tail) for encoding in tokenizer.encode_batch_fast(list(texts))]
    if not any(map(len, parts)):
        raise ValueError("the texts hold no token")
    return torch.cat(parts).long()


def windows(stream: Tensor, length: int, stride: int | None = None) -> Tensor:
    """Examples (P, length) cut from a stream (T,): one after another, or one every `stride` ids. A view, no copy.

    `windows(stream, 65, stride=1)` is every window there is, for training: inputs [:, :-1], targets [:, 1:].

    Raises:
        ValueError: a stream that is shorter than one window, or a stride below 1.
    """
    stride = length if stride is None else stride
    if length < 1 or stride < 1:
        raise ValueError(f"length={length} and stride={stride} must be at least 1")
    if stream.ndim != 1 or len(stream) < length:
        raise ValueError(f"a stream {tuple(stream.shape)} holds no window of {length} ids")
    return stream.unfold(0, length, stride)
