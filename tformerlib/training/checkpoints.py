"""Files that a killed run starts again from: whole or absent, never half written, and never from another run."""

import json
import os
import pickle
import zipfile
import zlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..extras import needs

with needs("train"):
    from safetensors import SafetensorError
    from safetensors.torch import load_file

State = dict[str, Tensor]
# what the readers of zip files, of pickles and of safetensors raise for bytes that make no sense to them
DAMAGE = (
    zipfile.BadZipFile, zlib.error, pickle.UnpicklingError, SafetensorError, OSError, EOFError, RuntimeError,
    ValueError, LookupError, ArithmeticError,
)  # fmt: skip


class CheckpointError(RuntimeError):
    """A checkpoint that cannot be used: damaged, or written by a run with other settings. Names file and value."""


def save(path: Path, content: dict[str, Any]) -> None:
    """Writes a checkpoint atomically: a kill at any moment leaves the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    with part.open("wb") as file:
        torch.save(content, file)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)  # the new name must reach the disk too
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def load(path: Path) -> dict[str, Any]:
    """Reads a checkpoint onto the CPU; executes nothing that is in it. Raises CheckpointError for a damaged file."""
    path.stat()  # a file that is missing is another error than a damaged one
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        with zipfile.ZipFile(path) as archive:  # torch writes a zip file with checksums and does not check them
            if part := archive.testzip():
                raise zipfile.BadZipFile(f"wrong checksum of {part}")
        content = torch.load(path, map_location="cpu", weights_only=True)
    except DAMAGE as error:
        raise CheckpointError(f"{path} is damaged or no checkpoint ({error}); delete it to start again") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds a {type(content).__name__}, not a checkpoint")
    return content


def weights(path: Path) -> State:
    """The model's weights in a file: a checkpoint of `fit`, a state_dict saved by torch.save, or safetensors."""
    content = load(path)
    return content["model"] if "settings" in content else content


def plain(content: dict[str, Any]) -> dict[str, Any]:
    """The content as JSON holds it: no tensor or NumPy number that `load` would refuse."""
    return json.loads(json.dumps(content, default=lambda number: number.tolist()))


def check(path: Path, content: dict[str, Any], settings: dict[str, Any], model: nn.Module) -> None:
    """Refuses a checkpoint that this run would not have written: CheckpointError naming the first difference."""
    if "settings" not in content:
        raise CheckpointError(f"{path} was not written by fit; choose another file")
    for name, value in settings.items():
        before = {"optimizer": "AdamW", "data": value}.get(name)  # older files do not say
        written = content["settings"].get(name, before)
        if written != value:
            raise CheckpointError(
                f"{path} was written with {name}={written}, this run has {name}={value}; "
                "delete it or choose another file"
            )
    theirs, ours = ({k: tuple(v.shape) for k, v in state.items()} for state in (content["model"], model.state_dict()))
    for name in sorted(theirs.keys() | ours.keys()):
        if theirs.get(name) != ours.get(name):
            raise CheckpointError(
                f"{path} is of another model: {name!r} is {theirs.get(name, 'missing')} there "
                f"and {ours.get(name, 'missing')} here"
            )
