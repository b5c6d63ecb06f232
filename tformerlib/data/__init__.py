"""Data: real sets checked by hash, translation pairs made by rule, and text as numbers."""

from .hub import DataError, OfflineError, available, load
from .pairs import LANGUAGES, LOCALES, locale_dates, number_words, split
from .text import BOS, EOS, PAD, UNK, Vocabulary, encode_pairs, pad, trim

__all__ = [
    "BOS",
    "EOS",
    "LANGUAGES",
    "LOCALES",
    "PAD",
    "UNK",
    "DataError",
    "OfflineError",
    "Vocabulary",
    "available",
    "encode_pairs",
    "load",
    "locale_dates",
    "number_words",
    "pad",
    "split",
    "trim",
]
