"""A book of tiny chapters with a library of a few lines, on which the real tools run."""

import shutil
import subprocess
import sys
from pathlib import Path

from book.tools.layout import Book

ROOT = Path(__file__).parents[2]
HEADER = "# ---\n# jupyter:\n#   jupytext: {text_representation: {extension: .py, format_name: percent}}\n# ---\n\n"
ROW = "- {id: NAME.claim, kind: mechanism, metrics: {gain: points}, gate: null, reproduced: gain > 0, profile: quick}\n"
MACHINE = """\
facts = {"kind": "run", "torch": "2", "device": "cpu: x", "threads": 1, "isa": "AVX2", "python": "3.12"}
display({"application/vnd.tformerlib.v1+json": facts, "text/plain": ""}, raw=True)
"""
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

"""
    + MACHINE
    + """record = {"kind": "claim", "claim": "NAME.claim", "metrics": {"gain": value + seed}}
display({"application/vnd.tformerlib.v1+json": record, "text/plain": f"gain {value + seed}"}, raw=True)
"""
)


def make(root: Path) -> Book:
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
        "data/claims/one.yml": ROW.replace("NAME", "one"),
        "data/claims/two.yml": ROW.replace("NAME", "two"),
        ".gitignore": "/.venv\n/build/\n__pycache__/\n.snakemake/\n",
        "pyproject.toml": '[project]\nname = "tiny"\n[project.urls]\nRepository = "https://example.org/tiny"\n',
    }
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return Book(root)


def edit(book: Book, name: str, old: str, new: str) -> None:
    path = book.root / name
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def git(book: Book, *arguments: str) -> str:
    """A git command in the book's clone, by an author that needs no configuration."""
    author = ["-c", "user.name=A", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
    command = ["git", *author, *arguments]
    return subprocess.run(command, cwd=book.root, capture_output=True, text=True, check=True).stdout.strip()


def commit(book: Book, message: str = "Change something") -> str:
    """Commits everything, in a clone that is made if there is none; the commit."""
    if not (book.root / ".git").exists():
        git(book, "init", "--quiet", "--initial-branch=main")
    git(book, "add", ".")
    git(book, "commit", "--quiet", "--allow-empty", "--message", message)
    return git(book, "rev-parse", "HEAD")


def with_tools(book: Book) -> Path:
    """Puts the real tools and Snakefile into the tiny book."""
    shutil.copytree(ROOT / "book/tools", book.root / "book/tools", ignore=shutil.ignore_patterns("__pycache__"))
    (book.root / "book/__init__.py").touch()
    (book.root / "tformerlib/run").mkdir(exist_ok=True)
    (book.root / "tformerlib/run/__init__.py").touch()
    shutil.copy(ROOT / "tformerlib/run/results.py", book.root / "tformerlib/run/results.py")
    shutil.copy(ROOT / "Snakefile", book.root)
    return book.root


def snakemake(root: Path, *arguments: str, python: str = sys.executable) -> subprocess.CompletedProcess[str]:
    command = [python, "-m", "snakemake", "--quiet", "all", "--nolock", "--keep-going", *arguments]
    return subprocess.run(command, cwd=root, capture_output=True, text=True)
