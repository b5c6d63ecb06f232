"""Real translation pairs that need no download: numbers in words, and dates as different places write them."""

import hashlib
import json
import random
from collections.abc import Sequence
from datetime import date, timedelta
from functools import lru_cache
from importlib.metadata import version
from itertools import pairwise

from ..extras import needs
from ..run.records import emit

Pair = tuple[str, str]
LANGUAGES = ("cs", "da", "de", "en", "es", "fi", "fr", "hu", "it", "nl", "no", "pl", "pt", "ro", "sv", "tr")
LOCALES = (
    "cs", "da", "de", "en", "en_GB", "es", "fi", "fr", "hu", "it", "ja", "ko", "nb", "nl", "pl", "pt", "ro", "ru", "sv",
    "tr", "zh",
)  # fmt: skip
FORMATS = ("full", "long", "medium", "short")
FIRST_DAY, LAST_DAY = date(1970, 1, 1), date(2069, 12, 31)  # a hundred years: two digits name one of them


def number_words(
    source: str = "en", target: str = "de", *, limit: int = 10_000, count: int | None = None, seed: int = 0
) -> list[Pair]:
    """Numbers below `limit` in the words of two languages: ("three hundred twelve", "dreihundertzwölf").

    All of them in order, or `count` different ones drawn by `seed` and shuffled. The draw takes as many numbers of
    each count of digits, as far as there are so many, so that lengths vary widely: one word to more than ten.
    Words are those of num2words, with single spaces for hyphens and commas and, as in American usage, no "and".

    Raises ValueError for a language that is not one of LANGUAGES, and for limits above 10^9 or below `count`.
    """
    for language in (source, target):
        if language not in LANGUAGES:
            raise ValueError(f"language {language!r} is not one of {', '.join(LANGUAGES)}")
    if not 1 <= limit <= 10**9:
        raise ValueError(f"limit={limit} is not in 1 .. 10^9")
    if count is None and limit > 100_000:
        raise ValueError(f"limit={limit} makes too many pairs; say how many to draw: count=10_000")
    numbers: Sequence[int] = range(limit) if count is None else _spread(limit, count, random.Random(seed))
    pairs = [(_words(number, source), _words(number, target)) for number in numbers]
    return _announced(f"number_words {source}-{target}", "num2words", pairs)


def _spread(limit: int, count: int, draw: random.Random) -> list[int]:
    """Different numbers below the limit, as many of each count of digits as there are, shuffled."""
    if not 0 < count <= limit:
        raise ValueError(f"count={count} is not in 1 .. limit={limit}")
    bounds = [0, *(10**digits for digits in range(1, len(str(limit - 1)))), limit]
    classes = sorted((range(low, high) for low, high in pairwise(bounds)), key=len)  # small ones leave to the larger
    numbers: list[int] = []
    for done, numerals in enumerate(classes):
        wanted = (count - len(numbers)) // (len(classes) - done)
        numbers += draw.sample(numerals, min(wanted, len(numerals)))
    return draw.sample(numbers, count)


@lru_cache(maxsize=200_000)
def _words(number: int, language: str) -> str:
    with needs("data"):
        from num2words import num2words

    words = num2words(number, lang=language).replace(",", " ").replace("-", " ").split()
    return " ".join(word for word in words if (language, word) != ("en", "and"))


def locale_dates(
    source: str = "en", target: str = "iso", *, count: int = 10_000, seed: int = 0, formats: Sequence[str] = ()
) -> list[Pair]:
    """Dates of 1970 to 2069 as a place writes them and as another does: ("Monday, March 9, 1987", "1987-03-09").

    Args:
        source: one of LOCALES, in any of the `formats`; or "mixed", all of them.
        target: "iso" for year-month-day, or one of LOCALES, in its long format.
        count: number of pairs, drawn by `seed`; sources are all different.
        formats: of the source, from full, long, medium, short. All by default; without short for "mixed", because
            3/9/87 is a day in March in one place and in September in another.

    Raises ValueError for an unknown locale or format, and for a count that is larger than the number of sources.
    """
    with needs("data"):
        from babel.dates import format_date

    locales = LOCALES if source == "mixed" else (source,)
    choices = FORMATS[:3] if source == "mixed" else FORMATS
    formats = tuple(formats) or choices
    for locale in (*locales, *(() if target == "iso" else (target,))):
        if locale not in LOCALES:
            raise ValueError(f"locale {locale!r} is not one of {', '.join(LOCALES)} (source: mixed, target: iso)")
    for name in formats:
        if name not in choices:
            raise ValueError(f"format {name!r} of the source {source!r} is not one of {', '.join(choices)}")
    days = (LAST_DAY - FIRST_DAY).days + 1
    if not 0 < count <= days:
        raise ValueError(f"count={count} is not in 1 .. {days}, one for each day")
    draw = random.Random(seed)
    pairs = []
    for day in (FIRST_DAY + timedelta(offset) for offset in draw.sample(range(days), count)):
        written = format_date(day, draw.choice(formats), locale=draw.choice(locales))
        wanted = day.isoformat() if target == "iso" else format_date(day, "long", locale=target)
        pairs.append((_plain(written), _plain(wanted)))
    return _announced(f"locale_dates {source}-{target}", "Babel", pairs)


def _plain(text: str) -> str:
    """Single common spaces for the narrow and fixed ones that some locales write."""
    return " ".join(text.split())


def split(pairs: Sequence[Pair], *, seed: int, test: float | int) -> tuple[list[Pair], list[Pair]]:
    """Training and test pairs, in the order they came, that share no source.

    Args:
        test: the share of the sources (a float below 1) or their number (an int) that go to the test.
    """
    sources = list(dict.fromkeys(source for source, _ in pairs))
    number = round(test * len(sources)) if isinstance(test, float) else test
    if not 0 < number < len(sources):
        raise ValueError(f"test={test} leaves nothing to test or nothing to train on: {len(sources)} sources")
    tested = set(random.Random(seed).sample(sources, number))
    return [p for p in pairs if p[0] not in tested], [p for p in pairs if p[0] in tested]


def content_hash(pairs: Sequence[Pair]) -> str:
    """SHA-256 of pairs, as a hex string: it changes when a library's words or formats do."""
    return hashlib.sha256(json.dumps(list(pairs)).encode()).hexdigest()


def _announced(name: str, package: str, pairs: list[Pair]) -> list[Pair]:
    source = f"{package} {version(package)}"
    emit("data", {"name": name, "split": "all", "sha256": content_hash(pairs), "source": source, "rows": len(pairs)})
    return pairs
