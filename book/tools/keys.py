"""Content keys: what a chapter's outputs depend on. Equal key, equal outputs; so nothing else makes it run again.

A key covers the code cells (not the prose), the parameters, the files of tformerlib that the run really imported, the
pinned packages, and the data sets in TFORMER_DATA; where the code calls `compare.recorded`, the models that all
chapters have compared; and where it reads recorded benchmarks, those.

Which files a run imports only its kernel knows: a name given to create_model, a profile, a loop over a registry decide
it. So the kernel is asked when a run ends, and the answer is kept with what the run leaves. The next lookup hashes
those files as they are then: editing one that was imported executes the chapter again, editing another does not, and a
file that is imported anew gets in through the change of the one that imports it.

Not in the key, though imported: `tformerlib/claims`, for verdicts come from the records whenever the site is built and
never enter a measured number; and `tformerlib/show/palette.py`, for a colour changes no result. Figures in executed
notebooks keep their old colours until their chapter is executed for another reason, or by `--force`.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from nbformat import NotebookNode

from .layout import Book

LIBRARY = "tformerlib"
SHOWN = {"profile": "quick", "seed": 0}  # the run on the website
NOT_IN_KEY = (f"{LIBRARY}/claims", f"{LIBRARY}/show/palette.py")
DATA_OF = {f"{LIBRARY}/peers/golden.py": "data/golden"}  # files that a module reads, beside those of its package


def basis(book: Book, notebook: NotebookNode, name: str, parameters: dict[str, Any]) -> dict[str, Any]:
    """What the outputs of a chapter (its notebook without outputs) depend on beside the library, as of now.

    Recorded comparisons count for the run on the website alone: its figures show them, and they enter no number.
    """
    code = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    shown = parameters == SHOWN and any("compare.recorded" in cell for cell in code)
    return {
        "chapter": name,
        "code": code,
        "parameters": parameters,
        "comparisons": _comparisons(book.root) if shown else [],
        "benchmarks": _benchmarks(book.root) if any('"benchmarks"' in cell for cell in code) else {},
        "constraints": _sha256(book.root / "constraints.txt"),
        "data": sorted(data_sets()),
    }


def content_key(basis: dict[str, Any], library: dict[str, str]) -> str:
    """The key of a run with this basis and these digests of the library's files: 64 hexadecimal digits."""
    return hashlib.sha256(json.dumps({**basis, "library": library}, sort_keys=True).encode()).hexdigest()


def digests(root: Path, imported: Iterable[str]) -> dict[str, str]:
    """Digests of the library's files that a key covers, and of the data that lies in their packages.

    `imported`: Python files relative to the root. One that is gone has a digest too, which equals no other.
    """
    files = {name for name in imported if not name.startswith(NOT_IN_KEY)}
    packages = {(root / name).parent for name in files if name.endswith("/__init__.py")}
    folders = packages | {root / DATA_OF[name] for name in files & DATA_OF.keys()}
    data = {
        str(path.relative_to(root))
        for folder in filter(Path.exists, folders)
        for path in folder.iterdir()
        if path.is_file() and not path.name.endswith((".py", ".pyc", ".unfinished"))
    }
    return {name: _sha256(root / name) for name in sorted(files | data)}


def whole_library(root: Path) -> list[str]:
    """Every Python file of the library, relative to the root: all that a run could import."""
    return sorted(str(path.relative_to(root)) for path in (root / LIBRARY).rglob("*.py"))


def _comparisons(root: Path) -> list[dict[str, Any]]:
    """What all chapters recorded of the models that they compared, without provenance: figures show it."""
    files = sorted((root / "data" / "results" / "comparisons").glob("*.json"))
    rows = [row for path in files for row in json.loads(path.read_text(encoding="utf-8"))]
    return [{key: value for key, value in row.items() if key != "provenance"} for row in rows]


def _benchmarks(root: Path) -> dict[str, str]:
    """Digests of the times that benchmarks have recorded."""
    return {path.name: _sha256(path) for path in sorted((root / "benchmarks" / "results").glob("*.json"))}


def data_sets() -> Iterator[str]:
    """Names and sizes of the files in TFORMER_DATA; their hashes are checked when a chapter loads them."""
    if folder := os.environ.get("TFORMER_DATA"):
        for path in Path(folder).rglob("*.parquet"):
            yield f"{path.relative_to(folder)} {path.stat().st_size}"


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else "gone"
