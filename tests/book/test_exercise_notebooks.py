"""One source of exercises: the page folds solutions, the notebook to work in has none, and its stubs raise."""

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from book.tools import exercises
from book.tools.exercises import ExerciseError, for_page, stubs, work

ASKED = """## Exercises

```{exercise} Weights
:label: attention-weights
:minutes: 5
Write them.
```

```{stub} attention-weights
def weights(q, k):
    raise NotImplementedError
```

```{admonition} Hint
:class: dropdown
Divide.
```

```{solution-start} attention-weights
:class: dropdown
```

Divide by the root.
"""
ENDED = """```{solution-end}
```

```{exercise} With a pencil
:label: pencil
Prove it.
```

```{solution-start} pencil
:class: dropdown
```

The secret.

```{solution-end}
```

## Further reading
"""
SOLVED = "def weights(q, k):\n    return (q @ k.mT / q.shape[-1] ** 0.5).softmax(-1)\n\n\n"
CALLED = 'tf.check("attention-weights", weights)'


def notebook(*cells):
    made = new_notebook(cells=list(cells))
    for i, cell in enumerate(made.cells):
        cell.id = f"x-{i:03d}"
    return made


def chapter():
    return notebook(
        new_code_cell("import tformerlib as tf"), new_markdown_cell(ASKED), new_code_cell(SOLVED + CALLED),
        new_markdown_cell(ENDED),
    )  # fmt: skip


def test_the_notebook_to_work_in_has_stubs_checks_hints_and_no_solution():
    made = work(chapter())
    nbformat.validate(made)
    everything = "\n".join(cell.source for cell in made.cells)
    assert "softmax" not in everything and "Divide by the root" not in everything and "The secret" not in everything
    assert "{solution-" not in everything and "{stub}" not in everything
    code = [cell.source for cell in made.cells if cell.cell_type == "code"]
    assert code == ["import tformerlib as tf", "def weights(q, k):\n    raise NotImplementedError", CALLED]
    for kept in ("Divide.", "Prove it.", "## Further reading", "Write them."):
        assert kept in everything


def test_a_stub_raises_until_it_is_written():
    scope: dict[str, object] = {}
    with pytest.raises(NotImplementedError):
        for cell in work(chapter()).cells:
            if cell.cell_type == "code":
                exec(cell.source, scope)


def test_the_page_shows_the_stub_and_what_its_check_was_tested_against():
    said = exercises.tested(list(stubs(chapter())))
    text = for_page(ASKED, said)
    assert "```python\ndef weights(q, k):\n    raise NotImplementedError\n```" in text
    assert "rejects 8 of 8 planted wrong answers" in text and ":minutes:" not in text


def test_a_stub_without_check_and_a_solution_without_end_are_refused():
    with pytest.raises(ExerciseError, match="the solution of attention-weights never calls"):
        work(notebook(new_markdown_cell(ASKED), new_code_cell(SOLVED), new_markdown_cell(ENDED)))
    with pytest.raises(ExerciseError, match="the solution of attention-weights does not end"):
        work(notebook(new_markdown_cell(ASKED), new_code_cell(SOLVED + CALLED)))


def test_a_check_that_accepts_a_wrong_answer_stops_the_build(monkeypatch):
    from tests.exercises import attention

    monkeypatch.setitem(attention.WRONG["attention-weights"], "right", attention.in_steps)
    with pytest.raises(ExerciseError, match="accepts a wrong answer: right"):
        exercises.tested(["attention-weights"])
