"""One call for every real data set: from a folder of parquet files or from the Hugging Face hub, checked by hash."""

import hashlib
import os
import socket
import tomllib
import urllib.parse
import urllib.request
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..extras import needs
from ..run.records import emit

if TYPE_CHECKING:
    from datasets import Dataset

SETS: dict[str, Any] = tomllib.loads(Path(__file__).with_name("sets.toml").read_text(encoding="utf-8"))


class DataError(RuntimeError):
    """A file of a data set that is missing, damaged or not the published one. Names the file and the reason."""


class OfflineError(RuntimeError):
    """A data set that is neither in TFORMER_DATA nor to be had from the hub. Names what can stand in for it."""


def available(name: str) -> bool:
    """Whether the folder named by TFORMER_DATA holds all files of the set."""
    splits, folder = _set(name)["files"], os.environ.get("TFORMER_DATA")
    return bool(folder) and all(Path(str(folder), name, f"{split}.parquet").is_file() for split in splits)


def load(name: str, split: str = "train") -> "Dataset":
    """A split of a real data set, as a Hugging Face Dataset in memory; images are decoded, audio stays WAV bytes.

    Taken from $TFORMER_DATA/<name>/<split>.parquet, else from the hub at a fixed revision. Either file must have the
    SHA-256 that sets.toml says.

    Raises:
        ValueError: an unknown set or split.
        DataError: the file is missing beside other splits, damaged, or not the published one.
        OfflineError: no folder holds the set, and the hub does not have it or cannot be reached.
    """
    about = _set(name)
    if split not in about["files"]:
        raise ValueError(f"{name} has no split {split!r}; choices: {', '.join(about['files'])}")
    path = _in_folder(name, split)
    if path is not None:
        expected, source = about["files"][split], about["source"]
    else:
        path = _from_hub(name, split)
        expected, source = about["hub"]["files"][split], f"{about['hub']['repository']} @ {about['hub']['revision']}"
    dataset = _read(path, expected, about["columns"])
    emit("data", {"name": name, "split": split, "sha256": expected["sha256"], "source": source, "rows": len(dataset)})
    return dataset


def _set(name: str) -> dict[str, Any]:
    if name not in SETS:
        raise ValueError(f"unknown data set {name!r}; choices: {', '.join(sorted(SETS))}")
    return SETS[name]


def _in_folder(name: str, split: str) -> Path | None:
    """The split's file in the folder named by TFORMER_DATA, or None where that is not set or has no such set."""
    if not (folder := os.environ.get("TFORMER_DATA")):
        return None
    if not Path(folder).is_dir():
        raise DataError(f"TFORMER_DATA={folder} is not a folder")
    path = Path(folder, name, f"{split}.parquet")
    if not path.parent.is_dir():
        return None
    if not path.is_file():
        found = ", ".join(sorted(p.name for p in path.parent.iterdir())) or "nothing"
        raise DataError(f"{path} is missing; the folder holds {found}")
    return path


def _from_hub(name: str, split: str) -> Path:
    """The split's file from the hub or from its cache on this machine. Raises OfflineError within seconds."""
    about = SETS[name]
    help_text = (
        f"set TFORMER_DATA to a folder that holds {name}/{split}.parquet ({about['source']}), "
        f"or use the stand-in that needs no download: {about['stand_in']}"
    )
    if "hub" not in about:
        raise OfflineError(f"{name} is not on the hub in this form; {help_text}")
    from huggingface_hub import constants, hf_hub_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    file = {"filename": about["hub"]["files"][split]["path"], "repo_type": "dataset"}
    file |= {"repo_id": about["hub"]["repository"], "revision": about["hub"]["revision"]}
    try:
        return Path(hf_hub_download(**file, local_files_only=True))
    except LocalEntryNotFoundError:
        reason = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else f"{constants.ENDPOINT} does not answer"
    if not constants.HF_HUB_OFFLINE and _reachable(constants.ENDPOINT):
        try:
            return Path(hf_hub_download(**file))
        except LocalEntryNotFoundError as error:
            reason = f"it answered: {error.__cause__ or error}"
    raise OfflineError(f"{name} is not in TFORMER_DATA, nor to be had from the hub ({reason}); {help_text}")


def _reachable(address: str) -> bool:
    """Whether something answers at an address, or at the proxy for it. The hub's own client takes half a minute."""
    parts = urllib.parse.urlsplit(address)
    proxy = urllib.request.getproxies().get(parts.scheme)
    parts = urllib.parse.urlsplit(proxy) if proxy else parts
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        socket.create_connection((parts.hostname, port), timeout=5).close()
    except OSError:
        return False
    return True


def _read(path: Path, expected: dict[str, Any], columns: dict[str, str]) -> "Dataset":
    """The file as a Dataset with the columns' types. Raises DataError with the reason if it is not the expected one."""
    import pyarrow.parquet

    with needs("data"):
        from datasets import Audio, Dataset, DatasetInfo, Features, Image, List, Value

    kinds = {
        "image": Image(),
        "audio": Audio(decode=False),  # the bytes of a WAV file, which the standard library reads
        "boxes": List({"bbox": List(Value("float32")), "category": Value("int64")}),
        "int64": Value("int64"),
        "string": Value("string"),
    }
    features = Features({name: kinds[kind] for name, kind in columns.items()})
    stat = path.stat()
    found = _sha256(path, stat.st_mtime_ns, stat.st_size)
    if found != expected["sha256"]:
        raise DataError(f"{path} {_difference(path, expected, features.arrow_schema)}")
    table = pyarrow.parquet.read_table(path)
    return Dataset(table.cast(features.arrow_schema), info=DatasetInfo(features=features))


@lru_cache(maxsize=64)
def _sha256(path: Path, modified: int, size: int) -> str:
    """Content hash; read again when the file's time or size has changed."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _difference(path: Path, expected: dict[str, Any], schema: Any) -> str:
    """What is wrong with a file whose hash is not the expected one, in words."""
    import pyarrow
    import pyarrow.parquet

    size = path.stat().st_size
    try:
        file = pyarrow.parquet.ParquetFile(path)
    except (pyarrow.ArrowInvalid, OSError):
        if 0 < size < expected["bytes"]:
            return f"is cut short: {size} of {expected['bytes']} bytes"
        return "is empty" if size == 0 else "is not a parquet file"
    found, wanted = ({field.name: str(field.type) for field in s} for s in (file.schema_arrow, schema))
    if found != wanted:
        return f"has columns {found}, not {wanted}"
    if file.metadata.num_rows != expected["rows"]:
        return f"has {file.metadata.num_rows} rows, not {expected['rows']}"
    return f"is not the published file: its SHA-256 is not {expected['sha256']}"
