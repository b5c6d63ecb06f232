"""The facts agree with each other and with the code: systems, claims, notation, bibliography, pages, licenses."""

import ast
import json
import re
import tomllib
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import nbformat
import pytest
import torch
import yaml
from pybtex.database import BibliographyData, parse_file

import tformerlib as tf
from benchmarks import league
from book.tools.layout import Book
from book.tools.notation import load, unknown

ROOT = Path(__file__).resolve().parents[2]
SYSTEM_FIELDS = {
    "id", "name", "authors", "year", "paper", "also", "introduces", "code", "part", "chapter", "status", "model",
    "peer", "parity", "counts", "claims", "parameters",
}  # fmt: skip
PARTS = ["foundations", "language", "vision", "hybrids", "detection", "generation", "beyond", "libraries"]


@cache
def read_yaml(path: str) -> Any:
    return yaml.safe_load((ROOT / path).read_text("utf-8"))


@cache
def bibliography() -> BibliographyData:
    return parse_file(str(ROOT / "book" / "references.bib"))  # raises at an entry that stands twice


SYSTEMS: list[dict[str, Any]] = read_yaml("data/systems.yml")
IMPLEMENTED = [system for system in SYSTEMS if system["status"] == "implemented"]
CLAIMS: list[dict[str, Any]] = Book().ledger
PAGES = sorted((ROOT / "book" / "pages").glob("*.md"))
DOCUMENTS = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")]
each_system = pytest.mark.parametrize("system", SYSTEMS, ids=[system["id"] for system in SYSTEMS])
each_implemented = pytest.mark.parametrize("system", IMPLEMENTED, ids=[system["id"] for system in IMPLEMENTED])


def defined(node: str) -> bool:
    """Whether `path::name` or `path::Class::name` is a file with that function or class; a bare path, whether it is."""
    path, *names = node.split("[")[0].split("::")
    if not (ROOT / path).is_file():
        return False
    scope: list[ast.stmt] = ast.parse((ROOT / path).read_text("utf-8")).body
    for name in names:
        found = [n for n in scope if isinstance(n, ast.FunctionDef | ast.ClassDef) and n.name == name]
        if not found:
            return False
        scope = found[0].body
    return True


def table_of_contents() -> list[str]:
    toc = read_yaml("_toc.yml")
    return [toc["root"], *(entry["file"] for part in toc["parts"] for entry in part["chapters"])]


# --- systems ------------------------------------------------------------------------------------------------------


@each_system
def test_a_system_is_complete(system: dict[str, Any]) -> None:
    assert set(system) == SYSTEM_FIELDS
    assert re.fullmatch(r"[a-z0-9-]+", system["id"])
    assert system["status"] in ("planned", "implemented") and system["part"] in PARTS
    assert (system["chapter"] is None) == (system["part"] == "libraries")
    assert system["code"] is None or re.fullmatch(r"[\w-]+/[\w.-]+", system["code"])
    assert system["introduces"].endswith(".") and len(system["introduces"]) <= 130
    for key in [system["paper"], *system["also"]]:
        assert key in bibliography().entries
    assert bibliography().entries[system["paper"]].fields["year"] == str(system["year"])
    for count in system["parameters"]:
        assert set(count) - {"source"} == {"variant", "paper", "checked", "ours"}
        assert isinstance(count["checked"], bool) and isinstance(count["paper"], int)


def test_systems_are_named_once_and_stand_in_the_book_s_order() -> None:
    assert max(Counter(system["id"] for system in SYSTEMS).values()) == 1
    assert max(Counter(system["name"] for system in SYSTEMS).values()) == 1
    parts = [PARTS.index(system["part"]) for system in SYSTEMS]
    assert parts == sorted(parts)
    chapters = [system["chapter"] for system in SYSTEMS]
    changes = [a for a, b in zip(chapters, [*chapters[1:], ""], strict=True) if a != b]
    assert len(changes) == len(set(changes)), "a chapter's systems stand together"


@each_implemented
def test_an_implemented_system_has_a_model_a_parity_test_and_a_claim(system: dict[str, Any]) -> None:
    assert system["model"] and defined(system["model"]), system["model"]
    assert system["parity"] and defined(system["parity"]), system["parity"]
    assert "::test_" in system["parity"]
    if system["parameters"]:
        assert system["counts"] and defined(system["counts"]), system["counts"]
    assert f"chapters/{system['part']}/{system['chapter']}" in table_of_contents()
    assert system["claims"] and set(system["claims"]) <= {claim["id"] for claim in CLAIMS}


@each_system
def test_a_planned_system_promises_nothing_that_is_not_there(system: dict[str, Any]) -> None:
    if system["status"] == "planned":
        assert system["parity"] is None and system["counts"] is None and not system["claims"]
        assert all(count["ours"] is None for count in system["parameters"])


@each_implemented
def test_parameter_counts_are_those_of_our_models(system: dict[str, Any]) -> None:
    for count in system["parameters"]:
        with torch.device("meta"):
            model = tf.create_model(count["variant"])
        assert sum(p.numel() for p in model.parameters()) == count["ours"]
        assert abs(count["ours"] / count["paper"] - 1) < 0.07  # GPT-2 is 6 % off: its README calls the paper wrong


def test_every_claim_names_a_system_that_lists_it() -> None:
    listed = {(claim, system["id"]) for system in SYSTEMS for claim in system["claims"]}
    for claim in CLAIMS:
        if claim["chapter"] != "_template":
            assert (claim["id"], claim["system"]) in listed
        assert claim["source"]["cite"] in bibliography().entries


def test_what_is_missing_is_noticed() -> None:
    assert defined("tests/book/test_content.py::test_what_is_missing_is_noticed")
    assert not defined("tests/book/test_content.py::test_that_nobody_wrote")
    assert not defined("tformerlib/models/nobody.py")


# --- bibliography -------------------------------------------------------------------------------------------------


def test_bibliography_entries_say_who_what_where_and_when() -> None:
    titles: Counter[str] = Counter()
    for key, entry in bibliography().entries.items():
        assert re.fullmatch(r"[a-z]+(19|20)\d\d[a-z0-9]*", key)
        assert entry.persons["author"] and entry.fields["title"], key
        assert key.startswith(surname(entry.persons["author"][0])), key
        assert entry.fields["year"] in key, key
        assert any(field in entry.fields for field in ("eprint", "doi", "url", "pages")), key
        if "eprint" in entry.fields:
            assert re.fullmatch(r"\d{4}\.\d{4,5}", entry.fields["eprint"]), key
            assert entry.fields["archiveprefix"] == "arXiv", key
        titles[entry.fields["title"].lower()] += 1
    assert max(titles.values()) == 1


def surname(person: Any) -> str:
    """A last name as keys have it: small letters alone, without particles ("von") that BibTeX sets apart."""
    return re.sub("[^a-z]", "", "".join(person.last_names).lower())


@pytest.mark.parametrize("path", [*PAGES, *sorted((ROOT / "chapters").rglob("*.py"))], ids=lambda path: path.name)
def test_citations_have_entries(path: Path) -> None:
    for keys in re.findall(r"\{cite:\w+\}`([^`]+)`", path.read_text("utf-8")):
        for key in keys.split(","):
            assert key.strip() in bibliography().entries


# --- pages and documents ------------------------------------------------------------------------------------------


def test_table_of_contents_and_files_agree() -> None:
    entries = table_of_contents()
    pages = [entry for entry in entries if not entry.startswith("chapters/")]
    chapters = [entry for entry in entries if entry.startswith("chapters/")]
    assert sorted(pages) == [page.stem for page in PAGES]
    written = [path for path in (ROOT / "chapters").rglob("*.py") if not path.name.startswith("_")]
    assert sorted(chapters) == sorted(str(path.relative_to(ROOT).with_suffix("")) for path in written)


@pytest.mark.parametrize("path", [*PAGES, *DOCUMENTS], ids=lambda path: path.name)
def test_prose_is_plain(path: Path) -> None:
    text = path.read_text("utf-8")
    found = re.findall(r"\b(simply|obviously|just|powerful|state-of-the-art|cutting-edge|seamless\w*)\b", text, re.I)
    assert not found
    assert all(len(line) <= 120 for line in text.splitlines() if "](http" not in line)


@pytest.mark.parametrize("path", [*PAGES, *DOCUMENTS], ids=lambda path: path.name)
def test_commands_and_paths_that_documents_name_exist(path: Path) -> None:
    text = path.read_text("utf-8")
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    assert set(re.findall(r"(?:`|^)make ([a-z]+)", text, re.MULTILINE)) <= targets
    for name in re.findall(r"\]\((?!http)([^)#]+)\)", text):
        assert (path.parent / name).exists(), name
    for name in re.findall(r"(?<!\})`((?:data|book|chapters|tformerlib|tests)/[\w/.-]+)`", text):
        assert (ROOT / name).exists() or name == "data/results/", name


def test_version_license_and_address_are_the_same_everywhere() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    citation = read_yaml("CITATION.cff")
    assert citation["version"] == tf.__version__
    assert citation["repository-code"] == project["urls"]["Repository"]
    assert citation["license"] == project["license"] == "MIT"
    assert (ROOT / "LICENSE").read_text("utf-8").startswith("MIT License")
    assert "CC-BY-4.0" in (ROOT / "LICENSE-text").read_text("utf-8")
    for path in [*DOCUMENTS, ROOT / "LICENSE-text"]:
        for address in re.findall(r"https://github\.com/reproducible-transformer[\w/-]*", path.read_text("utf-8")):
            assert address == project["urls"]["Repository"]


# --- notation -----------------------------------------------------------------------------------------------------


def as_cell(path: Path) -> nbformat.NotebookNode:
    cell = nbformat.v4.new_code_cell(path.read_text("utf-8"))
    return nbformat.v4.new_notebook(cells=[cell])


@pytest.mark.parametrize("path", sorted((ROOT / "tformerlib").rglob("*.py")), ids=lambda path: path.name)
def test_shapes_in_the_library_use_the_letters_of_the_table(path: Path) -> None:
    assert unknown(as_cell(path), load(ROOT / "data" / "notation.yml")) == []


def test_rows_of_the_notation_table_serve_a_chapter_that_exists() -> None:
    chapters = {path.stem for path in (ROOT / "chapters").rglob("*.py")}
    for row in load(ROOT / "data" / "notation.yml"):
        assert set(row.chapters) <= chapters, row.symbol
        assert row.chapters or row.kind == "shape", f"{row.symbol}: letters alone may be fixed in advance"


def test_the_league_bears_out_what_the_page_says_of_it() -> None:
    """The prose of side-by-side.md, beside the numbers that it is about."""
    record = json.loads((ROOT / "benchmarks" / "results" / "league.json").read_text("utf-8"))
    scores: dict[str, list[float]] = {}
    for row in record["scores"]:
        scores.setdefault(row["model"], []).append(row["accuracy"])
    mean = {model: sum(values) / len(values) for model, values in scores.items()}
    assert set(mean) == set(league.MODELS)
    assert set(sorted(mean, key=mean.__getitem__)[-2:]) == {"ConvMixer", "ResNet"}  # no attention at all
    hybrids = {name for name, (chapter, _) in league.MODELS.items() if chapter.startswith("conv_")}
    assert all(mean[name] > mean["ViT"] for name in hybrids)
    assert max(mean["Swin"], mean["Swin V2"]) < mean["ViT"]
    macs = {name: size["macs"] for name, size in record["sizes"].items()}
    assert set(sorted(macs, key=macs.__getitem__)[:4]) == {"PVT", "CMT", "CoAtNet", "UniFormer"}
    rate = {name: macs[name] * speed for name, speed in record["speed"]["images_per_second"].items()}
    assert all(1.7 < rate["ResNet"] / rate[name] < 2.3 for name in ("Swin", "CMT"))
    assert league.BUDGET.steps * league.BUDGET.batch_size <= 50_000  # each photograph once at most
