"""A tiny book for the tests of the tools."""

from pathlib import Path

import pytest

from book.tools.layout import Book
from tests.book import tiny


@pytest.fixture
def book(tmp_path: Path) -> Book:
    return tiny.make(tmp_path)
