"""The notation table, data/notation.yml, and what a chapter uses that is not in it.

A shape is recognised by its form: a tuple in backticks, in a comment or in a docstring, such as `(B, H, N, D)`, whose
single capital letters are symbols. A formula stands between dollars; its letters and Greek letters are symbols, with
sub- and superscripts left out, for which index stands there does not matter.
"""

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path

import yaml
from nbformat import NotebookNode

KINDS = ("shape", "math", "code")
INDICES = "ijlnst"  # in a subscript one of these is as good as another
GREEK = re.compile(
    "(?:var)?(?:alpha|beta|gamma|delta|epsilon|zeta|eta|theta|iota|kappa|lambda|mu|nu|xi|pi|rho|sigma|tau|upsilon|phi|"
    "chi|psi|omega|Gamma|Delta|Theta|Lambda|Xi|Pi|Sigma|Upsilon|Phi|Psi|Omega)|ell"
)
SHAPE = re.compile(r"\((?:[\w*/+<= -]+,)+(?:[\w*/+<= -]+)?\)")
FORMULA = re.compile(r"\$\$(.+?)\$\$|(?<![\\$])\$([^$\n]+(?:\n[^$\n]+)*?)\$", re.DOTALL)
WORDS = re.compile(
    r"\\(?:text|textbf|textit|texttt|mathrm|mathsf|operatorname\*?|mbox|label|begin|end|tag)\s*\{[^{}]*\}"
)
SCRIPT = re.compile(r"[_^]\s*(?:\{[^{}]*\}|\\[A-Za-z]+|[^\s\\{}])")
SYMBOL = re.compile(r"\\([A-Za-z]+)|([A-Za-z])")
FENCED = re.compile(r"^(`{3,}|~{3,}).*?^\1", re.MULTILINE | re.DOTALL)


class NotationError(ValueError):
    """A row that conflicts with another, or a symbol that has no row; the message names it."""


@dataclass(frozen=True)
class Symbol:
    """A row of the table."""

    group: str  # heading on the notation page
    kind: str
    symbol: str
    meaning: str
    chapters: list[str]
    unlike: str = ""  # the other meaning, where a letter is a size in shapes and a matrix in formulas


def load(path: Path) -> list[Symbol]:
    """The table's rows.

    Raises:
        NotationError: a malformed row, or a symbol with two meanings.
    """
    names = {field.name for field in fields(Symbol)}
    rows = []
    for row in yaml.safe_load(path.read_text("utf-8")):
        if not names - {"unlike"} <= set(row) <= names:
            raise NotationError(f"{path.name}: {row} does not have the fields {', '.join(sorted(names))}")
        if row["kind"] not in KINDS:
            raise NotationError(
                f"{path.name}: kind {row['kind']!r} of {row['symbol']!r} is not one of {', '.join(KINDS)}"
            )
        rows.append(Symbol(**row))
    _refuse_conflicts(rows)
    return rows


def unknown(notebook: NotebookNode, rows: list[Symbol]) -> list[str]:
    """What a chapter writes without a row for it, as "shape (B, Z): Z" or "formula z = x: z"."""
    shapes = {row.symbol for row in rows if row.kind == "shape"}
    formulas = [row.symbol for row in rows if row.kind == "math"]
    indices = [script[1:] for formula in formulas for script in SCRIPT.findall(formula)]
    # a shape's letter is a size in formulas too, and an index may stand alone
    known = shapes | set(INDICES) | {base for formula in [*formulas, *indices] for base in _bases(formula)}
    found = []
    for cell in notebook.cells:
        for text, letters in _shapes(cell):
            found += [f"shape {text}: {letter}" for letter in letters if letter not in shapes]
        if cell.cell_type == "markdown":
            for formula in _formulas(cell.source):
                found += [f"formula {formula}: {base}" for base in _bases(formula) if base not in known]
    return list(dict.fromkeys(found))


def _refuse_conflicts(rows: list[Symbol]) -> None:
    seen: dict[tuple[str, str], Symbol] = {}
    for row in rows:
        key = row.kind, re.sub(r"_(?:\{[^{}]*\}|.)", lambda m: re.sub(f"[{INDICES}]", "i", m[0]), row.symbol)
        if key in seen:
            raise NotationError(f"{row.symbol!r} has two meanings: {seen[key].meaning!r} and {row.meaning!r}")
        seen[key] = row
    for row in rows:
        other = seen.get(("math", row.symbol)) if row.kind == "shape" else None
        if other is not None and not (row.unlike and other.unlike):
            raise NotationError(f"{row.symbol!r} is a shape and stands in formulas: say so in both rows with `unlike`")


def _bases(formula: str) -> list[str]:
    """Letters and Greek letters of a formula, without words and scripts."""
    bare = WORDS.sub(" ", formula)
    while (less := SCRIPT.sub(" ", bare)) != bare:
        bare = less
    found = [match[1] or match[2] for match in SYMBOL.finditer(bare)]
    return [name for name in dict.fromkeys(found) if len(name) == 1 or GREEK.fullmatch(name)]


def _formulas(markdown: str) -> Iterator[str]:
    prose = re.sub(r"`[^`\n]+`", " ", FENCED.sub(_keep_directives, markdown))
    for match in FORMULA.finditer(prose):
        yield (match[1] or match[2]).strip()


def _keep_directives(match: re.Match[str]) -> str:
    """Exercises and the like are fenced too, and hold formulas; code is not kept."""
    return match[0].strip("`~") if re.match(r"[`~]+\{", match[0]) else ""


def _shapes(cell: NotebookNode) -> Iterator[tuple[str, list[str]]]:
    texts = re.findall(r"`([^`\n]+)`", cell.source) if cell.cell_type == "markdown" else list(_remarks(cell.source))
    for text in texts:
        for match in SHAPE.finditer(text):
            letters = [part.strip() for part in match[0].strip("()").split(",")]
            yield match[0], [letter for letter in letters if re.fullmatch("[A-Z]", letter)]


def _remarks(code: str) -> Iterator[str]:
    """Comments and docstrings."""
    for token in tokenize.generate_tokens(io.StringIO(code).readline):
        if token.type == tokenize.COMMENT:
            yield token.string
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Module | ast.FunctionDef | ast.ClassDef) and (doc := ast.get_docstring(node)):
            yield doc
