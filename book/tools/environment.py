"""Makes .venv with the packages that constraints.txt pins; does nothing where that is done already.

Run by whatever `python3` is at hand, so it uses the standard library alone and the syntax of Python 3.8. (The Makefile
looks for an interpreter that is one: Python 2 would stop at the first line here.)

torch is the large one. Where pip's own sources offer a build without CUDA, or the machine has an NVIDIA GPU, pip's
choice is taken. Otherwise the build comes from PyTorch's CPU index; only where that cannot be reached is CUDA
downloaded to a machine that cannot use it, and the message says so.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import string
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
VENV = ROOT / ".venv"
STAMP = VENV / "book-environment"
CONSTRAINTS = ROOT / "constraints.txt"
VERSIONS = ("3.11", "3.12", "3.13")
EXTRAS = ".[book,test]"
CPU_INDEX = "https://download.pytorch.org/whl/cpu"
CUDA = ("nvidia-", "cuda-", "triton")  # requirements of torch's CUDA builds


def main() -> None:
    wanted = fingerprint()
    if STAMP.exists() and STAMP.read_text() == wanted and works(VENV / "bin" / "python"):
        return
    python = VENV / "bin" / "python"
    if not works(python):
        say("creating .venv")
        create(find_python())
    install_torch(python)
    say("installing the packages that constraints.txt pins")
    pip(python, "--editable", EXTRAS)
    STAMP.write_text(wanted)
    say("environment ready: .venv")


def fingerprint() -> str:
    """A hash of what the environment follows from: the pins, the package's requirements, and this file."""
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8").split("[tool.")[0]
    texts = [CONSTRAINTS.read_text(encoding="utf-8"), project, Path(__file__).read_text(encoding="utf-8")]
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()


def find_python() -> str:
    """A Python of a version the book runs on: $PYTHON, this one, or the first on the PATH."""
    names = [os.environ.get("PYTHON", ""), sys.executable] + ["python" + version for version in VERSIONS]
    for name in names:
        path = shutil.which(name) if name else None
        if path and works(path):
            return path
    sys.exit("The book needs Python 3.11, 3.12 or 3.13; none is on the PATH. Set PYTHON=/path/to/python and run again.")


def works(python: Path | str) -> bool:
    """Whether an interpreter starts and has one of our versions (a pyenv shim may exist and still not start)."""
    code = "import sys; print('%d.%d' % sys.version_info[:2])"
    try:
        answer = subprocess.run([str(python), "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    except OSError:
        return False
    return answer.stdout.decode().strip() in VERSIONS


def create(python: str) -> None:
    """A new virtual environment."""
    if subprocess.run([python, "-m", "venv", "--clear", str(VENV)]).returncode:
        sys.exit(f"{python} could not make a virtual environment; on Debian and Ubuntu: apt-get install python3-venv")


def install_torch(python: Path) -> None:
    """The pinned torch (and torchvision, which must fit it), without CUDA where there is no GPU to use it."""
    pins = [pin for pin in (pinned("torch"), pinned("torchvision")) if pin]
    report = resolve(python, [pins[0]])
    if report is not None and not report["install"]:
        return  # it is there
    if report is not None and not needs_cuda(report):
        say("torch: pip offers a build without CUDA")
        source: list[str] = []
    elif has_nvidia_gpu():
        say("torch: with CUDA, for this machine's NVIDIA GPU")
        source = []
    elif resolve(python, [pins[0], "--no-deps", "--index-url", CPU_INDEX, "--timeout", "15", "--retries", "1"]):
        say("torch: the build without CUDA, from PyTorch's own index")
        source = ["--no-deps", "--index-url", CPU_INDEX]
    else:
        say(
            "torch: PyTorch's index of builds without CUDA cannot be reached, so the default build is installed.\n"
            "  It downloads several GB of CUDA libraries that this machine does not use. To avoid that, press\n"
            "  Ctrl-C, install torch in .venv from a source of yours, and run again."
        )
        source = []
    pip(python, *pins, *source)


def pinned(package: str) -> str | None:
    """A package's line in constraints.txt."""
    lines = CONSTRAINTS.read_text(encoding="utf-8").splitlines()
    return next((line.split(";")[0].strip() for line in lines if line.startswith(package + "==")), None)


def resolve(python: Path, arguments: list[str]) -> dict[str, object] | None:
    """Pip's report of what it would install, without installing; None if it finds nothing."""
    command = [str(python), "-m", "pip", "install", "--dry-run", "--quiet", "--report", "-", *arguments]
    answer = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    return dict(json.loads(answer.stdout)) if answer.returncode == 0 else None


def needs_cuda(report: dict[str, object]) -> bool:
    """Whether anything that pip would install is part of CUDA."""
    items = report["install"]
    assert isinstance(items, list)
    return any(item["metadata"]["name"].lower().startswith(CUDA) for item in items)


def has_nvidia_gpu() -> bool:
    """Whether the driver sees a GPU."""
    try:
        answer = subprocess.run(["nvidia-smi", "-L"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    except OSError:
        return False
    return answer.returncode == 0


def pip(python: Path, *arguments: str) -> None:
    """Installs under the constraints, which hold for build requirements too. On a terminal pip shows its progress."""
    quiet = [] if sys.stdout.isatty() else ["--quiet", "--quiet"]
    command = [str(python), "-m", "pip", "install", *quiet, *arguments]
    with constraints() as file:
        settings = dict.fromkeys(("PIP_CONSTRAINT", "PIP_BUILD_CONSTRAINT"), file)
        settings["PIP_DISABLE_PIP_VERSION_CHECK"] = "1"
        if subprocess.run(command, cwd=str(ROOT), env={**os.environ, **settings}).returncode:
            sys.exit("pip could not install the environment; its message is above. Run the same command to try again.")


@contextlib.contextmanager
def constraints() -> Iterator[str]:
    """The path of constraints.txt as pip takes it from a variable, which it splits at blanks: of a copy if need be.

    pip's builds run in folders of their own, so a relative path would not do.
    """
    if not set(string.whitespace) & set(str(CONSTRAINTS)):
        yield str(CONSTRAINTS)
        return
    with tempfile.TemporaryDirectory(prefix="constraints-") as folder:
        if set(string.whitespace) & set(folder):
            sys.exit(f"{folder} has a blank in it, which pip cannot take: set TMPDIR to a folder without one.")
        yield shutil.copy(str(CONSTRAINTS), folder)


def say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    main()
