"""Chapters keep to the rules, the rules can find what breaks them, and the template runs."""

import subprocess
import sys
from pathlib import Path

import pytest

from book.tools.layout import Book
from book.tools.lint import TEMPLATE, lint
from book.tools.notebooks import convert, dumps
from book.tools.plain import citations, plain

ROOT = Path(__file__).parents[2]
BOOK = Book()
SOURCE = BOOK.chapter(TEMPLATE).read_text()
ALT = next(line.strip(" ,") for line in SOURCE.splitlines() if line.startswith('    alt="Attention weights'))


def test_the_template_keeps_to_the_rules():
    assert lint(BOOK, TEMPLATE) == []


def test_chapters_keep_to_the_rules():
    assert [problem for name in BOOK.chapters for problem in lint(BOOK, name)] == []


@pytest.fixture
def broken(tmp_path):
    """Lints the template after an edit, in a book of its own."""
    for name in ("data", "book/references.bib", "_toc.yml"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "chapters/part").mkdir(parents=True)
    (tmp_path / "chapters/_template.py").write_text(SOURCE)

    def lint_after(old: str, new: str) -> list[str]:
        assert old in SOURCE, old
        path = tmp_path / "chapters/_template.py"
        if old.startswith("import importlib"):  # the template itself cannot differ from the template
            path = tmp_path / "chapters/part/attention.py"
        path.write_text(SOURCE.replace(old, new, 1))
        return lint(Book(tmp_path), path.stem)

    return lint_after


@pytest.mark.parametrize(
    "old, new, problem",
    [
        ("query, keys = torch.randn", "%time\n    query, keys = torch.randn", "not plain Python"),
        ("e = torch.e", "e = torch.e" + "\nx = 1" * 40, "lines of code in one cell; at most 40"),
        ('# %% tags=["parameters"]', "# %%", "0 cells are tagged `parameters`"),
        ("seed = 0\n", "seed = 1\n", "the parameters are {'profile': 'quick', 'seed': 1}"),
        ("tf.parameters(profile=profile, seed=seed)", 'tf.parameters(profile="quick", seed=0)', "no cell after the"),
        ("import importlib.util", "import importlib.util as u", "bootstrap cell differs"),
        ('    alt="Two curves', '    alternative="Two curves', "show.lines has no alt text"),
        (ALT, 'alt=""', "show.explore has no alt text"),
        ('print("weights:"', 'plt.show()\nprint("weights:"', "plt.show() shows a figure without alt text"),
        ("# ```{exercise} A shift\n# :label: template-shift", "# A shift", "4 exercises; at least 5"),
        ("# ```{exercise} A shift\n# :label: template-shift", "# A shift", "solution of 'template-shift', which is no"),
        ("{exercise} Break it", "{exercise} Repair it", "no exercise asks to break something"),
        (
            "# ```{solution-start} template-two-entries\n# :class: dropdown",
            "# ```{solution-start} template-two-entries",
            "is not hidden",
        ),
        ("{solution-start} template-uniform", "{solution-start} template-even", "'template-uniform' (Uniform entries)"),
        ('claims.report("template.scores-spread"', 'claims.report("template.scores-sprawl"', "has no claim"),
        ('claims.report("template.scores-spread"', 'dict("template.scores-spread"', "is never reported"),
        ("# verdict above is about them only.", "# verdict above is 0.5 for them.", None),
        ("the head became surer by being wider.", "the head became 47 % surer.", "'47 %' is typed"),
        ("the head became surer by being wider.", "the head became surer by 0.25.", "'0.25' is typed"),
        ("the head became surer by being wider.", "as {cite:t}`vaswani2017` have with 28.4 BLEU.", None),
        ("the head became surer by being wider.", "with a rate of `0.1` and $p = 0.1$.", None),
        ("Take $q = (1, 1)$", "Take $\\Xi = (1, 1)$", "lacks a symbol: formula \\Xi"),
        ("Section 3.2.1 of {cite:t}`vaswani2017`", "{cite:t}`vaswani2071`", "has no entry 'vaswani2071'"),
    ],
)
def test_each_rule_finds_what_breaks_it(broken, old, new, problem):
    problems = broken(old, new)
    if problem is None:
        assert problems == []
    else:
        assert any(problem in found for found in problems), problems
        file, line, _ = problems[0].split(":", 2)
        assert file.endswith(".py") and line.isdigit()


def test_a_solution_has_to_run(broken):
    code = SOURCE.partition("# %%\nrow = torch.randn(6)")[2].partition("\n\n")[0]
    problems = broken("# %%\nrow = torch.randn(6)" + code, "# %% [markdown]\n# It stays.")
    assert ["solution of 'template-shift' has no code cell" in problem for problem in problems] == [True]


def test_papermill_runs_the_plain_template(tmp_path):
    notebook = plain(convert(BOOK.chapter(TEMPLATE), BOOK.repository), citations(ROOT / "book/references.bib"))
    given, out = tmp_path / "in.ipynb", tmp_path / "out.ipynb"
    given.write_text(dumps(notebook))
    command = [sys.executable, "-m", "papermill", str(given), str(out), "--no-progress-bar"]
    subprocess.run([*command, "-p", "seed", "1", "-p", "profile", "quick"], cwd=ROOT, check=True, capture_output=True)
    assert "profile quick, seed 1" in out.read_text()
