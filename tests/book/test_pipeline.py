"""From a chapter's source to executed notebooks and recorded results, on a book of tiny chapters."""

import datetime
import hashlib
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from book.tools import results
from book.tools.execute import ChapterError, Job, run, sidecar
from book.tools.layout import Book
from book.tools.notebooks import convert, dumps, merge, normalise
from book.tools.plain import Citation, Context, plain_markdown
from book.tools.verify import SAME, differences, of_the_week, spread
from tests.book.tiny import ROOT, commit, edit, make, snakemake, with_tools

# --- content keys ---------------------------------------------------------------------------------------------------

IMPORTS = {"one": ["tformerlib/__init__.py", "tformerlib/left.py"]}
IMPORTS["two"] = ["tformerlib/__init__.py", "tformerlib/right.py", "tformerlib/shared.py"]


def keys(book: Book) -> list[str]:
    return [Job(book, name).key(IMPORTS[name]) for name in book.chapters]


@pytest.mark.parametrize(
    "name, old, new, changed",
    [
        ("chapters/p/one.py", "# # Tiny", "# # Tiny, with more prose", [False, False]),
        ("chapters/p/one.py", "gain {", "the gain {", [True, False]),
        ("tformerlib/left.py", "1", "3", [True, False]),
        ("tformerlib/shared.py", "2", "3", [False, True]),
        ("tformerlib/__init__.py", "", "import torch\n", [True, True]),
        ("constraints.txt", "", "torch==9\n", [True, True]),
        ("data/claims/one.yml", "gain > 0", "gain > 1", [False, False]),
        ("_toc.yml", "chapters/p/one\n", "chapters/p/one\n- file: other\n", [False, False]),
    ],
)
def test_a_key_changes_with_what_the_outputs_depend_on(book, name, old, new, changed):
    before = keys(book)
    edit(book, name, old, new)
    assert [a != b for a, b in zip(before, keys(book), strict=True)] == changed


def test_parameters_and_data_sets_are_part_of_the_key(book, monkeypatch, tmp_path):
    jobs = Job(book, "one"), Job(book, "one", seed=1), Job(book, "one", profile="full")
    found = {job.key(IMPORTS["one"]) for job in jobs}
    (tmp_path / "sets/digits").mkdir(parents=True)
    (tmp_path / "sets/digits/train.parquet").write_bytes(b"12")
    monkeypatch.setenv("TFORMER_DATA", str(tmp_path / "sets"))
    assert len(found | {Job(book, "one").key(IMPORTS["one"])}) == 4


def test_recorded_results_are_not_part_of_the_key(book):
    before = keys(book)
    (book.root / "data/results").mkdir()
    (book.root / "data/results/one.jsonl").write_text("{}\n")
    assert keys(book) == before


def test_data_beside_an_imported_module_counts(book):
    before = keys(book)
    (book.root / "tformerlib/sets.toml").write_text("a = 1\n")
    assert [a != b for a, b in zip(before, keys(book), strict=True)] == [True, True]


def test_a_library_file_that_is_gone_is_a_change(book):
    before = keys(book)
    (book.root / "tformerlib/left.py").unlink()
    assert [a != b for a, b in zip(before, keys(book), strict=True)] == [True, False]


def lazy_models(book: Book) -> None:
    """A registry that imports the one module which has a name, a palette, and a chapter that only says the name."""
    files = {
        "models/__init__.py": "",
        "models/coatnet.py": "value = 1\n",
        "models/swin.py": "value = 2\n",
        "show/__init__.py": "from . import palette\n",
        "show/palette.py": "BLUE = '#00f'\n",
        "registry.py": "import importlib\nWHERE = {'coatnet_0_224': 'coatnet', 'swin_tiny': 'swin'}\n"
        "def create_model(name):\n    return importlib.import_module(f'tformerlib.models.{WHERE[name]}').value\n",
    }
    for name, text in files.items():
        (book.root / "tformerlib" / name).parent.mkdir(exist_ok=True)
        (book.root / "tformerlib" / name).write_text(text)
    named = "from tformerlib import show\nfrom tformerlib.registry import create_model\n"
    named += "value = create_model('coatnet_0_224')"
    edit(book, "chapters/p/one.py", "from tformerlib.left import value", named)


@pytest.mark.parametrize(
    "name, old, new, did",
    [
        ("tformerlib/models/coatnet.py", "1", "3", "executed"),  # named in a string alone
        ("tformerlib/registry.py", "WHERE =", "WHERE = WHERE =", "executed"),
        ("tformerlib/models/swin.py", "2", "3", "cached"),
        ("tformerlib/left.py", "1", "3", "cached"),
        ("tformerlib/show/palette.py", "#00f", "#00e", "cached"),
        ("tformerlib/show/__init__.py", "from", "\nfrom", "executed"),
        ("chapters/p/one.py", "# # Tiny", "# # Tiny, with more prose", "prose"),
    ],
)
def test_a_chapter_runs_again_if_a_file_was_edited_that_it_imported(book, name, old, new, did):
    lazy_models(book)
    assert run(Job(book, "one")) == "executed" and run(Job(book, "one")) == "cached"
    edit(book, name, old, new)
    assert run(Job(book, "one")) == did and run(Job(book, "one")) == "cached"


def test_a_file_that_is_edited_while_a_chapter_runs_makes_it_run_again(book):
    """Which version it imported nobody knows."""
    late = "import pathlib\nfile = pathlib.Path('tformerlib/left.py')\n"
    late += "file.write_text('value = 1  # as before\\n')\nrecord ="
    edit(book, "chapters/p/one.py", "record =", late)
    job = Job(book, "one")
    run(job)
    assert json.loads(sidecar(job.output).read_text())["changed"] == ["tformerlib/left.py"]
    assert run(job) == "executed" and run(job) == "cached"


def test_a_library_from_elsewhere_is_refused(book, tmp_path_factory):
    """Its files are not those that the key covers."""
    other = tmp_path_factory.mktemp("other")
    shutil.copytree(book.root / "tformerlib", other / "tformerlib")
    edit(book, "chapters/p/one.py", "from IPython", f"import sys\nsys.path.insert(0, {str(other)!r})\nfrom IPython")
    with pytest.raises(ChapterError, match="at its end: tformerlib was not .* but came from .*other"):
        run(Job(book, "one"))


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
    assert cells[3].outputs[1]["data"]["text/plain"] == "gain 1" and run(job) == "cached"


def test_provenance_says_what_ran(book):
    job = Job(book, "two", seed=3)
    run(job)
    found = json.loads(sidecar(job.output).read_text())
    assert (found["chapter"], found["profile"], found["seed"], found["key"]) == (
        "two",
        "quick",
        3,
        job.key(IMPORTS["two"]),
    )
    assert found["records"] == [{"kind": "claim", "claim": "two.claim", "metrics": {"gain": 5}}]
    assert found["imported"] == IMPORTS["two"] and found["changed"] == [] and found["started"] <= found["date"]
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


def test_a_temporary_folder_with_too_long_a_path_is_named(book, monkeypatch, tmp_path):
    """A kernel's sockets lie there, and their paths have an end."""
    long = tmp_path / ("x" * 100)
    long.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(long))
    with pytest.raises(
        ChapterError, match=f"^at its start: {long} is too long .* set TMPDIR to a folder of at most 80"
    ):
        run(Job(book, "one"))


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


def test_converters_know_a_notebook_s_language(book):
    """nbconvert --to script writes .txt where there is no file_extension."""
    job = Job(book, "one")
    run(job)
    for notebook in (job.source, nbformat.read(job.output, as_version=4)):
        assert notebook.metadata.language_info["file_extension"] == ".py"


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


# --- whole programs -------------------------------------------------------------------------------------------------


def test_a_build_survives_a_failing_chapter_and_names_it(book):
    root = with_tools(book)
    edit(book, "tformerlib/left.py", "1", "1 / 0")
    done = snakemake(root, "--cores", "2", "--config", "chapters=one,two")
    assert done.returncode != 0
    assert "chapter 1/2 one failed in cell 2: ZeroDivisionError" in done.stderr
    assert "1 of 2 runs failed\n  build/failed/quick/one-s0.ipynb" in done.stderr
    assert book.executed("two").exists() and not book.executed("one").exists()
    edit(book, "tformerlib/left.py", "1 / 0", "4")
    done = snakemake(root, "--cores", "2", "--config", "chapters=one,two")
    assert done.returncode == 0, done.stderr
    assert "chapter 1/2 one: executed" in done.stderr and "chapter 2/2 two: unchanged" in done.stderr
    assert snakemake(root, "--cores", "2", "--config", "chapters=one,two").stderr == ""


@pytest.mark.parametrize("damage", [lambda text: text.replace("gain 1", "gain 9"), lambda text: text[:300]])
def test_a_damaged_notebook_is_made_again(book, damage):
    root = with_tools(book)
    snakemake(root, "--cores", "1", "--config", "chapters=one")
    good = book.executed("one").read_text()
    book.executed("one").write_text(damage(good))
    done = snakemake(root, "--cores", "1", "--config", "chapters=one")
    assert "one: executed" in done.stderr and book.executed("one").read_text() == good


def test_a_clone_may_lie_in_a_path_with_spaces_and_quotes(tmp_path):
    """With the interpreter in it, as .venv is."""
    (tmp_path / "it's a folder").mkdir()
    book = make(tmp_path / "it's a folder")
    root = with_tools(book)
    (root / ".venv").symlink_to(Path(sys.executable).parents[1])
    commit(book)
    for config in (["chapters=one"], ["chapters=one", "seeds=10..10"]):
        done = snakemake(root, "--cores", "1", "--config", *config, python=str(root / ".venv/bin/python"))
        assert done.returncode == 0 and "executed" in done.stderr, done.stderr


def test_verify_compares_outputs_here_and_metrics_elsewhere(book):
    """One chapter ran on this machine, and one on another; both then print what no first run printed."""
    machine = dict.fromkeys(SAME, "cpu") | {"threads": 1}
    edit(book, "tformerlib/__init__.py", "", f"machine = {machine}\n")
    (book.root / "tformerlib/run").mkdir()
    (book.root / "tformerlib/run/profiles.py").write_text(
        "from .. import machine\ndef environment(device, threads): return machine | {'threads': threads}\n"
    )
    with_tools(book)
    for name, facts in (("one", machine), ("two", machine | {"isa": "another"})):
        text = re.sub("facts = .*", f"facts = {{'kind': 'run', **{facts}}}", book.chapter(name).read_text())
        book.chapter(name).write_text(text)
        run(Job(book, name))
    edit(book, "tformerlib/shared.py", "2", "2.1")
    command = [sys.executable, "-m", "book.tools.verify"]
    done = subprocess.run([*command, "one"], cwd=book.root, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.endswith("second run: equal\n"), done.stdout + done.stderr
    output = book.executed("one").read_text()
    book.executed("one").write_text(output.replace("gain 1", "gain 1.4"))
    sidecar(book.executed("one")).write_text(_sealed_again(book, "one"))
    program = "from book.tools.verify import *; print(*verify(Book(), ['one', 'two']), sep='\\n')"
    done = subprocess.run([sys.executable, "-c", program], cwd=book.root, capture_output=True, text=True)
    assert "comparing every output: one-s0" in done.stdout and "comparing metrics: two-s0" in done.stdout
    assert "gain 1.4" in done.stdout and "differences or errors, above (one-s0)" in done.stdout
    assert "two.claim" not in done.stdout  # 2.1 for 2 is within a tenth
    edit(book, "tformerlib/shared.py", "2.1", "2.3")
    done = subprocess.run([sys.executable, "-c", program], cwd=book.root, capture_output=True, text=True)
    assert "two.claim: gain is 2.3, in the first run 2; it may differ by 0.2" in done.stdout


def _sealed_again(book, name: str) -> str:
    provenance = json.loads(sidecar(book.executed(name)).read_text())
    digest = hashlib.sha256(book.executed(name).read_bytes()).hexdigest()
    return json.dumps(provenance | {"output_sha256": digest})


def test_metrics_of_a_second_run_may_differ_as_the_records_do():
    before = {"one.claim": {"gain": 10.0}}

    def problems(gain: float, spread: dict, exact: bool = False) -> list[str]:
        return list(differences(before, {"one.claim": {"gain": gain}}, spread, exact))

    assert problems(10.0, {}, exact=True) == [] and problems(10.0 + 1e-9, {}, exact=True)
    assert problems(10.9, {}) == [] and problems(11.1, {})
    known = {"one.claim": {"gain": 0.2}}
    assert problems(10.7, known) == [] and "may differ by 0.8" in problems(10.9, known)[0]
    assert problems(10.0, {"one.claim": {"gain": 0.0}}) == []
    assert problems(float("nan"), known) and problems(float("nan"), {}, exact=True)
    assert list(differences(before, {}, known, False)) == ["one.claim: the second run does not report it"]


def test_spread_is_within_seeds_where_they_ran_on_several_instruction_sets():
    def line(seed: int, isa: str, gain: float, profile: str = "quick") -> dict:
        return {"profile": profile, "seed": seed, "isa": isa, "claims": {"one.claim": {"gain": gain}}}

    seeds = [line(seed, "AVX2", gain) for seed, gain in ((10, 1.0), (11, 3.0), (12, 5.0))]
    assert spread(seeds, "quick") == {"one.claim": {"gain": 2.0}}
    assert spread(seeds[:2], "quick") == spread(seeds, "colab") == {}
    repeats = [line(10, "AVX512", 3.0), line(11, "AVX512", 3.0)]  # variances 2 and 0
    assert spread(seeds + repeats, "quick")["one.claim"]["gain"] == pytest.approx(1.0)
    again = line(10, "AVX512", 1.0)  # supersedes
    assert spread([*seeds, *repeats, again], "quick")["one.claim"]["gain"] == 0.0


def test_every_chapter_has_its_week():
    names = ["a", "b", "c", "d", "e"]
    monday = datetime.date(2026, 11, 30)
    days = [of_the_week(names, 2, monday + datetime.timedelta(days=i)) for i in range(7)]
    assert all(day == days[0] for day in days) and len(days[0]) == 2
    weeks = [of_the_week(names, 2, monday + datetime.timedelta(weeks=i)) for i in range(5)]
    assert sorted(name for week in weeks for name in week) == sorted(names * 2)
    assert of_the_week(["a"], 2, monday) == ["a"]


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

    def ran(accuracy: float, speed: float, at: str) -> list[dict]:
        record = {"kind": "comparison", **row, "accuracy": accuracy, "images_per_second": speed}
        claim = {"kind": "claim", "claim": "one.claim", "metrics": {"gain": [1]}}
        path = book.build / "executed" / "quick" / "one-s0.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"profile": "quick", "seed": 0, "commit": at, "records": [claim, record]}))
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
