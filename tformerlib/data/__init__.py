"""Data: real sets checked by hash, translation pairs made by rule, Python's own source, text as numbers, episodes."""

from .code import Source, split_for, split_packages, standard_library
from .episodes import Episodes, KeyToDoor, Policy, ShortestPath, play, returns_to_go
from .hub import DataError, OfflineError, available, load
from .pairs import LANGUAGES, LOCALES, locale_dates, number_words, split
from .text import BOS, EOS, PAD, UNK, Vocabulary, encode_pairs, pad, trim
from .tokens import BERT_SPECIAL, END, byte_bpe, token_stream, windows, word_piece

__all__ = [
    "BERT_SPECIAL",
    "BOS",
    "END",
    "EOS",
    "LANGUAGES",
    "LOCALES",
    "PAD",
    "UNK",
    "DataError",
    "Episodes",
    "KeyToDoor",
    "OfflineError",
    "Policy",
    "ShortestPath",
    "Source",
    "Vocabulary",
    "available",
    "byte_bpe",
    "encode_pairs",
    "load",
    "locale_dates",
    "number_words",
    "pad",
    "play",
    "returns_to_go",
    "split",
    "split_for",
    "split_packages",
    "standard_library",
    "token_stream",
    "trim",
    "windows",
    "word_piece",
]
