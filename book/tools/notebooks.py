"""Chapters as notebooks: converted with stable cell ids, freed of what differs from run to run, given new prose.

`python -m book.tools.notebooks` writes build/notebooks/<chapter>.ipynb, to open or to give to papermill.
`python -m book.tools.notebooks --executed` writes build/plain/<chapter>.ipynb, with outputs, as published for Colab.
"""

import ast
import copy
from pathlib import Path
from typing import Any

import click
import nbformat
from nbformat import NotebookNode

from .layout import Book, atomic_write

MIME = "application/vnd.tformerlib.v1+json"  # as tformerlib.run.records has it; importing that would import torch
PLACEHOLDER = "{repository}"  # in the bootstrap cell; the address itself is in pyproject.toml only
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}
LANGUAGE = {"name": "python", "file_extension": ".py", "mimetype": "text/x-python", "pygments_lexer": "ipython3"}


def convert(chapter: Path, repository: str) -> NotebookNode:
    """A chapter's source as a notebook without outputs."""
    import jupytext

    notebook = jupytext.read(chapter, fmt="py:percent")
    notebook.metadata = NotebookNode(kernelspec=KERNEL, language_info=LANGUAGE)
    for cell in notebook.cells:
        if "bootstrap" in tags(cell):
            cell.source = cell.source.replace(PLACEHOLDER, repository)
    while not _speaks_to_readers(notebook.cells[0]):
        del notebook.cells[0]
    return number(notebook, chapter.stem)


def number(notebook: NotebookNode, name: str) -> NotebookNode:
    """Gives cells the ids name-000, name-001, ... Jupytext draws random ones, which no two runs share."""
    for i, cell in enumerate(notebook.cells):
        cell.id = f"{name}-{i:03d}"
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    return notebook


def tags(cell: NotebookNode) -> list[str]:
    return list(cell.metadata.get("tags", []))


def defaults(notebook: NotebookNode) -> dict[str, Any]:
    """What the parameters cell sets."""
    code = "\n".join(cell.source for cell in notebook.cells if "parameters" in tags(cell))
    assigned = [node for node in ast.parse(code).body if isinstance(node, ast.Assign)]
    return {ast.unparse(node.targets[0]): ast.literal_eval(node.value) for node in assigned}


def normalise(notebook: NotebookNode, name: str) -> NotebookNode:
    """A copy without papermill's times and paths, random ids and widget state: equal runs give equal bytes."""
    notebook = copy.deepcopy(notebook)
    notebook.metadata = NotebookNode(kernelspec=KERNEL, language_info=LANGUAGE)
    for cell in notebook.cells:
        cell.metadata = NotebookNode({k: v for k, v in cell.metadata.items() if k not in ("papermill", "execution")})
    return number(notebook, name)


def merge(executed: NotebookNode, source: NotebookNode, name: str) -> NotebookNode:
    """The source's prose and metadata with the outputs of a run of the same code.

    Raises:
        ValueError: the code cells differ, so the outputs would not be theirs.
    """
    ran = [cell for cell in executed.cells if cell.cell_type == "code"]
    merged = copy.deepcopy(source)
    merged.metadata = copy.deepcopy(executed.metadata)
    cells: list[NotebookNode] = []
    for cell in merged.cells:
        cells.append(cell)
        if cell.cell_type != "code":
            continue
        if not ran or ran[0].source != cell.source:
            raise ValueError(f"{name}: the executed notebook has other code cells than the chapter; execute it again")
        run = ran.pop(0)
        cell.outputs, cell.execution_count = run.outputs, run.execution_count
        if ran and "injected-parameters" in tags(ran[0]):
            cells.append(ran.pop(0))
    merged.cells = cells
    return number(merged, name)


def dumps(notebook: NotebookNode) -> str:
    """The notebook as text, keys sorted."""
    return str(nbformat.writes(notebook)) + "\n"


def records(notebook: NotebookNode) -> list[dict[str, Any]]:
    """What a run left for machines: the payloads of tformerlib's MIME type, in order."""
    bundles = [output.get("data", {}) for cell in notebook.cells for output in cell.get("outputs", [])]
    return [dict(bundle[MIME]) for bundle in bundles if MIME in bundle]


def _speaks_to_readers(cell: NotebookNode) -> bool:
    """Comments between the header and the first cell become a code cell, a header jupytext cannot read a raw one."""
    notes = all(line.startswith("#") or not line for line in cell.source.splitlines())
    return cell.cell_type == "markdown" or (cell.cell_type == "code" and (bool(tags(cell)) or not notes))


@click.command()
@click.argument("names", nargs=-1)
@click.option("--executed", is_flag=True, help="Write executed notebooks to build/plain.")
def main(names: tuple[str, ...], executed: bool) -> None:
    """Writes notebooks in plain Markdown, which Jupyter and Colab show as it is meant."""
    from .plain import citations, plain

    book = Book()
    cited = citations(book.root / "book" / "references.bib")
    folder = book.build / ("plain" if executed else "notebooks")
    for name in names or book.chapters:
        notebook = convert(book.chapter(name), book.repository)
        if executed:
            notebook = merge(nbformat.read(book.executed(name), as_version=4), notebook, name)
        atomic_write(folder / f"{name}.ipynb", dumps(plain(notebook, cited)))
        click.echo(f"{folder.relative_to(book.root)}/{name}.ipynb")


if __name__ == "__main__":
    main()
