"""Content keys: what a chapter's outputs depend on. Equal key, equal outputs; so nothing else makes it run again.

A key covers the code cells (not the prose), the parameters, the files of tformerlib that the code reaches by import,
the pinned packages, and the data sets in TFORMER_DATA. For the run on the website it also covers the ledger's rows and
the recorded results of the chapter, which its verdict cards show; where its code calls `compare.recorded`, the models
that all chapters have compared; and where it reads recorded benchmarks, those.
"""

import ast
import fnmatch
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nbformat import NotebookNode

from .layout import Book

LIBRARY = "tformerlib"
SHOWN = {"profile": "quick", "seed": 0}  # the run on the website


def content_key(book: Book, notebook: NotebookNode, name: str, parameters: dict[str, Any]) -> str:
    """The key of a chapter (its notebook without outputs) run with some parameters: 64 hexadecimal digits."""
    code = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    shown = parameters == SHOWN
    recorded = book.root / "data" / "results" / f"{name}.json"
    results = json.loads(recorded.read_text(encoding="utf-8")) if shown and recorded.exists() else []
    parts = {
        "code": code,
        "parameters": parameters,
        "library": {str(path.relative_to(book.root)): _sha256(path) for path in library_files(book.root, code)},
        "ledger": [row for row in book.ledger if shown and row["chapter"] == name],
        # without their provenance: a sweep that finds the same numbers again changes nothing
        "recorded": [[row["claim"], row["profile"], row["seed"], row["metrics"]] for row in results],
        "comparisons": _comparisons(book.root) if shown and any("compare.recorded" in cell for cell in code) else [],
        "benchmarks": _benchmarks(book.root) if any('"benchmarks"' in cell for cell in code) else {},
        "constraints": _sha256(book.root / "constraints.txt"),
        "data": sorted(_data_sets()),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _comparisons(root: Path) -> list[dict[str, Any]]:
    """What all chapters recorded of the models that they compared, without provenance: figures show it."""
    files = sorted((root / "data" / "results" / "comparisons").glob("*.json"))
    rows = [row for path in files for row in json.loads(path.read_text(encoding="utf-8"))]
    return [{key: value for key, value in row.items() if key != "provenance"} for row in rows]


def _benchmarks(root: Path) -> dict[str, str]:
    """Digests of the times that benchmarks have recorded."""
    return {path.name: _sha256(path) for path in sorted((root / "benchmarks" / "results").glob("*.json"))}


def library_files(root: Path, code: list[str]) -> list[Path]:
    """The library's files that some code depends on: by import, directly or through other files, and by name.

    `create_model("transformer_base")` imports no model by name, so a string that is a registered name counts as an
    import of the file that registers it; so does a pattern that matches one, as `list_models("vit_*")` takes it.
    """
    registered = dict(_registered(root / LIBRARY))
    trees = [tree for cell in code if (tree := _parse(cell))]
    waiting = {path for tree in trees for path in (*_imports(tree, root, root), *_named(tree, registered))}
    found: set[Path] = set()
    while waiting:
        path = waiting.pop()
        found.add(path)
        published = root / LIBRARY / "published" / path.name  # load_published imports the file of the model's name
        extra = {published} if path.parent.name == "models" and published.exists() else set()
        waiting |= {*_imports(ast.parse(path.read_text(encoding="utf-8")), root, path.parent), *extra} - found
    packages = {path.parent for path in found if path.name == "__init__.py"}
    data = {file for folder in packages for file in folder.iterdir() if file.is_file() and file.suffix != ".py"}
    return sorted(found | data)


def _parse(cell: str) -> ast.Module | None:
    try:
        return ast.parse(cell)
    except SyntaxError:  # it imports nothing, and running it will say why
        return None


def _imports(tree: ast.AST, root: Path, folder: Path) -> Iterator[Path]:
    """The library's files that a file in `folder` imports anywhere, with the packages that they lie in."""
    for node in ast.walk(tree):
        modules: list[str] = []
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = folder.relative_to(root).parts[: len(folder.relative_to(root).parts) - node.level + 1]
            base = ".".join((*(above if node.level else ()), *([node.module] if node.module else [])))
            modules = [base, *(f"{base}.{alias.name}" for alias in node.names)]
        for module in modules:
            if module.split(".")[0] == LIBRARY:
                yield from _files(root, module)


def _files(root: Path, module: str) -> Iterator[Path]:
    """The file of a module and the __init__ of every package above it; names that are no module give only those."""
    path = root
    for part in module.split("."):
        path /= part
        for file in (path / "__init__.py", path.with_suffix(".py")):
            if file.exists():
                yield file


def _registered(library: Path) -> Iterator[tuple[str, Path]]:
    """Names of the registered models, with their files."""
    for path in sorted((library / "models").glob("*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef) and any("register" in ast.unparse(d) for d in node.decorator_list):
                yield node.name, path


def _named(tree: ast.AST, registered: dict[str, Path]) -> Iterator[Path]:
    """The files of registered models that the code's strings name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " not in node.value:
            yield from (registered[name] for name in fnmatch.filter(registered, node.value))
        elif isinstance(node, ast.Call) and not node.args and ast.unparse(node.func).endswith("list_models"):
            yield from registered.values()


def _data_sets() -> Iterator[str]:
    """Names and sizes of the files in TFORMER_DATA; their hashes are checked when a chapter loads them."""
    if folder := os.environ.get("TFORMER_DATA"):
        for path in Path(folder).rglob("*.parquet"):
            yield f"{path.relative_to(folder)} {path.stat().st_size}"


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
