"""Python's source as a corpus, tokenizers trained on it, and streams of ids: the same each time, and nothing lost."""

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tformerlib import data
from tformerlib.data import code

TEXTS = ["def add(a, b):\n    return a + b\n", "for each in range(10):\n    print(add(each, 1))\n", "Zoë's naïve café"]


@pytest.fixture(scope="module")
def files() -> list[data.Source]:
    return data.standard_library()


def test_the_corpus_is_pythons_own_source_without_tests(files: list[data.Source]) -> None:
    by_path = {file.path: file for file in files}
    assert [file.path for file in files] == sorted(by_path) and len(by_path) == len(files) > 200
    assert by_path["json/decoder.py"].package == "json" and "class JSONDecoder" in by_path["json/decoder.py"].text
    assert by_path["textwrap.py"].package == "textwrap"
    assert not any("/test/" in f"/{path}" or "/tests/" in f"/{path}" or "site-packages" in path for path in by_path)
    assert not code.LEFT_OUT & {file.package for file in files}
    assert 4_000_000 < sum(len(file.text) for file in files) < 12_000_000
    assert code.source_hash(files) == code.source_hash(data.standard_library())


def test_a_changed_letter_or_place_changes_the_hash(files: list[data.Source]) -> None:
    some = files[:3]
    changed = [some[0]._replace(text=some[0].text[:-1] + "~"), *some[1:]]
    moved = [some[0]._replace(path="elsewhere.py"), *some[1:]]
    assert len({code.source_hash(each) for each in (some, changed, moved, some[:2], some[::-1])}) == 5


def test_what_is_no_source_is_left_out(tmp_path: Path) -> None:
    for path, text in {
        "json/decoder.py": "x = 1\n", "json/tests/test_x.py": "no", "site-packages/own.py": "no", "abc.py": "y = 2\n",
        "tkinter/dialog.py": "no", "csv.py": "  \n", "json/data.txt": "no",
    }.items():  # fmt: skip
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    found = data.standard_library(folder=tmp_path)
    assert found == [data.Source("abc", "abc.py", "y = 2\n"), data.Source("json", "json/decoder.py", "x = 1\n")]
    (tmp_path / "empty").mkdir()
    with pytest.raises(data.DataError, match="empty holds no source"):
        data.standard_library(folder=tmp_path / "empty")


def test_whole_packages_are_held_out(files: list[data.Source]) -> None:
    train, test = data.split_packages(files)
    assert {file.package for file in test} == set(code.HELD_OUT)
    assert not {file.package for file in train} & {file.package for file in test}
    assert sorted([*train, *test]) == sorted(files)
    with pytest.raises(ValueError, match="no package nothing among"):
        data.split_packages(files, ["json", "nothing"])
    with pytest.raises(ValueError, match="one side is empty"):
        data.split_packages(files, [])


def test_pilots_never_see_the_held_out_packages(files: list[data.Source]) -> None:
    train, test = data.split_packages(files)
    assert data.split_for(29, files) == (train, test)
    learned, validation = data.split_for(100, files)
    assert sorted([*learned, *validation]) == sorted(train)
    assert {file.package for file in validation} == set(code.VALIDATION)
    assert not {file.package for file in validation} & {file.package for file in [*learned, *test]}


@settings(deadline=None, max_examples=50)
@given(st.text())
def test_byte_bpe_loses_nothing(text: str) -> None:
    assert BPE.decode(BPE.encode(text).ids) == text


BPE = data.byte_bpe(TEXTS, 300)


def test_byte_bpe_has_end_bytes_and_merges() -> None:
    assert BPE.get_vocab_size() <= 300 and BPE.token_to_id(data.END) == 0
    assert len(BPE.encode(TEXTS[0]).ids) < len(TEXTS[0].encode())
    assert BPE.decode(BPE.encode(f"a{data.END}b").ids) == f"a{data.END}b"  # in a text it is text
    assert 0 not in BPE.encode(data.END).ids
    with pytest.raises(ValueError, match="vocab=100 has no room"):
        data.byte_bpe(TEXTS, 100)
    with pytest.raises(ValueError, match="repeat"):
        data.byte_bpe(TEXTS, 300, special=["<x>", "<x>"])


def test_word_piece_is_berts() -> None:
    tokenizer = data.word_piece(TEXTS, 120)
    assert [tokenizer.token_to_id(token) for token in data.BERT_SPECIAL] == [0, 1, 2, 3, 4]
    ids = tokenizer.encode("for each [MASK] in range").ids
    assert ids.count(4) == 1 and 1 not in ids
    assert tokenizer.decode(tokenizer.encode("print(add").ids) == "print ( add"
    assert 1 in tokenizer.encode("漢").ids
    assert tokenizer.encode("##a").tokens != ["##a"]  # pieces are no special tokens
    assert data.word_piece(["A a"], 10, lowercase=True).encode("A").tokens == ["a"]
    with pytest.raises(ValueError, match="vocab=10 has no room"):
        data.word_piece(TEXTS, 10)


def test_tokenizers_are_the_same_in_another_process() -> None:
    """The library's own WordPiece trainer is not: it numbers pieces in the order of a hash table."""
    program = (
        "import hashlib; from tformerlib import data; texts = [f.text for f in data.standard_library()[:25]];"
        "made = [data.byte_bpe(texts, 700), data.word_piece(texts, 700)];"
        "print([hashlib.sha256(str(sorted(t.get_vocab().items())).encode()).hexdigest() for t in made])"
    )
    runs = [subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True) for _ in "ab"]
    assert runs[0].stdout == runs[1].stdout and len(runs[0].stdout) > 100


def test_a_stream_is_all_texts_with_an_end_after_each() -> None:
    stream = data.token_stream(TEXTS, BPE)
    assert stream.dtype == torch.long and int((stream == 0).sum()) == len(TEXTS) and stream[-1] == 0
    assert BPE.decode(stream.tolist()) == "".join(TEXTS)
    assert len(data.token_stream(TEXTS, BPE, end=None)) == len(stream) - len(TEXTS)
    with pytest.raises(ValueError, match="no token '<eos>'"):
        data.token_stream(TEXTS, BPE, end="<eos>")
    with pytest.raises(ValueError, match="no token"):
        data.token_stream([], BPE)


def test_windows_are_cut_from_the_stream_without_a_copy() -> None:
    stream = torch.arange(10)
    assert data.windows(stream, 4).tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]
    every = data.windows(stream, 4, stride=1)
    assert every.shape == (7, 4) and every[6].tolist() == [6, 7, 8, 9]
    assert every.data_ptr() == stream.data_ptr()
    assert every[torch.tensor([5, 0])].tolist() == [[5, 6, 7, 8], [0, 1, 2, 3]]
    for length, stride in ((11, 1), (0, 1), (4, 0)):
        with pytest.raises(ValueError, match=r"no window of 11|must be at least 1"):
            data.windows(stream, length, stride)


def test_the_hash_is_of_what_was_read(tmp_path: Path) -> None:
    (tmp_path / "abc.py").write_text("y = 2\n")
    (file,) = data.standard_library(folder=tmp_path)
    assert code.source_hash([file]) == hashlib.sha256(b"abc.py\0y = 2\n\0").hexdigest()
