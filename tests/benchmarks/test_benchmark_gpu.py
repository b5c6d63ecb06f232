"""The steps that need a GPU can be cut off and go on; here with steps that need none."""

import sys
import time
from pathlib import Path

import pytest

from benchmarks import gpu
from book.tools.results import append
from tests.book.test_records import LINE


def writes(path: Path, *, seconds: float = 0.0, code: int = 0) -> gpu.Step:
    """A step that starts a process of its own, which writes a file in the end."""
    inner = f"import pathlib, sys, time; time.sleep({seconds}); pathlib.Path({str(path)!r}).touch(); sys.exit({code})"
    outer = f"import subprocess, sys; sys.exit(subprocess.call([sys.executable, '-c', {inner!r}]))"
    return gpu.Step(path.name, lambda _: [sys.executable, "-c", outer], path.exists)


@pytest.fixture(autouse=True)
def short(monkeypatch):
    monkeypatch.setattr(gpu, "LEAST", 0.0)


def test_steps_are_done_in_order_and_once(tmp_path, capsys):
    plan = [writes(tmp_path / "a"), writes(tmp_path / "b")]
    assert gpu.run(plan, 1.0) == 0 and all(step.done() for step in plan)
    capsys.readouterr()
    assert gpu.run(plan, 1.0) == 0
    assert capsys.readouterr().out == "done before: a\ndone before: b\n"


def test_a_step_that_fails_is_counted_and_does_not_stop_the_others(tmp_path, capsys):
    assert gpu.run([writes(tmp_path / "a", code=3), writes(tmp_path / "b")], 1.0) == 1
    assert "failed with exit code 3: a" in capsys.readouterr().out and (tmp_path / "b").exists()


def test_a_step_that_takes_too_long_is_cut_off_with_all_that_it_started(tmp_path, capsys):
    start = time.monotonic()
    assert gpu.run([writes(tmp_path / "a", seconds=4.0), writes(tmp_path / "b")], 1.5 / 60) == 0
    assert time.monotonic() - start < 4.0 and "cut off: a" in capsys.readouterr().out
    time.sleep(4.0)
    assert not (tmp_path / "a").exists() and not (tmp_path / "b").exists()


def test_nothing_is_begun_when_the_time_is_over(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(gpu, "LEAST", 60.0)
    assert gpu.run([writes(tmp_path / "a")], 0.5) == 0
    assert "goes on with: a" in capsys.readouterr().out and not (tmp_path / "a").exists()


def test_chapters_with_the_fewest_results_come_first(tmp_path):
    for name in ("rich", "poor"):
        (tmp_path / f"chapters/p/{name}.py").parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / f"chapters/p/{name}.py").write_text("")
    for seed in (10, 11):
        run = LINE["run"].replace("one-quick-s10", f"rich-full-s{seed}")
        line = LINE | {"run": run, "chapter": "rich", "profile": "full", "seed": seed}
        append(tmp_path / "data/results/rich.jsonl", line)
    steps = gpu.chapters(gpu.Book(tmp_path), ["rich", "poor"], "full", 2)
    assert [step.name.removeprefix("chapter ") for step in steps] == [
        "poor, full, seed 10", "rich, full, seed 10", "poor, full, seed 11", "rich, full, seed 11",
    ]  # fmt: skip


def test_without_a_gpu_it_says_so(monkeypatch, capsys):
    monkeypatch.setattr(gpu.torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["gpu"])
    with pytest.raises(SystemExit):
        gpu.main()
    assert "torch.cuda.is_available() is False" in capsys.readouterr().err
