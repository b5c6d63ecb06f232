"""Data: files are what they say, pairs are right and stay the same, text survives the way to ids and back."""

import os
import subprocess
import sys
import time
from collections import Counter
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from babel.dates import format_date
from hypothesis import given, settings
from hypothesis import strategies as st

from tformerlib import data
from tformerlib.data import hub, pairs

ROOT = Path(__file__).parents[2]

UNTYPED: Any = "byte"  # what a type checker would refuse

# --- real sets ---


def write(path: Path, columns: dict[str, list[Any]]) -> dict[str, Any]:
    """A parquet file and the entry that sets.toml would have for it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path)
    content = path.read_bytes()
    return {
        "rows": len(next(iter(columns.values()))),
        "bytes": len(content),
        "sha256": hub.hashlib.sha256(content).hexdigest(),
    }


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for TFORMER_DATA with one small set, `tiny`, of the columns text and label."""
    entry = {
        "source": "made here", "stand_in": "data.number_words", "columns": {"text": "string", "label": "int64"},
        "files": {
            split: write(tmp_path / "tiny" / f"{split}.parquet", {"text": [split, "b"] * 50, "label": [0, 1] * 50})
            for split in ("train", "test")
        },
    }  # fmt: skip
    monkeypatch.setitem(hub.SETS, "tiny", entry)
    monkeypatch.setenv("TFORMER_DATA", str(tmp_path))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    return tmp_path


def test_load_returns_the_rows_and_records_what_it_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    records = []
    monkeypatch.setattr(hub, "emit", lambda kind, payload, **_: records.append((kind, payload)))
    dataset = data.load("tiny", "test")
    assert dataset[0] == {"text": "test", "label": 0}
    assert len(dataset) == 100
    sha256 = hub.SETS["tiny"]["files"]["test"]["sha256"]
    payload = {"name": "tiny", "split": "test", "sha256": sha256, "source": "made here", "rows": 100}
    assert records == [("data", payload)]


def test_images_boxes_and_audio_have_their_types(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from io import BytesIO

    from PIL import Image

    png = BytesIO()
    Image.new("RGB", (3, 2), (255, 0, 0)).save(png, "png")
    columns: dict[str, list[Any]] = {
        "picture": [{"bytes": png.getvalue(), "path": None}],
        "sound": [{"bytes": b"RIFF", "path": None}],
        "objects": [[{"bbox": [1.0, 2.0, 3.0, 4.0], "category": 2}]],
    }
    schema = pa.schema(
        {
            "picture": pa.struct({"bytes": pa.binary(), "path": pa.string()}),
            "sound": pa.struct({"bytes": pa.binary(), "path": pa.string()}),
            "objects": pa.list_(pa.struct({"bbox": pa.list_(pa.float32()), "category": pa.int64()})),
        }
    )
    path = folder / "mixed" / "train.parquet"
    path.parent.mkdir()
    pq.write_table(pa.table(columns, schema=schema), path)
    content = path.read_bytes()
    entry = {"rows": 1, "bytes": len(content), "sha256": hub.hashlib.sha256(content).hexdigest()}
    kinds = {"picture": "image", "sound": "audio", "objects": "boxes"}
    monkeypatch.setitem(hub.SETS, "mixed", {"source": "", "columns": kinds, "files": {"train": entry}})
    row = data.load("mixed")[0]
    assert row["picture"].getpixel((2, 1)) == (255, 0, 0)
    assert row["sound"]["bytes"] == b"RIFF"
    assert row["objects"] == columns["objects"][0]


def test_available_only_with_every_split(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert data.available("tiny")
    assert not data.available("sst2")
    (folder / "tiny" / "test.parquet").unlink()
    assert not data.available("tiny")
    monkeypatch.delenv("TFORMER_DATA")
    assert not data.available("tiny")
    with pytest.raises(ValueError, match="'cifar11'; choices: bccd, cifar10"):
        data.available("cifar11")


def test_damaged_files_are_refused_with_file_and_reason(folder: Path) -> None:
    path = folder / "tiny" / "train.parquet"
    whole = path.read_bytes()
    cases = {
        f"is cut short: {len(whole) // 2} of {len(whole)} bytes": whole[: len(whole) // 2],
        "is empty": b"",
        "is not a parquet file": b"PAR0" + whole[4:-4] + b"PAR0",
        "is not the published file: its SHA-256": whole.replace(b"train", b"trial"),
    }
    for reason, content in cases.items():
        path.write_bytes(content)
        with pytest.raises(data.DataError, match=f"{path}.*{reason}"):
            data.load("tiny")
    path.write_bytes(whole)
    assert len(data.load("tiny")) == 100, "the good file is read again after the bad one"


def test_wrong_columns_rows_and_missing_splits_are_refused(folder: Path) -> None:
    path = folder / "tiny" / "train.parquet"
    cases: dict[str, dict[str, list[Any]]] = {
        r"has columns \{'text': 'string'\}, not \{'text': 'string', 'label': 'int64'\}": {"text": ["a"]},
        r"has columns .*'label': 'string'": {"text": ["a"], "label": ["b"]},
        "has 1 rows, not 100": {"text": ["a"], "label": [1]},
    }
    for reason, columns in cases.items():
        write(path, columns)
        with pytest.raises(data.DataError, match=f"{path}.*{reason}"):
            data.load("tiny")
    path.unlink()
    with pytest.raises(data.DataError, match=f"{path} is missing; the folder holds test.parquet"):
        data.load("tiny")
    with pytest.raises(ValueError, match="tiny has no split 'dev'; choices: train, test"):
        data.load("tiny", "dev")


def test_a_folder_that_is_none_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TFORMER_DATA", str(folder / "nowhere"))
    with pytest.raises(data.DataError, match="nowhere is not a folder"):
        data.load("tiny")


def test_without_a_folder_the_error_names_the_stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TFORMER_DATA", raising=False)
    with pytest.raises(data.OfflineError, match=r"set TFORMER_DATA.*multi30k/train.parquet.*number_words"):
        data.load("multi30k")


@pytest.mark.parametrize("offline", [True, False])
def test_a_hub_out_of_reach_is_told_soon(offline: bool, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    for proxy in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(proxy, raising=False)
        monkeypatch.delenv(proxy.upper(), raising=False)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder / "hf"))
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # nothing listens at the discard port
    began = time.perf_counter()
    with pytest.raises(data.OfflineError, match=r"HF_HUB_OFFLINE is set|9 does not answer") as caught:
        data.load("cifar10")
    assert "sklearn.datasets.load_digits()" in str(caught.value)
    assert time.perf_counter() - began < 5


def test_a_file_from_the_hub_is_checked_like_any_other(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What lies in the hub's cache at the pinned revision is used, and refused if it is not what sets.toml says."""
    from huggingface_hub import constants

    revision = "0" * 40
    snapshot = folder / "hf" / "datasets--someone--tiny" / "snapshots" / revision
    entry = write(snapshot / "all" / "part.parquet", {"text": ["from the hub"], "label": [1]})
    files = {"train": entry | {"path": "all/part.parquet"}}
    monkeypatch.setitem(
        hub.SETS["tiny"], "hub", {"repository": "someone/tiny", "revision": revision, "files": files}
    )  # fmt: skip
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder / "hf"))
    monkeypatch.delenv("TFORMER_DATA")
    assert data.load("tiny")[0]["text"] == "from the hub"
    files["train"]["sha256"] = "0" * 64
    with pytest.raises(data.DataError, match=r"part\.parquet is not the published file"):
        data.load("tiny")


def test_the_manifest_is_whole() -> None:
    assert set(hub.SETS) == {
        "bccd", "cifar10", "fsdd", "isbi_membrane", "multi30k", "sst2", "tiny_shakespeare", "trec",
    }  # fmt: skip
    for name, about in hub.SETS.items():
        assert {"about", "source", "license", "stand_in", "columns", "files"} <= set(about), name
        for file in (*about["files"].values(), *about.get("hub", {"files": {}})["files"].values()):
            assert len(file["sha256"]) == 64
            assert file["rows"] > 0 < file["bytes"]
        if "hub" in about:
            assert set(about["hub"]["files"]) == set(about["files"])
            assert len(about["hub"]["revision"]) == 40


# --- pairs ---

HASHES = {
    "en-de": "d7752e21117b7dc6c641d94f3e957f97ddd26024825da45e174003a0c8dba0dc",
    "fr-sv": "a5d44d9051f9582f6740a6689798c264fb74fb68103137cf87d84aec90ebdee9",
    "all": "214db6a5f596a89d9965352e2c01a536337c85142e1d9bfa4a19178cda287830",
    "dates": "8073df8120dcdf3d19e99eb2fd5e7841b0f24a32ef67e5f4634da17f8bf9902d",
    "mixed": "11fd8188141b9fbd7809b98678fdf4e61aa1b6d9cd4b780ccc2950d62856ac53",
}


def generated() -> dict[str, list[tuple[str, str]]]:
    return {
        "en-de": data.number_words("en", "de", limit=10**9, count=500, seed=3),
        "fr-sv": data.number_words("fr", "sv", limit=300),
        "all": [p for lang in data.LANGUAGES for p in data.number_words(lang, "en", limit=10**6, count=20, seed=1)],
        "dates": data.locale_dates("en", "iso", count=500, seed=3),
        "mixed": data.locale_dates("mixed", "fr", count=500, seed=3),
    }


def test_pairs_are_what_they_were() -> None:
    """A num2words or Babel that writes something differently is noticed here, before it moves a chapter's results."""
    assert {name: pairs.content_hash(content) for name, content in generated().items()} == HASHES


def test_pairs_and_vocabularies_do_not_depend_on_the_hash_seed() -> None:
    code = (
        "from tests.library.test_data import HASHES, data, generated, pairs\n"
        "content = generated()\n"
        "print({name: pairs.content_hash(content[name]) for name in content} == HASHES)\n"
        "print(data.Vocabulary.from_texts(['b a', 'c'], 'word').tokens[4:])\n"
        "print(data.split(content['dates'], seed=0, test=3)[1])\n"
    )
    environment = os.environ | {"PYTHONHASHSEED": "1"}
    output = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, check=True, capture_output=True)
    expected = data.split(generated()["dates"], seed=0, test=3)[1]
    assert output.stdout.decode() == f"True\n['a', 'b', 'c']\n{expected}\n"


def test_number_words_are_right() -> None:
    german = dict(data.number_words("en", "de", limit=1000))
    assert german["three hundred twelve"] == "dreihundertzwölf"
    assert german["zero"] == "null"
    assert german["ninety nine"] == "neunundneunzig"
    assert len(german) == 1000
    assert ("two thousand one", "deux mille un") in data.number_words("en", "fr", limit=2100)


@pytest.mark.parametrize("language", data.LANGUAGES)
def test_no_two_numbers_share_their_words(language: str) -> None:
    drawn = data.number_words("en", language, limit=10**9, count=400, seed=0)
    assert len({source for source, _ in drawn}) == len({target for _, target in drawn}) == 400
    for text in (text for pair in drawn for text in pair):
        assert text == " ".join(text.split())
        assert not set(text) & set(",-0123456789")


def test_drawn_numbers_vary_widely_in_length() -> None:
    drawn = data.number_words(limit=10**9, count=4000, seed=0)
    lengths = Counter(len(source.split()) for source, _ in drawn)
    assert lengths[1] >= 25
    assert sum(lengths[n] for n in range(11, 30)) >= 400
    assert max(lengths) >= 13
    assert [len(source.split()) for source, _ in drawn] != sorted(len(source.split()) for source, _ in drawn)
    assert drawn != data.number_words(limit=10**9, count=4000, seed=1)


@given(st.integers(1, 10**6), st.data())
@settings(max_examples=50, deadline=None)
def test_spread_draws_as_many_different_numbers_as_asked(limit: int, drawn: st.DataObject) -> None:
    count = drawn.draw(st.integers(1, min(limit, 300)))
    numbers = pairs._spread(limit, count, pairs.random.Random(0))
    assert len(set(numbers)) == count == len(numbers)
    assert all(0 <= number < limit for number in numbers)


def test_all_numbers_drawn_are_all_numbers() -> None:
    assert sorted(pairs._spread(1234, 1234, pairs.random.Random(0))) == list(range(1234))


def test_dates_are_right() -> None:
    drawn = data.locale_dates("en", "iso", count=2000, seed=0)
    for source, target in drawn:
        day = date.fromisoformat(target)
        assert date(1970, 1, 1) <= day <= date(2069, 12, 31)
        assert source in {format_date(day, name, locale="en").replace("\u202f", " ") for name in pairs.FORMATS}
    for name in pairs.FORMATS:
        written = sum(s == format_date(date.fromisoformat(t), name, locale="en") for s, t in drawn)
        assert 400 < written < 600, "each format in its turn"
    assert dict(data.locale_dates("de", "en", count=36525, formats=["short"]))["09.03.87"] == "March 9, 1987"


def test_no_date_can_be_read_in_two_ways() -> None:
    """In one locale in any format, and over all locales in the formats that "mixed" uses."""
    days = [date(2009, 1, 1) + timedelta(n) for n in range(5 * 365)]
    for locales, formats in ((("en",), pairs.FORMATS), (data.LOCALES, pairs.FORMATS[:3])):
        readings: dict[str, date] = {}
        for day in days if len(locales) == 1 else days[: 2 * 365 : 2]:
            for locale in locales:
                for name in formats:
                    assert readings.setdefault(format_date(day, name, locale=locale), day) == day
    mixed = data.locale_dates("mixed", count=20000)
    assert len(dict(mixed)) == 20000


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: data.number_words("en", "tlh"), "'tlh' is not one of cs, da"),
        (lambda: data.number_words(limit=10**10), r"limit=10000000000 is not in 1 .. 10\^9"),
        (lambda: data.number_words(limit=10**8), "limit=100000000 makes too many pairs"),
        (lambda: data.number_words(limit=10, count=11), r"count=11 is not in 1 .. limit=10"),
        (lambda: data.locale_dates("en_XX"), "'en_XX' is not one of cs, da"),
        (lambda: data.locale_dates("en", "klingon"), "'klingon' is not one of"),
        (lambda: data.locale_dates("en", formats=["tiny"]), "'tiny'.*full, long, medium, short"),
        (lambda: data.locale_dates("mixed", formats=["short"]), "'short' of the source 'mixed'.*full, long, medium$"),
        (lambda: data.locale_dates(count=40000), "count=40000"),
        (lambda: data.split([("a", "b")], seed=0, test=0.5), "test=0.5.*1 sources"),
        (lambda: data.pad([[1, 2, 3]], length=2), "3 ids does not fit into length=2"),
        (lambda: data.Vocabulary(["a", "a"]), "twice"),
        (lambda: data.Vocabulary.from_texts([], UNTYPED), "level='byte'"),
    ],
)
def test_bad_values_are_named(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_split_shares_no_source() -> None:
    several = [(str(n % 40), str(n)) for n in range(100)]
    train, test = data.split(several, seed=0, test=0.25)
    assert sorted(train + test) == sorted(several)
    assert not {source for source, _ in train} & {source for source, _ in test}
    assert len({source for source, _ in test}) == 10
    assert data.split(several, seed=0, test=10) == (train, test)
    assert data.split(several, seed=1, test=10) != (train, test)


# --- text ---


@given(st.lists(st.text(), min_size=1), st.sampled_from(["char", "word"]))
@settings(max_examples=50, deadline=None)
def test_text_survives_the_way_there_and_back(texts: list[str], level: Any) -> None:
    vocabulary = data.Vocabulary.from_texts(texts, level)
    for text in texts:
        ids = vocabulary.encode(text)
        assert min(ids, default=4) >= 4
        expected = text if level == "char" else " ".join(text.split())
        assert vocabulary.decode([data.BOS, *ids, data.EOS, *ids, data.PAD]) == expected


def test_unknown_tokens_are_shown() -> None:
    vocabulary = data.Vocabulary.from_texts(["one two"], "word")
    assert vocabulary.encode("two three") == [5, data.UNK]
    assert vocabulary.decode(torch.tensor([5, data.UNK])) == "two <unk>"
    assert len(vocabulary) == 6


def test_pairs_become_tensors_that_trim_cuts() -> None:
    words, letters = data.Vocabulary(["one", "two"], "word"), data.Vocabulary(["a", "b"])
    source, target = data.encode_pairs([("one", "a"), ("one two one", "ba")], words, letters)
    assert source.tolist() == [[4, 2, 0, 0], [4, 5, 4, 2]]
    assert target.tolist() == [[1, 4, 2, 0], [1, 5, 4, 2]]
    source, target = data.trim((source[:1], target[:1]))
    assert source.tolist() == [[4, 2]]
    assert target.tolist() == [[1, 4, 2]]
    assert data.pad([[7], []], length=3).tolist() == [[7, 0, 0], [0, 0, 0]]
