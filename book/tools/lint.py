"""What every chapter has to keep to: `python -m book.tools.lint [chapter ...]`, by default all and the template.

Each rule is a function of a chapter that yields what is wrong and in which cell.
"""

import ast
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import click
from nbformat import NotebookNode

from . import notation, verdicts
from .layout import Book
from .notebooks import PLACEHOLDER, convert, defaults, tags

TEMPLATE = "_template"
LONGEST_CELL = 40  # lines of code
EXERCISES = 5
WITHOUT_ALT = {
    "quiz",
    "glue",
    "table",
    "parity",
    "picture",
    "expect",
    "writing_widget",
}  # of tformerlib.show: no figures
EXERCISE = re.compile(r"^```\{exercise\}\s*(?P<title>.*)\n:label:\s*(?P<label>\S+)$", re.MULTILINE)
SOLUTION = re.compile(r"^```\{solution-start\}\s*(?P<label>\S+)\n(?P<options>(?::.*\n)*)", re.MULTILINE)
CITED = re.compile(r"\{cite(?::\w+)?\}`([^`]+)`")
NOT_PROSE = re.compile(r"^(`{3,})\w*\n.*?^\1$|\$\$.+?\$\$|\$[^$]+\$|`[^`]+`|\]\([^)]*\)|^:[\w-]+:.*$", re.DOTALL | re.M)
MEASURED = re.compile(r"(?<![\w.])\d+(?:\.\d+|(?:\.\d+)?\s?%)")


@dataclass(frozen=True)
class Chapter:
    """A chapter as the rules see it; cells are numbered as in its notebook."""

    book: Book
    name: str

    @property
    def path(self) -> Path:
        return self.book.chapter(self.name)

    @cached_property
    def notebook(self) -> NotebookNode:
        return convert(self.path, PLACEHOLDER)

    @property
    def cells(self) -> list[tuple[int, NotebookNode]]:
        return list(enumerate(self.notebook.cells))

    @cached_property
    def code(self) -> list[tuple[int, ast.Module]]:
        """Code cells that parse."""
        return [(i, tree) for i, cell in self.cells if cell.cell_type == "code" and (tree := _parse(cell.source))]

    @property
    def prose(self) -> list[tuple[int, str]]:
        return [(i, cell.source) for i, cell in self.cells if cell.cell_type == "markdown"]

    def calls(self) -> Iterator[tuple[int, str, ast.Call]]:
        """Every call, with its cell and its name as written: `show.lines`."""
        for i, tree in self.code:
            for node in ast.walk(tree):
                if isinstance(node, ast.Call):
                    yield i, ast.unparse(node.func), node

    def line(self, cell: int) -> int:
        """The source line at which a cell begins."""
        text = self.path.read_text(encoding="utf-8").splitlines()
        return [i for i, line in enumerate(text, 1) if line.startswith("# %%")][cell]


Problems = Iterator[tuple[int, str]]  # (cell, what is wrong)


def lint(book: Book, name: str) -> list[str]:
    """Everything that is wrong with a chapter, as "file:line: what"."""
    chapter = Chapter(book, name)
    found = sorted({problem for rule in RULES for problem in rule(chapter)})
    return [f"{chapter.path.relative_to(book.root)}:{chapter.line(cell)}: {what}" for cell, what in found]


def python(chapter: Chapter) -> Problems:
    """Cells are Python: no magics, no shell; and a reader can take them in at once."""
    for i, cell in chapter.cells:
        if cell.cell_type != "code":
            continue
        if _parse(cell.source) is None:
            yield i, "not plain Python (magics and shell commands do not run in the .py file)"
        if (lines := len(cell.source.splitlines())) > LONGEST_CELL:
            yield i, f"{lines} lines of code in one cell; at most {LONGEST_CELL}"


def parameters(chapter: Chapter) -> Problems:
    """One cell tagged `parameters` with profile "quick" and seed 0, checked by tf.parameters right after it."""
    tagged = [i for i, cell in chapter.cells if "parameters" in tags(cell)]
    if len(tagged) != 1:
        yield 0, f"{len(tagged)} cells are tagged `parameters`; one has to be"
    elif (found := defaults(chapter.notebook)) != {"profile": "quick", "seed": 0}:
        yield tagged[0], f'the parameters are {found}; they have to be profile = "quick" and seed = 0'
    elif not any(
        name == "tf.parameters" and i > tagged[0] and ast.unparse(call).endswith("(profile=profile, seed=seed)")
        for i, name, call in chapter.calls()
    ):
        yield tagged[0], "no cell after the parameters calls tf.parameters(profile=profile, seed=seed)"


def bootstrap(chapter: Chapter) -> Problems:
    """The bootstrap cell is the template's."""
    own = [(i, cell.source) for i, cell in chapter.cells if "bootstrap" in tags(cell)]
    template = Chapter(chapter.book, TEMPLATE)
    wanted = [cell.source for _, cell in template.cells if "bootstrap" in tags(cell)]
    if [source for _, source in own] != wanted:
        yield own[0][0] if own else 0, f"the bootstrap cell differs from that of {template.path.name}"


def figures(chapter: Chapter) -> Problems:
    """Figures go through tformerlib.show, with a description for those who do not see them."""
    for i, name, call in chapter.calls():
        module, _, function = name.rpartition(".")
        if module == "show" and function not in WITHOUT_ALT:
            alt = next((keyword.value for keyword in call.keywords if keyword.arg == "alt"), None)
            if alt is None or (isinstance(alt, ast.Constant) and not str(alt.value).strip()):
                yield i, f"{name} has no alt text"
        elif function == "show":
            yield i, f"{name}() shows a figure without alt text; use tformerlib.show"


def exercises(chapter: Chapter) -> Problems:
    """Five exercises or more, one of them with a bug to find, each with a hidden solution that runs."""
    text = dict(chapter.prose)
    asked = {m["label"]: (i, m["title"]) for i, source in text.items() for m in EXERCISE.finditer(source)}
    solved = {m["label"]: (i, m["options"]) for i, source in text.items() for m in SOLUTION.finditer(source)}
    last = max(text, default=0)
    if len(asked) < EXERCISES:
        yield last, f"{len(asked)} exercises; at least {EXERCISES}"
    if asked and not any("break" in title.lower() for _, title in asked.values()):
        yield last, 'no exercise asks to break something: one needs "Break" in its title'
    for label, (i, title) in asked.items():
        if label not in solved:
            yield i, f"exercise {label!r} ({title}) has no solution"
    for label, (i, options) in solved.items():
        if label not in asked:
            yield i, f"solution of {label!r}, which is no exercise here"
        if ":class: dropdown" not in options:
            yield i, f"solution of {label!r} is not hidden; it needs `:class: dropdown`"
        end = next((j for j, source in text.items() if j >= i and "{solution-end}" in source.split(label)[-1]), None)
        if end is None or not any(i < j < end for j, _ in chapter.code):
            yield i, f"solution of {label!r} has no code cell before its solution-end"


def claims(chapter: Chapter) -> Problems:
    """Each of the ledger's claims for this chapter is reported once, and nothing else is."""
    rows = {row["id"] for row in chapter.book.ledger if row["chapter"] == chapter.name}
    reported: dict[str, int] = {}
    for i, name, call in chapter.calls():
        if name != "claims.report":
            continue
        id = call.args[0].value if call.args and isinstance(call.args[0], ast.Constant) else None
        if not isinstance(id, str):
            yield i, "claims.report needs the claim's id as a plain string"
        elif id not in rows:
            yield i, f"data/claims has no claim {id!r} for the chapter {chapter.name}"
        elif id in reported:
            yield i, f"the claim {id!r} is reported twice"
        else:
            reported[id] = i
    for id in sorted(rows - set(reported)):
        yield 0, f"the claim {id!r} is never reported"


def typed_numbers(chapter: Chapter) -> Problems:
    """Where a section measures something (glues a value or reports a claim), its prose types no measured number.

    A number with a decimal point or a percent sign counts as measured, unless its sentence cites where it is from.
    Settings are written as code or as math, and values of the run with {glue:text}.
    """
    measuring = {i for i, name, _ in chapter.calls() if name in ("show.glue", "claims.report")}
    section: list[tuple[int, str]] = []
    measured = False
    for i, cell in [*chapter.cells, (-1, None)]:
        parts = [""] if cell is None else re.split(r"^(?=## )", cell.source, flags=re.M)
        if cell is None or cell.cell_type == "markdown":
            for start, part in enumerate(parts):
                if start or part.startswith("## ") or cell is None:
                    yield from (p for j, text in section if measured for p in _typed(j, text))
                    section, measured = [], False
                section.append((i, part))
        else:
            measured |= i in measuring


def _typed(cell: int, text: str) -> Problems:
    for sentence in re.split(r"(?<=[.:;?!])\s+|\n\n", text):
        if not CITED.search(sentence):
            for match in MEASURED.finditer(NOT_PROSE.sub(" ", sentence)):
                yield cell, f"{match[0]!r} is typed in a section that measures; glue it, or cite where it is from"


def symbols(chapter: Chapter) -> Problems:
    """Every symbol is in the notation table."""
    rows = notation.load(chapter.book.root / "data" / "notation.yml")
    for i, cell in chapter.cells:
        if cell.cell_type == "markdown" or _parse(cell.source):
            for missing in notation.unknown(NotebookNode(cells=[cell]), rows):
                yield i, f"data/notation.yml lacks a symbol: {missing}"


def citations(chapter: Chapter) -> Problems:
    """Every cited key is in the bibliography."""
    from pybtex.database import parse_file

    known = parse_file(str(chapter.book.root / "book" / "references.bib")).entries
    for i, source in chapter.prose:
        for key in (key.strip() for keys in CITED.findall(source) for key in keys.split(",")):
            if key not in known:
                yield i, f"book/references.bib has no entry {key!r}"


def sentences(chapter: Chapter) -> Problems:
    """Verdicts in prose are roles, and where a sentence depends on one, every state has its sentence."""
    for i, text in chapter.prose:
        for words in verdicts.typed(text):
            yield i, f"{words!r} is typed; write {{verdict}}`<claim>` or a `when` block"
        for id, states in verdicts.left_out(text):
            yield i, f"when {id}: no block for {', '.join(states)}"


RULES: list[Callable[[Chapter], Problems]] = [
    python,
    parameters,
    bootstrap,
    figures,
    exercises,
    claims,
    typed_numbers,
    sentences,
    symbols,
    citations,
]


def _parse(source: str) -> ast.Module | None:
    try:
        return ast.parse(source)
    except SyntaxError:
        return None


@click.command()
@click.argument("names", nargs=-1)
def main(names: tuple[str, ...]) -> None:
    """Says what is wrong with chapters; exits with 1 if anything is."""
    book = Book()
    problems = [problem for name in names or (*book.chapters, TEMPLATE) for problem in lint(book, name)]
    click.echo("\n".join(problems), nl=bool(problems))
    sys.exit(bool(problems))


if __name__ == "__main__":
    main()
