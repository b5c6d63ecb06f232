"""From a chapter's source to executed notebooks and recorded results, on a book of tiny chapters."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from book.tools import results
from book.tools.execute import ChapterError, Job, run, sidecar
from book.tools.keys import library_files
from book.tools.layout import Book
from book.tools.notebooks import convert, dumps, merge, normalise
from book.tools.plain import Citation, Context, plain_markdown
from book.tools.verify import SAME, differences

ROOT = Path(__file__).parents[2]
HEADER = "# ---\n# jupyter:\n#   jupytext: {text_representation: {extension: .py, format_name: percent}}\n# ---\n\n"
CHAPTER = (
    HEADER
    + """# %% [markdown]
# # Tiny

# %% tags=["parameters"]
profile = "quick"
seed = 0

# %%
from IPython.display import display
from tformerlib.IMPORTED import value

record = {"kind": "claim", "claim": "NAME.claim", "metrics": {"gain": [value + seed]}}
display({"application/vnd.tformerlib.v1+json": record, "text/plain": f"gain {value + seed}"}, raw=True)
"""
)

LEDGER = """\
- {id: one.claim, chapter: one, tolerance: {gain: 0.5}}
- {id: two.claim, chapter: two, tolerance: {gain: 0.5}}
"""


@pytest.fixture
def book(tmp_path):
    """Two chapters of one cell, importing `left` and `right`; `right` imports `shared`."""
    files = {
        "_toc.yml": "format: jb-book\nroot: index\nchapters:\n- file: chapters/p/one\n- file: chapters/p/two\n",
        "chapters/p/one.py": CHAPTER.replace("IMPORTED", "left").replace("NAME", "one"),
        "chapters/p/two.py": CHAPTER.replace("IMPORTED", "right").replace("NAME", "two"),
        "tformerlib/__init__.py": "",
        "tformerlib/left.py": "value = 1\n",
        "tformerlib/right.py": "from .shared import value\n",
        "tformerlib/shared.py": "value = 2\n",
        "constraints.txt": "",
        "data/claims.yml": LEDGER,
        "pyproject.toml": '[project]\nname = "tiny"\n[project.urls]\nRepository = "https://example.org/tiny"\n',
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return Book(tmp_path)


def edit(book: Book, name: str, old: str, new: str) -> None:
    path = book.root / name
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def keys(book: Book) -> list[str]:
    return [Job(book, name).key for name in book.chapters]


# --- content keys ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, old, new, changed",
    [
        ("chapters/p/one.py", "# # Tiny", "# # Tiny, with more prose", [False, False]),
        ("chapters/p/one.py", "gain {", "the gain {", [True, False]),
        ("tformerlib/left.py", "1", "3", [True, False]),
        ("tformerlib/shared.py", "2", "3", [False, True]),
        ("tformerlib/__init__.py", "", "import torch\n", [True, True]),
        ("constraints.txt", "", "torch==9\n", [True, True]),
        ("data/claims.yml", "one, tolerance: {gain: 0.5}", "one, tolerance: {gain: 1}", [True, False]),
        ("_toc.yml", "chapters/p/one\n", "chapters/p/one\n- file: other\n", [False, False]),
    ],
)
def test_a_key_changes_with_what_the_outputs_depend_on(book, name, old, new, changed):
    before = keys(book)
    edit(book, name, old, new)
    assert [a != b for a, b in zip(before, keys(book), strict=True)] == changed


def test_parameters_and_data_sets_are_part_of_the_key(book, monkeypatch, tmp_path):
    found = {Job(book, "one").key, Job(book, "one", seed=1).key, Job(book, "one", profile="full").key}
    (tmp_path / "sets/digits").mkdir(parents=True)
    (tmp_path / "sets/digits/train.parquet").write_bytes(b"12")
    monkeypatch.setenv("TFORMER_DATA", str(tmp_path / "sets"))
    assert len(found | {Job(book, "one").key}) == 4


def test_recorded_results_count_without_their_provenance(book):
    path = book.root / "data/results/one.json"
    row = {"claim": "one.claim", "profile": "quick", "seed": 3, "metrics": {"gain": [4]}, "provenance": {"date": "1"}}
    before, sweep, found = Job(book, "one").key, Job(book, "one", seed=1).key, []
    for changed in (row, row | {"provenance": {"date": "2"}}, row | {"metrics": {"gain": [5]}}):
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps([changed]))
        found.append(Job(book, "one").key)
    assert before != found[0] == found[1] != found[2]
    assert Job(book, "one", seed=1).key == sweep  # a sweep's own results do not make it run again


def test_a_chapter_depends_on_the_models_it_names():
    def models(code: str) -> set[str]:
        return {path.stem for path in library_files(ROOT, [code]) if path.parent.name == "models"} - {"__init__"}

    assert models("import tformerlib as tf") == set()
    assert "transformer" in models('import tformerlib as tf\ntf.create_model("transformer_base")')
    assert models('import tformerlib as tf\ntf.create_model("transformer_base")') < models("tf.list_models()")
    assert models('tf.list_models("transformer_b*")') == models('tf.create_model("transformer_base")')
    files = [str(path.relative_to(ROOT)) for path in library_files(ROOT, ["from tformerlib.layers.blocks import MLP"])]
    assert "tformerlib/attention/dot_product.py" in files and "tformerlib/show/__init__.py" not in files


# --- the runner -----------------------------------------------------------------------------------------------------


def test_a_chapter_runs_once_and_takes_new_prose_without_running(book):
    job = Job(book, "one")
    assert run(job) == "executed"
    first = job.output.read_text()
    assert run(job) == "cached" and job.output.read_text() == first
    edit(book, "chapters/p/one.py", "# # Tiny\n", "# # Tiny, with more prose\n\n# %% [markdown]\n# Another cell.\n")
    edit(book, "tformerlib/left.py", "value = 1", "value = 1")
    assert run(job) == "prose"
    cells = nbformat.read(job.output, as_version=4).cells
    assert [cell.id for cell in cells] == [f"one-{i:03d}" for i in range(4)] and "more prose" in cells[0].source
    assert cells[3].outputs[0]["data"]["text/plain"] == "gain 1" and run(job) == "cached"


def test_provenance_says_what_ran(book):
    job = Job(book, "two", seed=3)
    run(job)
    found = json.loads(sidecar(job.output).read_text())
    assert (found["chapter"], found["profile"], found["seed"], found["key"]) == ("two", "quick", 3, job.key)
    assert found["records"] == [{"kind": "claim", "claim": "two.claim", "metrics": {"gain": [5]}}]
    assert 20e6 < found["peak_memory"] < 4e9 and found["commit"] is None and re.match(r"20\d\d-", found["date"])


def test_a_failure_keeps_the_last_good_notebook(book):
    job = Job(book, "two")
    run(job)
    good = job.output.read_text(), sidecar(job.output).read_text()
    edit(book, "tformerlib/shared.py", "value = 2", "value = 1 / 0")
    with pytest.raises(ChapterError, match="ZeroDivisionError: division by zero"):
        run(job)
    assert (job.output.read_text(), sidecar(job.output).read_text()) == good
    failed = book.failed("two")
    assert "ZeroDivisionError" in failed.read_text()
    edit(book, "tformerlib/shared.py", "1 / 0", "7")
    assert run(job) == "executed" and not failed.exists()


def test_two_runs_side_by_side_do_not_share_sockets(book):
    """Two kernels of one working directory would otherwise both listen at kernel-ipc-1."""
    listing = 'import os\nprint("sockets:", [name for name in os.listdir() if "ipc" in name])\n'
    edit(book, "chapters/p/one.py", "record = {", listing + "record = {")
    job = Job(book, "one")
    run(job)
    assert "sockets: []" in job.output.read_text()


def test_a_dead_kernel_is_a_failure(book):
    edit(book, "tformerlib/left.py", "value = 1", "import os\nos._exit(9)")
    with pytest.raises(ChapterError, match="cell 2: the kernel died"):
        run(Job(book, "one"))


def test_what_was_tampered_with_runs_again_and_gives_the_same_bytes(book):
    job = Job(book, "one")
    run(job)
    good = job.output.read_text()
    assert "papermill" not in good
    job.output.write_text(good.replace("gain 1", "gain 9"))
    assert run(job) == "executed" and job.output.read_text() == good


def test_outputs_are_never_given_to_other_code(book):
    executed = normalise(convert(book.chapter("one"), "x"), "one")
    with pytest.raises(ValueError, match="other code cells"):
        merge(executed, convert(book.chapter("two"), "x"), "one")


def test_converting_twice_gives_the_same_bytes_and_fills_in_the_repository():
    notebooks = [convert(ROOT / "chapters/_template.py", "https://example.org/r") for _ in range(2)]
    assert dumps(notebooks[0]) == dumps(notebooks[1]) and "git+https://example.org/r" in dumps(notebooks[0])
    assert notebooks[0].cells[0].source.startswith("(chapter-template)=")


def test_an_unknown_chapter_is_refused(book):
    with pytest.raises(ValueError, match="no chapter 'three'; there are one, two"):
        book.chapter("three")
    edit(book, "_toc.yml", "p/two", "p/three")
    with pytest.raises(ValueError, match="chapters/p/three"):
        _ = Book(book.root).chapters


# --- results --------------------------------------------------------------------------------------------------------


def left_by_a_run(book: Book, seed: int, gain: float, date: str) -> None:
    record = {"kind": "claim", "claim": "one.claim", "metrics": {"gain": [gain]}}
    unreached = {"kind": "claim", "claim": "one.larger", "metrics": {"gain": []}}
    provenance = {"profile": "quick", "seed": seed, "date": date, "key": f"k{seed}", "records": [record, unreached]}
    path = sidecar(book.executed("one", seed=seed))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(provenance))


def test_results_are_collected_and_stay_what_they_were(book):
    left_by_a_run(book, seed=0, gain=1, date="Monday")
    left_by_a_run(book, seed=1, gain=2, date="Monday")
    rows = results.collect(book, "one")
    assert [(row["claim"], row["seed"], row["metrics"]["gain"]) for row in rows] == [
        ("one.claim", 0, [1]),
        ("one.claim", 1, [2]),
    ]
    assert rows[1]["provenance"] == {"key": "k1", "date": "Monday"}
    left_by_a_run(book, seed=0, gain=1, date="Tuesday")  # the same numbers again
    assert results.collect(book, "one") == rows == results.load(results.recorded(book, "one"))
    left_by_a_run(book, seed=0, gain=5, date="Tuesday")
    assert [(r["metrics"]["gain"], r["provenance"]["date"]) for r in results.collect(book, "one")] == [
        ([5], "Tuesday"),
        ([2], "Monday"),
    ]


def test_a_second_run_is_held_to_the_tolerance(book):
    row = {"claim": "one.claim", "profile": "quick", "seed": 0, "metrics": {"gain": [1.0, 2.0]}}
    near, far, fewer = ([row | {"metrics": {"gain": gain}}] for gain in ([1.4, 1.6], [1.4, 2.6], [1.0]))
    assert list(differences(book.ledger, near, [row], "the first run")) == []
    assert list(differences(book.ledger, near, [row | {"seed": 1}], "the first run")) == []
    assert "2.6" in next(differences(book.ledger, far, [row], "the first run"))
    assert list(differences(book.ledger, fewer, [row], "the first run"))


# --- whole programs -------------------------------------------------------------------------------------------------


def with_tools(book: Book) -> Path:
    """Puts the real tools and Snakefile into the tiny book."""
    shutil.copytree(ROOT / "book/tools", book.root / "book/tools", ignore=shutil.ignore_patterns("__pycache__"))
    (book.root / "book/__init__.py").touch()
    shutil.copy(ROOT / "Snakefile", book.root)
    return book.root


def snakemake(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "snakemake", "--quiet", "all", "--nolock", "--keep-going", *arguments]
    return subprocess.run(command, cwd=root, capture_output=True, text=True)


def test_a_sweep_survives_a_failing_chapter_and_names_it(book):
    root = with_tools(book)
    edit(book, "tformerlib/left.py", "1", "1 / 0")
    done = snakemake(root, "--cores", "2", "--config", "chapters=one,two")
    assert done.returncode != 0
    assert "chapter 1/2 one failed in cell 2: ZeroDivisionError" in done.stderr
    assert "1 of 2 chapters failed\n  build/failed/quick/one-s0.ipynb" in done.stderr
    assert book.executed("two").exists() and not book.executed("one").exists()
    edit(book, "tformerlib/left.py", "1 / 0", "4")
    done = snakemake(root, "--cores", "2", "--config", "chapters=one,two", "profile=quick")
    assert done.returncode == 0, done.stderr
    assert "chapter 1/2 one: executed" in done.stderr and "two" not in done.stderr
    assert results.load(results.recorded(book, "one"))[0]["metrics"] == {"gain": [4]}


def test_a_sweep_runs_on_a_cluster(book):
    """Snakemake's cluster-generic executor with a submitter that runs jobs here, one process each."""
    root = with_tools(book)
    submit = root / "submit.sh"
    submit.write_text('#!/bin/sh\necho "$1" >> submitted\nsh "$1" > /dev/null 2>&1\necho $$\n')
    submit.chmod(0o755)
    plugin = ["--executor", "cluster-generic", "--cluster-generic-submit-cmd", str(submit), "--jobs", "2"]
    done = snakemake(root, *plugin, "--seconds-between-status-checks", "1", "--config", "seeds=1", "chapters=two")
    assert done.returncode == 0, done.stderr
    assert len((root / "submitted").read_text().splitlines()) == 1
    assert results.load(results.recorded(book, "two"))[0]["metrics"] == {"gain": [2]}


def test_verify_compares_outputs_here_and_metrics_elsewhere(book):
    machine = dict.fromkeys(SAME, "cpu")
    edit(book, "tformerlib/__init__.py", "", f"machine = {machine}\n")
    (book.root / "tformerlib/run").mkdir()
    (book.root / "tformerlib/run/__init__.py").touch()
    (book.root / "tformerlib/run/profiles.py").write_text(
        "from .. import machine\ndef environment(*_): return machine\n"
    )
    for name, machine in (("one", "machine"), ("two", "machine | {'isa': 'another'}")):
        source = f'from tformerlib import machine\ndata = {{"kind": "run", **({machine})}}\n'
        show = 'display({"application/vnd.tformerlib.v1+json": data, "text/plain": ""}, raw=True)\n'
        edit(book, f"chapters/p/{name}.py", "\nrecord", f"\n{source}{show}\nrecord")
        run(Job(book, name))
        output = str(book.executed(name).relative_to(book.root))
        edit(book, output, f"gain {1 + (name == 'two')}", "gain 1.4")
    env = {**os.environ, "PYTHONPATH": str(with_tools(book))}
    command = [sys.executable, "-m", "book.tools.verify"]
    done = subprocess.run(command, cwd=book.root, env=env, capture_output=True, text=True)
    assert "comparing every output: one-s0" in done.stdout and "comparing metrics: two-s0" in done.stdout
    assert done.returncode == 1 and "second run: 1 problems" in done.stdout
    assert "gain 1.4" in done.stdout and "differences or errors, above (one-s0)" in done.stderr


# --- plain notebooks ------------------------------------------------------------------------------------------------

CITED = {"a2017": Citation("Ash et al.", "2017", "On A", "https://a"), "b2015": Citation("Birch", "2015", "On B", "")}


@pytest.mark.parametrize(
    "myst, markdown",
    [
        ("See {cite:t}`a2017`.", "See Ash et al. (2017)."),
        ("It is so {cite:p}`a2017,b2015`.", "It is so (Ash et al., 2017; Birch, 2015)."),
        ("{glue:text}`gain` points, {glue:text}`other`", "12.5 points, …"),
        ("(label)=\n## Heading", "## Heading"),
        ("As {ref}`why` says, and {ref}`the\nother part <why>`.", "As Why so says, and the other part."),
        ("[](#why) and [text](other.md), [out](https://x.md)", "Why so and text, [out](https://x.md)"),
        ("$$ a = b $$ (sum)", "$$ a = b $$"),
        ("```{math}\n:label: sum\na = b\n```", "$$\na = b\n$$"),
        (":::{admonition} By {cite:t}`b2015`\n:class: tip\nA.\n\nB.\n:::", "> **By Birch (2015)**\n>\n> A.\n>\n> B."),
        ("```{exercise} Twice\n:label: twice\nDo it.\n```", "**Exercise: Twice**\n\nDo it."),
        ("```{solution-start} twice\n:class: dropdown\n```", "**Solution: Twice**"),
        ("```{solution-end}\n```", ""),
        ("```python\nx = '{cite:t}`no`'\n```", "```python\nx = '{cite:t}`no`'\n```"),
        ("::::{note}\n:::{tip} Inner\nText\n:::\n::::", "> **Note**\n>\n> > **Inner**\n> >\n> > Text"),
    ],
)
def test_myst_becomes_markdown(myst, markdown):
    assert plain_markdown(myst, Context(CITED, {"gain": "12.5"}, {"why": "Why so", "twice": "Twice"})) == markdown


def test_an_unknown_citation_is_refused():
    with pytest.raises(KeyError, match="c1999"):
        plain_markdown("{cite:t}`c1999`", Context(CITED))


# --- comparisons ------------------------------------------------------------------------------------------------------


def test_comparisons_are_collected_and_measured_anew_only_where_they_differ(book: Book) -> None:
    row = {"chapter": "one", "task": "digits", "model": "ViT", "seed": 0, "profile": "quick", "accuracy": 90.0}

    def ran(accuracy: float, speed: float, commit: str) -> list[dict]:
        record = {"kind": "comparison", **row, "accuracy": accuracy, "images_per_second": speed}
        claim = {"kind": "claim", "claim": "one.claim", "metrics": {"gain": [1]}}
        path = book.build / "executed" / "quick" / "one-s0.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"profile": "quick", "seed": 0, "commit": commit, "records": [claim, record]}))
        return results.collect_comparisons(book, "one")

    first = {**row, "images_per_second": 100.0, "provenance": {"commit": "a"}}
    assert ran(90.0, 100.0, "a") == [first]
    assert ran(90.0, 130.0, "b") == [first]  # only the speed differs, as it always does
    assert ran(91.0, 130.0, "c")[0] == {
        **first,
        "accuracy": 91.0,
        "images_per_second": 130.0,
        "provenance": {"commit": "c"},
    }
    assert json.loads((book.root / "data/results/comparisons/one.json").read_text())[0]["accuracy"] == 91.0


def test_a_chapter_that_shows_comparisons_depends_on_them(book: Book) -> None:
    edit(book, "chapters/p/one.py", "record = ", "# compare.recorded\nrecord = ")
    before = keys(book)
    path = book.root / "data" / "results" / "comparisons" / "two.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps([{"model": "ViT", "provenance": {}}]))
    after = keys(book)
    assert before[0] != after[0] and before[1] == after[1]


def test_a_chapter_that_reads_recorded_benchmarks_depends_on_them(book: Book) -> None:
    edit(book, "chapters/p/one.py", "record = ", '# home / "benchmarks" / "results"\nrecord = ')
    before = keys(book)
    path = book.root / "benchmarks" / "results" / "card.json"
    path.parent.mkdir(parents=True)
    path.write_text("{}")
    after = keys(book)
    assert before[0] != after[0] and before[1] == after[1]


# --- checkpoints ------------------------------------------------------------------------------------------------------


def test_a_larger_run_that_was_cut_off_goes_on_from_its_checkpoints_and_a_good_one_leaves_none(book: Book) -> None:
    half = "import os, pathlib\nat = pathlib.Path(os.environ['TFORMER_CHECKPOINTS']) / 'half'\n"
    half += "if not at.exists():\n    at.parent.mkdir(parents=True)\n    at.touch()\n    raise RuntimeError('killed')\n"
    edit(book, "chapters/p/one.py", "from IPython", half + "from IPython")
    job = Job(book, "one", profile="full")
    with pytest.raises(ChapterError, match="killed"):
        run(job)
    kept = job.checkpoints
    assert kept and (kept / "half").exists()
    assert run(job) == "executed"
    assert not kept.parent.exists()
    assert Job(book, "two").checkpoints is None  # quick


def test_checkpoints_of_another_content_are_not_taken_up(book: Book) -> None:
    before = Job(book, "one", profile="full").checkpoints
    edit(book, "tformerlib/left.py", "1", "3")
    assert Job(book, "one", profile="full").checkpoints != before
