"""`tf-reproduce swin.relative-bias --seed 12`: one claim again, on your machine, from a clone of the book.

Runs the claim's chapter in the claim's profile, prints its metrics beside those that the book has recorded for that
seed, and leaves a record in data/replications. Nothing of it enters a verdict; the scoreboard counts such records.

`tf-reproduce --check FILE` tells whether a record is as the run left it.
"""

import argparse
import importlib.metadata
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from ..claims import load_ledger
from .results import Line, RecordError, in_force, read, unsealed

RUNNER = Path("book", "tools", "execute.py")


def main(arguments: Sequence[str] | None = None) -> None:
    """The console script."""
    parser = argparse.ArgumentParser("tf-reproduce", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("claim", nargs="?", help="its id in the ledger, such as swin.relative-bias")
    parser.add_argument("--seed", type=int, default=10, help="of the run; 10 to 29 are recorded (default: 10)")
    parser.add_argument("--check", type=Path, nargs="+", metavar="FILE", help="records to check instead")
    given = parser.parse_args(arguments)
    if (given.claim is None) == (given.check is None):
        parser.error("give a claim's id, or --check with files")
    try:
        text = "\n".join(map(check, given.check)) if given.check else reproduce(given.claim, given.seed)
    except (RecordError, LookupError, OSError) as error:
        raise SystemExit(f"tf-reproduce: {error.args[0] if isinstance(error, LookupError) else error}") from None
    print(text)


def check(file: Path) -> str:
    """What a record says, if it is as its run left it.

    Raises:
        RecordError: it was changed, or is no record.
        OSError: there is no such file.
    """
    try:
        line = unsealed(json.loads(file.read_text(encoding="utf-8")), f"{file.name}: ")
    except ValueError as error:
        raise error if isinstance(error, RecordError) else RecordError(f"{file.name}: not JSON: {error}") from None
    claims = ", ".join(line["claims"]) or "no claim"
    return f"{file.name}: as the run left it ({line['ended']}, seed {line['seed']}, {line['profile']}; {claims})"


def reproduce(claim: str, seed: int) -> str:
    """Runs what a claim needs, and returns our metrics beside the recorded ones, with the path of the record.

    Raises:
        KeyError: no such claim; the message lists close ones.
        RecordError: no clone here, or the run did not end well; its own message stands above.
    """
    root = clone()
    rows = load_ledger()
    if claim not in rows:
        raise KeyError(f"no claim {claim!r} in the ledger; it has {', '.join(sorted(rows))}")
    chapter, profile = rows[claim].chapter, rows[claim].profile
    folder = root / "data" / "replications"
    before = set(folder.glob("*.json"))
    command = [sys.executable, "-m", "book.tools.execute", chapter, "--profile", profile, "--seed", str(seed)]
    done = subprocess.run([*command, "--record", str(folder)], cwd=root)  # -m takes the clone's modules first
    made = sorted(set(folder.glob("*.json")) - before)
    if done.returncode or not made:
        raise RecordError(f"the run of {chapter} did not end well, as said above")
    ours = unsealed(json.loads(made[-1].read_text(encoding="utf-8")))
    recorded = in_force(read(root / "data" / "results" / f"{chapter}.jsonl")).get((profile, seed))
    return "\n".join([*beside(claim, ours, recorded), f"record: {made[-1]}"])


def beside(claim: str, ours: Line, recorded: Line | None) -> Iterator[str]:
    """A claim's metrics of two runs, line by line, with what may make them differ."""
    metrics: Mapping[str, float] = ours["claims"].get(claim, {})
    theirs: Mapping[str, float] = recorded["claims"].get(claim, {}) if recorded else {}
    yield f"{claim}, profile {ours['profile']}, seed {ours['seed']}"
    yield f"  {'':24} {'this run':>16} {'recorded':>16}"
    for name, value in metrics.items():
        yield f"  {name:24} {value:16.6g} {format(theirs[name], '16.6g') if name in theirs else '–':>16}"
    if not metrics:
        yield "  this run reports no metrics of it"
    if recorded is None:
        yield f"  nothing is recorded for seed {ours['seed']} in profile {ours['profile']}"
        return
    for name, what in (("isa", "instruction set"), ("torch", "torch"), ("threads", "threads"), ("key", "code")):
        if ours[name] != recorded[name]:
            both = "" if name == "key" else f": {ours[name]} here, {recorded[name]} there"
            yield f"  another {what}{both}"
    if metrics == theirs:
        yield "  equal to the last digit"


def clone() -> Path:
    """The book's clone: the one that this folder lies in, else the one that this library belongs to.

    Raises:
        RecordError: neither is there; the message says how to get one.
    """
    here = Path.cwd().resolve()
    for folder in (here, *here.parents, Path(__file__).resolve().parents[2]):
        if (folder / RUNNER).exists():
            return folder
    urls = importlib.metadata.metadata("tformerlib").get_all("Project-URL") or []
    address = next((url.partition(", ")[2] for url in urls if url.startswith("Repository")), "the book's repository")
    raise RecordError(f"a clone is needed, for records name its commit: git clone {address}, and call this inside")
