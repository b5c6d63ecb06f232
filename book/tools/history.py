"""What git says of a clone: the commit, what differs from it, and files as they were."""

import subprocess
from pathlib import Path

APPENDED = ("data/results/", "build/")  # what runs themselves add to
CODE = ("tformerlib/", "chapters/")  # where a file that git does not know counts: Python would import it


def head(root: Path) -> str | None:
    """The commit that is checked out, 40 hexadecimal digits; None outside a clone and without git."""
    return _git(root, "rev-parse", "--verify", "--quiet", "HEAD")


def changed(root: Path) -> list[str]:
    """Files that make the tree dirty: tracked ones that differ from the commit, and new ones where code lies.

    Those in data/results and build do not count: the lines that a sweep's first run adds must not make its second
    run one of a dirty tree.
    """
    entries = (_git(root, "status", "--porcelain", "-z", "--no-renames", "--untracked-files=all") or "").split("\0")
    files = [(entry[:2], entry[3:]) for entry in entries if entry]
    return sorted(
        file for mark, file in files if not file.startswith(APPENDED) and (mark != "??" or file.startswith(CODE))
    )


def is_ancestor(root: Path, commit: str) -> bool:
    """Whether a commit is the one checked out, or lies before it."""
    return _git(root, "merge-base", "--is-ancestor", commit, "HEAD") is not None


def shallow(root: Path) -> bool:
    """Whether the clone lacks its history's beginning, so that nothing can be said of old commits."""
    return _git(root, "rev-parse", "--is-shallow-repository") == "true"


def show(root: Path, commit: str, path: str) -> str | None:
    """A file as a commit has it; None if that has no such file."""
    return _git(root, "show", f"{commit}:{path}")


def _git(root: Path, *arguments: str) -> str | None:
    """What a git command prints; None if it fails or there is no git."""
    command = ["git", "--no-optional-locks", "-C", str(root), *arguments]  # no lock: other runs ask at the same time
    try:
        done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8")
    except FileNotFoundError:
        return None
    # the first line of `status` may begin with a blank
    return done.stdout.rstrip("\n") if done.returncode == 0 else None
