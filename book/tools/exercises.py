"""Exercises: one source, a page with folded solutions, a notebook to work in without them, and a solved one.

A chapter writes, in its prose, an exercise, what the reader begins with, hints, and a solution with code cells between:

    ```{exercise} How far does a stage see?
    :label: swin-reach
    :minutes: 10
    ...
    ```

    ```{stub} swin-reach
    def farthest(blocks: int) -> int:
        raise NotImplementedError
    ```

    ```{admonition} Hint
    :class: dropdown
    ...
    ```

    ```{solution-start} swin-reach
    :class: dropdown
    ```
    (cells; one of them calls tf.check("swin-reach", farthest))
    ```{solution-end}
    ```
"""

import copy
import importlib
import re
from collections.abc import Iterator

from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell

STUB = re.compile(r"^```\{stub\}\s*(?P<label>\S+)\n(?P<code>.*?)^```[ \t]*$", re.MULTILINE | re.DOTALL)
EFFORT = re.compile(r"^:(?:minutes|difficulty):.*\n", re.MULTILINE)  # no options of sphinx-exercise
START = re.compile(r"^```\{solution-start\}\s*(?P<label>\S+)\n(?:.*\n)*?```[ \t]*$", re.MULTILINE)
END = re.compile(r"^```\{solution-end\}\n```[ \t]*$", re.MULTILINE)
CHECK = re.compile(r'^tf\.check\("(?P<label>[^"]+)",.*\)\s*$', re.MULTILINE)


class ExerciseError(ValueError):
    """An exercise whose parts do not fit together; the message names it."""


def for_page(text: str, checks: dict[str, str]) -> str:
    """Prose for the site: a stub becomes a block of code, with what its check was tested against.

    Args:
        checks: by an exercise's name, a sentence about its check; see `tested`.
    """

    def block(match: re.Match[str]) -> str:
        said = checks.get(match["label"], "")
        return f"```python\n{match['code']}```\n" + (f"\n*{said}*\n" if said else "")

    return STUB.sub(block, EFFORT.sub("", text))


def tested(names: list[str]) -> dict[str, str]:
    """For each exercise with a check, how many planted wrong answers it rejects: they are run now, not remembered.

    Raises:
        ExerciseError: a check that accepts a wrong answer or rejects a right one.
    """
    from tformerlib.exercises import NotYet, check, known

    said = {}
    for name in names:
        exercise = known()[name]
        module = importlib.import_module(f"tests.exercises.{exercise.chapter}")
        for why, answer in module.WRONG[name].items():
            try:
                check(name, answer)
            except (NotYet, NotImplementedError):
                continue
            raise ExerciseError(f"the check of {name} accepts a wrong answer: {why}")
        for answer in module.RIGHT[name]:
            check(name, answer)
        n = len(module.WRONG[name])
        said[name] = f"The check rejects {n} of {n} planted wrong answers and accepts a second right one."
    return said


def stubs(notebook: NotebookNode) -> dict[str, str]:
    """The code that a reader begins with, by the exercise's label."""
    prose = [cell.source for cell in notebook.cells if cell.cell_type == "markdown"]
    return {match["label"]: match["code"].strip() for text in prose for match in STUB.finditer(text)}


def work(notebook: NotebookNode) -> NotebookNode:
    """A copy to work in: stubs and checks as code cells, hints as they are, and no solution anywhere.

    Raises:
        ExerciseError: a solution that does not end, or a stub whose solution never calls its check.
    """
    made = copy.deepcopy(notebook)
    code = [cell.source for cell in made.cells if cell.cell_type == "code"]
    checks = {m["label"]: m[0].strip() for source in code for m in CHECK.finditer(source)}
    cells: list[NotebookNode] = []
    inside: str | None = None
    for cell in made.cells:
        if cell.cell_type != "markdown":
            if inside is None:
                cells.append(cell)
            continue
        for kind, label, text in _parts(cell.source):
            if kind == "start":
                inside = label
                cells.append(new_markdown_cell("*The solution is in the solved notebook and, folded, on the page.*"))
            elif kind == "end":
                inside = None
            elif inside is not None:
                continue
            elif kind == "stub":
                if label not in checks:
                    raise ExerciseError(f'the solution of {label} never calls tf.check("{label}", ...)')
                cells += [new_code_cell(text), new_code_cell(checks[label])]
            elif text.strip():
                cells.append(new_markdown_cell(text.strip(), metadata=copy.deepcopy(cell.metadata)))
    if inside is not None:
        raise ExerciseError(f"the solution of {inside} does not end")
    for i, cell in enumerate(cells):
        cell.id = f"{notebook.cells[0].id.rpartition('-')[0]}-work-{i:03d}"
    made.cells = cells
    return made


def _parts(text: str) -> Iterator[tuple[str, str, str]]:
    """A cell's prose cut at stubs and at the ends of solutions: (kind, label, text)."""
    at = 0
    marks = sorted(
        [("stub", m) for m in STUB.finditer(text)]
        + [("start", m) for m in START.finditer(text)]
        + [("end", m) for m in END.finditer(text)],
        key=lambda pair: pair[1].start(),
    )
    for kind, match in marks:
        yield "prose", "", text[at : match.start()]
        label = match["label"] if kind != "end" else ""
        yield kind, label, match["code"].strip() if kind == "stub" else ""
        at = match.end()
    yield "prose", "", text[at:]
