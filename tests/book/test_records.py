"""Recorded runs: what is written is whole and can be traced, and what cannot be traced is refused by name."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from book.tools import execute, history, layout, results, sweep
from book.tools.execute import ChapterError, Job, run
from book.tools.layout import Book
from book.tools.results import Journal, collect, recorded
from book.tools.stamps import Stamps, seeds_of
from tests.book.tiny import ROOT, commit, edit, git, snakemake, with_tools
from tformerlib.claims.ledger import load_ledger
from tformerlib.run import reproduce
from tformerlib.run import results as schema
from tformerlib.run.results import RecordError, checked, dumps, in_force, read, sealed, unsealed

LINE: dict[str, Any] = {
    "run": "20261201T072859Z-one-quick-s10-0a1b2c",
    "chapter": "one",
    "profile": "quick",
    "seed": 10,
    "started": "2026-12-01T07:28:59+00:00",
    "date": "2026-12-01T07:30:00+00:00",
    "ended": "finished",
    "claims": {"one.claim": {"gain": 1.5}},
    "commit": "0" * 40,
    "key": "1" * 64,
    "torch": "2.13.0",
    "device": "cpu: x86_64",
    "threads": 1,
    "isa": "AVX2",
    "python": "3.12.1",
    "seconds": 61.0,
    "peak_memory": 10**9,
    "imported": ["tformerlib/__init__.py"],
}
STOPPED: Any = {"ended": "killed", "claims": {}, **dict.fromkeys(schema.MACHINE)}


# --- lines ----------------------------------------------------------------------------------------------------------


def test_tools_and_library_share_the_judging_seeds():
    assert layout.JUDGING == schema.JUDGING


def test_a_line_is_what_it_was(tmp_path):
    line = {**LINE, "claims": {"one.claim": {"gain": 0.1 + 0.2, "tokens": 3}}, "device": "cpu: ü\u2028"}
    path = tmp_path / "one.jsonl"
    results.append(path, line)
    results.append(path, {**LINE, **STOPPED, "run": LINE["run"][:-1] + "d"})
    assert read(path)[0] == line and [line["ended"] for line in read(path)] == ["finished", "killed"]
    assert list(json.loads(path.read_text().split("\n")[1])) == sorted(LINE)  # keys sorted
    assert read(tmp_path / "two.jsonl") == []


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"seed": 0, "run": LINE["run"].replace("s10", "s0")}, "seed 0 does not judge; seeds 10 to 29 do"),
        ({"seed": 9, "run": LINE["run"].replace("s10", "s9")}, "seed 9 does not judge"),
        ({"seed": 100, "run": LINE["run"].replace("s10", "s100")}, "seed 100 does not judge"),
        ({"seed": 11}, "its id is not that of 20261201T072859Z-one-quick-s11-0a1b2c"),
        ({"seed": True}, "seed=True is not a whole number"),
        ({"chapter": "two"}, "its id is not that of"),
        ({"started": "2026-12-01T07:28:58+00:00"}, "its id is not that of"),
        ({"started": "2026-12-01T09:28:59+02:00", "date": "2026-12-01T07:28:00+00:00"}, "before it started"),
        ({"started": "yesterday"}, "Invalid isoformat"),
        ({"date": "2026-12-01T07:30:00"}, "offset-naive"),
        ({"claims": {"one.claim": {"gain": float("nan")}}}, "one.claim: gain=nan is not a finite number"),
        ({"claims": {"one.claim": {"gain": float("inf")}}}, "gain=inf"),
        ({"claims": {"one.claim": {"gain": [1.0]}}}, r"gain=\[1.0\]"),
        ({"claims": {"one.claim": {"gain": True}}}, "gain=True"),
        ({"claims": {"one.claim": {}}}, "one.claim has no metrics"),
        ({"claims": []}, "does not give metrics by claim"),
        ({"commit": None}, "commit=None is not 40"),
        ({"commit": "0" * 12}, "is not 40 hexadecimal digits"),
        ({"commit": "0" * 39 + "+"}, "is not 40 hexadecimal digits"),
        ({"key": "1" * 63}, "is not 64 hexadecimal digits"),
        ({"profile": "tiny"}, "profile='tiny' is not one of quick, colab, full"),
        ({"ended": "well"}, "ended='well' is not one of finished, failed, killed"),
        ({"ended": "killed"}, "it did not finish, and yet has metrics of one.claim"),
        ({"error": "in cell 2"}, "ended='finished' with error='in cell 2'"),
        (STOPPED | {"ended": "failed"}, "ended='failed' with error=None"),
        ({"isa": None}, "isa=None is not a name"),
        ({"threads": 1.5}, "threads=1.5 is not a whole number"),
        ({"seconds": float("nan")}, "seconds=nan is not a number"),
        ({"verdict": "reproduced"}, r"missing fields \[\], unknown fields \['verdict'\]"),
    ],
)
def test_what_is_no_line_is_refused_by_name(changes, message):
    with pytest.raises(RecordError, match=rf"^file: 20\S+: .*{message}"):
        checked(LINE | changes, "file: ")
    assert checked(LINE | STOPPED) and checked(LINE)


def test_every_field_is_needed():
    for name in schema.FIELDS:
        with pytest.raises(RecordError, match=f"missing fields \\['{name}'\\]"):
            checked({field: value for field, value in LINE.items() if field != name})
    with pytest.raises(RecordError, match="an object, not list"):
        checked([LINE])


@pytest.mark.parametrize(
    "text, message",
    [
        (
            dumps(LINE) + dumps(LINE)[:50],
            "one.jsonl, line 2: cut off, for it has no end: '.\"chapter",
        ),
        (dumps(LINE) + dumps(LINE).rstrip("\n"), "one.jsonl, line 2: cut off"),
        (dumps(LINE) + "\n", "one.jsonl, line 2: not JSON"),
        (dumps(LINE) + "<<<<<<< HEAD\n", "one.jsonl, line 2: not JSON"),
        (dumps(LINE) * 2, f"one.jsonl, line 2: {LINE['run']} is there already"),
        (dumps(LINE | {"seed": 11}), "one.jsonl, line 1: 2026"),
    ],
)
def test_a_damaged_file_is_refused_by_file_and_line(tmp_path, text, message):
    (tmp_path / "one.jsonl").write_text(text)
    with pytest.raises(RecordError, match=message):
        read(tmp_path / "one.jsonl")


def test_a_later_line_supersedes_and_one_that_failed_does_not():
    later = LINE | {"claims": {"one.claim": {"gain": 2.0}}}
    failed = LINE | STOPPED | {"ended": "failed", "error": "in cell 2"}
    assert in_force([LINE, later, failed]) == {("quick", 10): later}


def test_a_sealed_record_shows_any_change():
    assert unsealed(json.loads(json.dumps(sealed(LINE)))) == LINE
    for changes in ({"claims": {"one.claim": {"gain": 1.6}}}, {"seed": 11}, {"error": "x"}, {"seconds": float("inf")}):
        with pytest.raises(RecordError, match="was changed after the run"):
            unsealed(sealed(LINE) | changes)
    with pytest.raises(RecordError, match="no digest"):
        unsealed(LINE)
    with pytest.raises(RecordError, match="commit"):  # sealed again by who changed it, and still no record
        unsealed(sealed(LINE | {"commit": "unknown"}))


# --- runs -----------------------------------------------------------------------------------------------------------


def judged(book: Book, **options: Any) -> Job:
    return Job(book, "one", seed=10, **options)


def lines(book: Book, name: str = "one") -> list[dict[str, Any]]:
    return read(recorded(book, name))


def leftovers(book: Book) -> list[str]:
    return [path.name for path in (book.build / "runs").glob("*.json")]


def test_a_run_is_recorded_with_what_it_began_with(book):
    first = commit(book)
    assert run(judged(book)) == "executed" and leftovers(book) == []
    (line,) = lines(book)
    assert line["claims"] == {"one.claim": {"gain": 11}} and line["commit"] == first
    assert (line["ended"], line["isa"], line["threads"], line["torch"]) == ("finished", "AVX2", 1, "2")
    assert line["imported"] == ["tformerlib/__init__.py", "tformerlib/left.py"]
    assert line["key"] == judged(book).key(line["imported"])
    assert run(judged(book)) == "recorded" and len(lines(book)) == 1
    assert run(Job(book, "one", seed=11)) == "executed"  # the first run's line does not make the tree dirty
    assert [line["seed"] for line in lines(book)] == [10, 11]


def test_a_commit_made_while_a_run_goes_on_is_not_its_commit(book):
    late = "import subprocess\nsubprocess.run('git -c user.name=A -c user.email=a@b commit -q --allow-empty -m x', "
    edit(book, "chapters/p/one.py", "record =", late + "shell=True, check=True)\nrecord =")
    first = commit(book)
    run(judged(book))
    assert lines(book)[0]["commit"] == first != history.head(book.root)


def test_other_code_is_another_run_and_the_older_line_stays(book):
    commit(book)
    run(judged(book))
    before = recorded(book, "one").read_bytes()
    edit(book, "tformerlib/left.py", "1", "2")
    commit(book)
    assert run(judged(book, keep=True)) == "recorded"
    assert run(judged(book)) == "executed"
    assert recorded(book, "one").read_bytes().startswith(before)
    assert [line["claims"]["one.claim"]["gain"] for line in lines(book)] == [11, 12]
    edit(book, "tformerlib/shared.py", "2", "3")  # one does not import it
    commit(book)
    assert run(judged(book)) == "recorded"


def test_another_instruction_set_is_another_run(book, monkeypatch):
    commit(book)
    run(judged(book))
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", "avx2")
    assert run(judged(book)) == "recorded"  # the tiny chapter says that it ran on AVX2
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", "avx512")
    assert run(judged(book)) == "executed"


@pytest.mark.parametrize("name", ["tformerlib/left.py", "constraints.txt", "data/claims/one.yml", "tformerlib/new.py"])
def test_a_dirty_tree_is_refused_before_the_run(book, name):
    commit(book)
    with (book.root / name).open("a") as file:
        file.write("# edited\n")
    with pytest.raises(ChapterError, match=rf"at its start: .*{name} is not as committed; runs with seeds from 100 on"):
        run(judged(book))
    assert not book.executed("one", seed=10).exists() and leftovers(book) == []
    assert run(Job(book, "one", seed=100)) == "executed" and not recorded(book, "one").exists()


def test_a_run_that_ends_well_and_cannot_be_recorded_has_failed(book, capsys):
    edit(book, "chapters/p/one.py", "value + seed}}", "float('nan')}}")
    commit(book)
    with pytest.raises(ChapterError, match="at its end: it is not recorded"):
        run(judged(book))
    assert "one.claim: gain='nan' is not a finite number" in capsys.readouterr().err


def test_outside_a_clone_nothing_is_recorded(book):
    with pytest.raises(ChapterError, match="git knows no commit here"):
        run(judged(book))


def test_a_failed_run_leaves_its_line_at_once(book):
    edit(book, "tformerlib/left.py", "1", "1 / 0")
    commit(book)
    with pytest.raises(ChapterError, match="in cell 3: ZeroDivisionError"):
        run(judged(book))
    (line,) = lines(book)
    assert (line["ended"], line["claims"]) == ("failed", {}) and "ZeroDivisionError" in line["error"]
    with pytest.raises(ChapterError):  # and does not count as done
        run(judged(book))
    assert len(lines(book)) == 2


def test_an_interrupted_run_leaves_its_line_at_once(book, monkeypatch):
    def interrupt(job: Job) -> None:
        raise KeyboardInterrupt

    commit(book)
    monkeypatch.setattr(execute, "execute", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run(judged(book))
    assert [line["ended"] for line in lines(book)] == ["killed"]


def test_a_killed_run_is_found_by_the_next_collection(book):
    """Killed by a signal that no program hears."""
    edit(book, "chapters/p/one.py", "record =", "import time\ntime.sleep(60)\nrecord =")
    commit(book)
    command = [sys.executable, "-c", "import sys; from pathlib import Path; from book.tools.execute import *; "]
    command[-1] += "run(Job(Book(Path(sys.argv[1])), 'one', seed=10))"
    process = subprocess.Popen([*command, str(book.root)], cwd=ROOT, start_new_session=True)
    for _ in range(600):
        if leftovers(book) and list((book.build / "failed/quick").glob(".one-*")):
            break
        time.sleep(0.1)
    assert collect(book, "one").added == []  # it lives
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert [line["ended"] for line in collect(book, "one").added] == ["killed"]
    assert [line["ended"] for line in lines(book)] == ["killed"] and leftovers(book) == []


def test_a_process_of_another_machine_gets_a_day(book, monkeypatch):
    commit(book)
    journal = Journal.begin(judged(book))
    journal.process["host"] = "elsewhere"
    journal.save()
    assert collect(book, "one").added == []
    monkeypatch.setattr(results, "ELSEWHERE", -1)
    assert [line["ended"] for line in collect(book, "one").added] == ["killed"]


# --- collecting -----------------------------------------------------------------------------------------------------


def finished(book: Book, claims: dict[str, Any] | None = None, **provenance: Any) -> Journal:
    """The journal of a run that has finished and waits to be collected."""
    journal = Journal.begin(judged(book))
    shown = {"one.claim": {"gain": 1.5}} if claims is None else claims
    reports = [{"kind": "claim", "claim": claim, "metrics": metrics} for claim, metrics in shown.items()]
    machine = {name: LINE[name] for name in (*schema.MACHINE, "key", "imported", "profile")}
    journal.finish(machine | {"records": reports, "changed": []} | provenance)
    return journal


def test_the_collector_adds_what_can_be_traced(book):
    commit(book)
    journal = finished(book)
    done = collect(book, "one")
    assert (done.added, done.refused) == ([journal.line], []) and lines(book) == [journal.line]
    assert collect(book, "one").added == []


@pytest.mark.parametrize(
    "claims, provenance, message",
    [
        ({"one.claim": {"gain": float("nan")}}, {}, "one.claim: gain=nan is not a finite number"),
        ({"one.claim": {"loss": 1.0}}, {}, r"one.claim has the metrics \['loss'\], its row \['gain'\]"),
        ({"one.other": {"gain": 1.0}}, {}, "one.other has no row in data/claims/one.yml at commit"),
        ({}, {}, "it reports no claim that profile quick judges"),
        ({"one.claim": {}}, {}, "it reports no claim"),
        (None, {"changed": ["tformerlib/left.py"]}, "tformerlib/left.py is edited while it ran"),
        (None, {"isa": None}, "isa=None is not a name"),
        (None, {"records": [{"kind": "claim", "claim": "a", "metrics": {"b": 1}}] * 2}, "a reported twice"),
    ],
)
def test_the_collector_refuses_a_run_by_name(book, claims, provenance, message):
    commit(book)
    run = finished(book, claims, **provenance).line["run"]
    done = collect(book, "one")
    assert done.added == [] and re.search(f"{run}: .*{message}", done.refused[0])
    assert lines(book) == [] and leftovers(book) == []
    kept = json.loads((book.build / "refused" / f"{run}.json").read_text())
    assert kept["problems"] and collect(book, "one").refused == []


@pytest.mark.parametrize("field, value", [("seed", 0), ("seed", 100), ("commit", None), ("commit", "a" * 40)])
def test_the_collector_refuses_what_cannot_judge_or_be_found(book, field, value):
    commit(book)
    journal = finished(book)
    journal.line[field] = value
    journal.save()
    assert journal.line["run"] in collect(book, "one").refused[0] and lines(book) == []


def test_a_commit_of_another_branch_is_refused(book):
    first = commit(book)
    git(book, "checkout", "--quiet", "-b", "side")
    commit(book)
    finished(book)
    git(book, "checkout", "--quiet", "main")
    assert history.head(book.root) == first
    assert re.search("its commit .* is not in the history", collect(book, "one").refused[0])


@pytest.mark.parametrize(
    "old, new", [("gain > 0", "gain > 1"), ("mechanism", "replication"), ("gate: null", "gate: 1")]
)
def test_a_row_that_was_rewritten_after_the_run_began_is_refused(book, old, new):
    commit(book)
    finished(book)
    edit(book, "data/claims/one.yml", old, new)
    commit(book)
    (problem,) = collect(book, "one").refused
    assert re.search("the row of one.claim has another (reproduced|kind|gate) than at commit", problem)


def test_a_row_may_be_worded_better(book):
    commit(book)
    finished(book)
    edit(book, "data/claims/one.yml", "profile: quick", "profile: quick, differs: it is small")
    commit(book)
    assert len(collect(book, "one").added) == 1


# --- full disks and other accidents -------------------------------------------------------------------------------


def test_a_full_disk_loses_nothing(book, monkeypatch):
    commit(book)
    finished(book)
    collect(book, "one")
    before = recorded(book, "one").read_bytes()
    waiting = finished(book)
    write = os.write
    monkeypatch.setattr(results.os, "write", lambda file, data: write(file, data[:100]))
    with pytest.raises(OSError, match="No space left on device"):
        collect(book, "one")
    assert recorded(book, "one").read_bytes() == before and leftovers(book) == [waiting.path.name]
    monkeypatch.setattr(results.os, "write", write)
    assert collect(book, "one").added == [waiting.line] and len(lines(book)) == 2


def test_a_line_that_was_cut_off_is_written_again_from_its_journal(book):
    commit(book)
    waiting = finished(book)
    recorded(book, "one").parent.mkdir(parents=True)
    recorded(book, "one").write_text(dumps(waiting.line)[:200])
    assert collect(book, "one").added == [waiting.line] and lines(book) == [waiting.line]


def test_what_no_journal_explains_is_left_and_reported(book):
    commit(book)
    finished(book)
    recorded(book, "one").parent.mkdir(parents=True)
    recorded(book, "one").write_text(torn := dumps(LINE)[:200])
    with pytest.raises(RecordError, match=r"one.jsonl, line 1: cut off"):
        collect(book, "one")
    assert recorded(book, "one").read_text() == torn and len(leftovers(book)) == 1


def test_a_collection_that_was_killed_after_it_wrote_does_not_write_twice(book):
    commit(book)
    journal = finished(book)
    results.append(recorded(book, "one"), journal.line)
    assert collect(book, "one").added == [] and lines(book) == [journal.line] and leftovers(book) == []


def test_collections_side_by_side_write_each_line_once(book):
    commit(book)
    for _ in range(20):
        finished(book)
    program = (
        "import sys; from pathlib import Path; from book.tools import results; from book.tools.layout import Book; "
    )
    program += "print(len(results.collect(Book(Path(sys.argv[1])), 'one').added))"
    command = [sys.executable, "-c", program, str(book.root)]
    both = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert sum(int(process.communicate()[0]) for process in both) == 20 and len(lines(book)) == 20


# --- sweeps ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value, seeds",
    [
        ("10..14", [10, 11, 12, 13, 14]),
        ("10,11", [10, 11]),
        ("12..12", [12]),
        ("11,10,11", [11, 10]),
        ([10, 12], [10, 12]),
    ],
)
def test_seeds_are_named(value, seeds):
    assert seeds_of(value) == seeds


@pytest.mark.parametrize("value", [5, "5", "14..10", "10-14", "", "ten", "-1", 1.5, "10...14", "10..", True])
def test_other_forms_of_seeds_are_refused_with_the_right_one(value):
    with pytest.raises(ValueError, match=r"seeds=10\.\.14 or seeds=10,11"):
        seeds_of(value)


@pytest.mark.parametrize(
    "config, message",
    [
        ({"seed": 3}, "--config has no 'seed', only chapters, profile, seeds, earlier; did you mean seeds"),
        ({"chapter": "one"}, "did you mean chapters"),
        ({"colour": 1}, "only chapters, profile, seeds, earlier$"),
        ({"profile": "qiuck"}, "profile='qiuck' is not one of quick, colab, full"),
        ({"chapters": "three"}, "no chapter 'three'; there are one, two"),
        ({"seeds": 5}, "seeds=5 may mean one seed or how many; .* for one 5..5"),
        ({"earlier": "yes"}, "earlier='yes' is not keep"),
    ],
)
def test_a_misspelled_configuration_is_refused_with_the_choices(book, config, message):
    with pytest.raises(ValueError, match=message):
        Stamps(book, config)


def test_snakemake_refuses_it_in_one_line(book):
    done = snakemake(with_tools(book), "--cores", "1", "--config", "seed=3")
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "--config has no 'seed', only chapters, profile, seeds, earlier; did you mean seeds?" in done.stderr


def test_a_sweep_says_how_far_it_is():
    ends = [{"did": "recorded", "end": 100.0, "seconds": 1.0}]
    assert sweep.progress(10, ends) == "1 of 10 runs done"
    ends += [{"did": "executed", "end": end, "seconds": 60.0} for end in (160.0, 160.0, 220.0)]
    ends += [{"did": "failed", "end": 220.0, "seconds": 60.0}]
    assert sweep.progress(10, ends) == "5 of 10 runs done, 1 failed, about 2 min left"  # 4 in 120 s, so 5 in 150
    assert sweep.progress(5, ends) == "5 of 5 runs done, 1 failed"
    assert [sweep.duration(s) for s in (59.6, 119, 121, 7100, 9000)] == ["60 s", "119 s", "2 min", "118 min", "2.5 h"]


def test_a_look_is_run_recorded_and_gone_on_with(book):
    root = with_tools(book)
    edit(
        book,
        "chapters/p/one.py",
        "record =",
        "import os\nif seed == 11 and not os.path.exists('fine'): 1 / 0\nrecord =",
    )
    commit(book)
    done = snakemake(root, "--cores", "2", "--config", "seeds=10..11", "chapters=one,two")
    assert done.returncode != 0
    assert [(line["seed"], line["ended"]) for line in lines(book)] in (
        [(10, "finished"), (11, "failed")],
        [(11, "failed"), (10, "finished")],
    )
    assert [line["ended"] for line in lines(book, "two")] == ["finished", "finished"]
    assert "1 of 4 runs failed\n  build/failed/quick/one-s11.ipynb" in done.stderr
    assert "4 of 4 runs done, 1 failed" in done.stderr and re.search(
        r"[1-3] of 4 runs done.*, about \d+ s left", done.stderr
    )
    (root / "fine").touch()
    done = snakemake(root, "--cores", "2", "--config", "seeds=10..11", "chapters=one,two")
    assert done.returncode == 0, done.stderr
    assert "one seed 11: executed" in done.stderr and "1 of 1 runs done" in done.stderr and "two" not in done.stderr
    assert [line["ended"] for line in lines(book)].count("finished") == 2 and len(lines(book, "two")) == 2


def test_a_fresh_clone_goes_on_with_what_its_records_lack(book, tmp_path_factory):
    commit(book)
    run(judged(book))
    commit(book, "Record")
    other = Book(tmp_path_factory.mktemp("clones") / "clone")
    git(book, "clone", "--quiet", str(book.root), str(other.root))
    assert run(judged(other)) == "recorded" and run(Job(other, "one", seed=11)) == "executed"


def test_a_sweep_runs_on_a_cluster(book):
    """Snakemake's cluster-generic executor with a submitter that runs jobs here, one process each."""
    root = with_tools(book)
    submit = root / "submit.sh"
    submit.write_text('#!/bin/sh\necho "$1" >> submitted\nsh "$1" > /dev/null 2>&1\necho $$\n')
    submit.chmod(0o755)
    commit(book)
    plugin = ["--executor", "cluster-generic", "--cluster-generic-submit-cmd", str(submit), "--jobs", "2"]
    done = snakemake(root, *plugin, "--seconds-between-status-checks", "1", "--config", "seeds=10..10", "chapters=two")
    assert done.returncode == 0, done.stderr
    assert len((root / "submitted").read_text().splitlines()) == 1
    assert [line["claims"]["two.claim"]["gain"] for line in lines(book, "two")] == [12]


# --- replications ---------------------------------------------------------------------------------------------------


@pytest.fixture
def elsewhere(book, monkeypatch) -> Book:
    """A clone with the tools, in which one.claim is judged in quick; the folder that programs are called in."""
    commit(Book(with_tools(book)))
    row = SimpleNamespace(chapter="one", profile="quick")
    monkeypatch.setattr(reproduce, "load_ledger", lambda: {"one.claim": row})
    monkeypatch.chdir(book.root / "chapters")
    return book


def test_a_claim_is_reproduced_beside_its_record(elsewhere, capsys):
    run(Job(elsewhere, "one", seed=12))
    reproduce.main(["one.claim", "--seed", "12"])
    said = capsys.readouterr().out
    assert re.search(r"gain +13 +13\n", said) and "equal to the last digit" in said
    record = Path(said.split("record: ")[1].strip())
    assert (
        record.parent == elsewhere.root / "data/replications" and unsealed(json.loads(record.read_text()))["seed"] == 12
    )
    assert len(lines(elsewhere)) == 1  # it is no record of the book's
    assert schema.replications(record.parent) == {"one.claim": 1}
    reproduce.main(["--check", str(record)])
    assert "as the run left it (finished, seed 12, quick; one.claim)" in capsys.readouterr().out
    record.write_text(record.read_text().replace('"gain": 13', '"gain": 14'))
    with pytest.raises(SystemExit, match="was changed after the run: its digest does not fit"):
        reproduce.main(["--check", str(record)])
    with pytest.raises(RecordError, match=f"{record.name}: .* was changed"):
        schema.replications(record.parent)


def test_a_seed_without_a_record_is_reproduced_alone(elsewhere, capsys):
    reproduce.main(["one.claim", "--seed", "40"])
    said = capsys.readouterr().out
    assert re.search(r"gain +41 +–\n", said) and "nothing is recorded for seed 40 in profile quick" in said


def test_what_differs_is_said():
    other = LINE | {"isa": "AVX512", "claims": {"one.claim": {"gain": 2.0}}, "key": "2" * 64}
    said = "\n".join(reproduce.beside("one.claim", LINE, other))
    assert "another instruction set: AVX2 here, AVX512 there" in said and "another code" in said
    assert "another torch" not in said and "equal" not in said


def test_what_cannot_be_reproduced_is_refused(elsewhere, monkeypatch, capfd, tmp_path_factory):
    with pytest.raises(SystemExit, match="no claim 'one.clam' in the ledger; it has one.claim"):
        reproduce.main(["one.clam"])
    edit(elsewhere, "tformerlib/left.py", "1", "2")
    with pytest.raises(SystemExit, match="the run of one did not end well"):
        reproduce.main(["one.claim"])
    assert "tformerlib/left.py is not as committed" in capfd.readouterr().err
    monkeypatch.chdir(tmp_path_factory.mktemp("nowhere"))
    monkeypatch.setattr(reproduce, "__file__", "/nowhere/a/b/c.py")
    with pytest.raises(SystemExit, match="a clone is needed, .*: git clone https://"):
        reproduce.main(["one.claim"])
    for arguments in ([], ["one.claim", "--check", "x"]):
        with pytest.raises(SystemExit):
            reproduce.main(arguments)
    for text, message in (("{}", "no digest"), ("[", "not JSON")):
        Path("x.json").write_text(text)
        with pytest.raises(SystemExit, match=f"x.json: .*{message}"):
            reproduce.main(["--check", "x.json"])


# --- what is committed ------------------------------------------------------------------------------------------------

RECORDED = sorted((ROOT / "data" / "results").glob("*.jsonl"))
needs_history = pytest.mark.skipif(
    history.head(ROOT) is None or history.shallow(ROOT), reason="needs a clone with its whole history"
)


@pytest.mark.parametrize("path", RECORDED, ids=lambda path: path.stem)
def test_every_committed_line_is_whole(path: Path):
    assert path.stem in Book().chapters and {line["chapter"] for line in read(path)} == {path.stem}


@needs_history
@pytest.mark.parametrize("path", RECORDED, ids=lambda path: path.stem)
def test_every_committed_line_can_be_traced(path: Path):
    """Its commit is in the history; and as long as it judges a claim, the claim's row is the one that it began with."""
    book, recorded_lines, ledger = Book(), read(path), load_ledger()
    problems = [f"{line['run']}: {fault}" for line in recorded_lines for fault in results.untraceable(book, line)]
    for line in in_force(recorded_lines).values():
        problems += [
            f"{line['run']}: {fault}"
            for claim, metrics in line["claims"].items()
            if claim in ledger and set(metrics) == set(ledger[claim].metrics)  # or it judges nothing
            for fault in results.row_faults(book, line, claim)
        ]
    assert problems == []


@needs_history
def test_no_committed_line_was_ever_changed():
    """Each version of a file begins with the version before it, back through every commit that touched it."""
    for path in RECORDED:
        name = str(path.relative_to(ROOT))
        log = subprocess.run(
            ["git", "log", "--first-parent", "--format=%H", "--", name], cwd=ROOT, capture_output=True, text=True
        )
        current = set(path.read_text("utf-8").splitlines())
        for old in log.stdout.split():
            gone = set((history.show(ROOT, old, name) or "").splitlines()) - current
            assert not gone, f"{name}: lines of commit {old[:12]} are gone: {sorted(gone)[0][:100]}"


REPLICATED = sorted((ROOT / "data" / "replications").glob("*.json"))


@needs_history
@pytest.mark.parametrize("path", REPLICATED, ids=lambda path: path.stem)
def test_every_replication_can_be_traced(path: Path):
    line = unsealed(json.loads(path.read_text("utf-8")))
    found = (fault for claim in line["claims"] for fault in results.row_faults(Book(), line, claim))
    assert path.stem == line["run"] and [*results.untraceable(Book(), line), *found] == []


def test_the_archive_is_read_by_nothing():
    """Its results judge no more."""
    code = [
        path for folder in ("tformerlib", "book", "chapters", "benchmarks") for path in (ROOT / folder).rglob("*.py")
    ]
    assert [path for path in code if "results/archive" in path.read_text("utf-8")] == []
    assert not list((ROOT / "data/results").glob("*.json"))
