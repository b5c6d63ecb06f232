"""The files that describe the environment agree with each other, and torch comes without CUDA where it can."""

import ast
import importlib
import importlib.metadata
import json
import re
import shutil
import subprocess
import sys
import tomllib
from contextlib import nullcontext
from itertools import chain
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from book.tools import environment, layout, notebooks
from tformerlib.run import profiles, records

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]


def pins() -> dict[str, str]:
    lines = (line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and line[0] != "#")
    requirements = [Requirement(line) for line in lines]
    assert all(len(r.specifier) == 1 and str(r.specifier).startswith("==") for r in requirements)
    return {canonicalize_name(r.name): str(r.specifier)[2:] for r in requirements}


def requirements(*extras: str) -> list[Requirement]:
    lines = [*PROJECT["dependencies"], *chain.from_iterable(EXTRAS[extra] for extra in extras)]
    return [r for r in map(Requirement, lines) if r.name != "tformerlib"]


def test_constraints_meet_every_requirement():
    pinned = pins()
    for requirement in requirements(*EXTRAS):
        assert requirement.specifier.contains(pinned[canonicalize_name(requirement.name)]), requirement


def test_constraints_pin_what_the_requirements_require():
    pinned, seen = pins(), set()
    waiting = [(r, "") for r in requirements(*EXTRAS)]
    while waiting:
        requirement, extra = waiting.pop()
        name = canonicalize_name(requirement.name)
        if (name, extra) in seen or (requirement.marker and not requirement.marker.evaluate({"extra": extra})):
            continue
        seen.add((name, extra))
        assert name in pinned or name.startswith(environment.CUDA), f"{requirement} is not pinned"
        try:
            needs = importlib.metadata.requires(requirement.name) or []
        except importlib.metadata.PackageNotFoundError:
            continue  # for another platform
        waiting += [(Requirement(line), extra) for line in needs for extra in ("", *requirement.extras)]
    assert len(seen) > 100


def test_conda_installs_the_same():
    conda = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    pip = next(entry["pip"] for entry in conda if isinstance(entry, dict))
    python = SpecifierSet(next(entry for entry in conda if str(entry).startswith("python")).removeprefix("python"))
    assert {v for v in ("3.10", *environment.VERSIONS, "3.14") if v in python} == set(environment.VERSIONS)
    assert all(version in SpecifierSet(PROJECT["requires-python"]) for version in environment.VERSIONS)
    assert f"--editable {environment.EXTRAS}" in pip and "--constraint constraints.txt" in pip
    assert f"--extra-index-url {environment.CPU_INDEX}" in pip
    assert set(re.findall(r"\w+", environment.EXTRAS)) <= set(EXTRAS)


def test_readers_keep_their_torch_and_numpy():
    for requirement in requirements("data", "train", "show"):
        assert all(s.operator == ">=" for s in requirement.specifier), f"{requirement} would replace what a reader has"


def test_the_installer_runs_on_an_old_python():
    source = (ROOT / "book/tools/environment.py").read_text()
    ast.parse(source, feature_version=(3, 8))
    assert set(re.findall(r"^(?:import|from) (\w+)", source, re.MULTILINE)) <= sys.stdlib_module_names


@pytest.mark.parametrize("folder", ["plain", "with a space"])
def test_pip_finds_the_constraints_wherever_the_clone_lies(monkeypatch, tmp_path, folder):
    """pip splits its variables at blanks. A dry run that would take another version of what is here is refused."""
    file = tmp_path / folder / "constraints.txt"
    file.parent.mkdir()
    monkeypatch.setattr(environment, "CONSTRAINTS", file)
    for version, works in ((importlib.metadata.version("click"), True), ("0.1", False)):
        file.write_text(f"click=={version}\n")
        with nullcontext() if works else pytest.raises(SystemExit):
            environment.pip(Path(sys.executable), "--dry-run", "--no-index", "click")


@pytest.mark.parametrize("there", [[], ["python3", "python"]], ids=["no Python", "a Python 2"])
def test_make_says_in_one_line_that_it_needs_python(tmp_path, there):
    for name in there:
        (tmp_path / name).write_text("#!/bin/sh\necho '  File \"x.py\", line 9 SyntaxError' >&2\nexit 1\n")
        (tmp_path / name).chmod(0o755)
    env = {"PATH": str(tmp_path)}
    done = subprocess.run([shutil.which("make"), "environment"], cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode and done.stderr.splitlines()[0].startswith("The book needs Python 3.11, 3.12 or 3.13; none")
    assert len(done.stderr.splitlines()) == 2 and done.stderr.splitlines()[1].startswith("make: ***")


FROM_CPU_INDEX = ["--no-deps", "--index-url", environment.CPU_INDEX]


def report(*names: str) -> str:
    return json.dumps({"install": [{"metadata": {"name": name}} for name in names]})


@pytest.mark.parametrize(
    "offered, gpu, index, source, says",
    [
        (report("torch", "sympy"), False, True, [], "pip offers a build without CUDA"),
        (report("torch", "nvidia-cublas", "triton"), True, True, [], "NVIDIA GPU"),
        (report("torch", "nvidia-cublas"), False, True, FROM_CPU_INDEX, "own index"),
        (report("torch", "cuda-toolkit"), False, False, [], "several GB"),
        (None, False, True, FROM_CPU_INDEX, "own index"),
    ],
    ids=["pip has it", "gpu", "cpu index", "no cpu index", "pip has none"],
)
def test_where_torch_comes_from(monkeypatch, capsys, offered, gpu, index, source, says):
    def run(command, **_):
        if command[0] == "nvidia-smi":
            return subprocess.CompletedProcess(command, 0 if gpu else 9)
        answer = (report("torch") if index else None) if "--index-url" in command else offered
        return subprocess.CompletedProcess(command, int(answer is None), (answer or "").encode())

    installed = []
    monkeypatch.setattr(environment.subprocess, "run", run)
    monkeypatch.setattr(environment, "pip", lambda python, *arguments: installed.append(arguments))
    environment.install_torch(Path("python"))
    assert installed == [(f"torch=={pins()['torch']}", f"torchvision=={pins()['torchvision']}", *source)]
    assert says in capsys.readouterr().out


def test_a_torch_that_is_there_stays(monkeypatch):
    monkeypatch.setattr(environment, "resolve", lambda *_: {"install": []})
    monkeypatch.setattr(environment, "pip", lambda *_: pytest.fail("nothing to install"))
    environment.install_torch(Path("python"))


def test_a_ready_environment_is_left_alone(monkeypatch, tmp_path):
    monkeypatch.setattr(environment, "STAMP", tmp_path / "stamp")
    monkeypatch.setattr(environment, "works", lambda _: True)
    monkeypatch.setattr(environment, "install_torch", lambda _: None)
    runs: list[str] = []
    monkeypatch.setattr(environment, "pip", lambda *_: runs.append("pip"))
    environment.main()
    environment.main()
    assert runs == ["pip"]
    monkeypatch.setattr(environment, "CONSTRAINTS", tmp_path / "constraints.txt")
    (tmp_path / "constraints.txt").write_text("torch==9\n")
    environment.main()
    assert runs == ["pip", "pip"]


def test_a_shim_that_does_not_start_is_passed_over(monkeypatch, tmp_path):
    shim = tmp_path / "python3.13"
    shim.write_text("#!/bin/sh\nexit 127\n")
    shim.chmod(0o755)
    assert not environment.works(shim) and environment.works(sys.executable)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(environment.sys, "executable", str(shim))
    with pytest.raises(SystemExit, match=r"3\.11, 3\.12 or 3\.13"):
        environment.find_python()


@pytest.mark.parametrize("path", sorted((ROOT / ".github/workflows").glob("*.yml")), ids=lambda path: path.stem)
def test_workflows_are_sound(path):
    workflow = yaml.safe_load(path.read_text())
    assert workflow["name"] == path.stem and workflow["permissions"] == {"contents": "read"}
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for job in workflow["jobs"].values():
        assert "runs-on" in job and job["steps"]
        for step in job["steps"]:
            assert ("run" in step) != ("uses" in step)
            assert set(re.findall(r"\bmake (\w+)", step.get("run", ""))) <= targets
            for module in re.findall(r"-m (book\.tools\.\w+)", step.get("run", "")):
                assert (ROOT / module.replace(".", "/")).with_suffix(".py").exists(), module


def test_hooks_are_local():
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    assert [repository["repo"] for repository in config["repos"]] == ["local"]
    assert {"ruff", "codespell", "outputs"} <= {hook["id"] for hook in config["repos"][0]["hooks"]}


def test_the_repository_is_named_once():
    address = PROJECT["urls"]["Repository"]
    slug = address.removeprefix("https://github.com/")
    files = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    code = [f for f in files if f.endswith((".py", ".yml", ".js", ".css")) or f in ("Makefile", "Snakefile")]
    assert [f for f in code if slug in (ROOT / f).read_text(encoding="utf-8")] == []


def test_scripts_of_the_package_exist():
    for name, target in PROJECT["scripts"].items():
        module, _, function = target.partition(":")
        assert callable(getattr(importlib.import_module(module), function)), name


def test_the_server_tests_records_with_the_whole_history():
    """A shallow clone has no old commits, so there the tests that trace records are skipped."""
    workflow = yaml.safe_load((ROOT / ".github/workflows/test.yml").read_text())
    checkout = workflow["jobs"]["test"]["steps"][0]
    assert checkout["uses"].startswith("actions/checkout") and checkout["with"]["fetch-depth"] == 0


def test_tools_and_library_share_their_constants():
    assert notebooks.MIME == records.MIME and layout.PROFILES == profiles.PROFILES
