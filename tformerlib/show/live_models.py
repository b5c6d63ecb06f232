"""Models that live in the page: their weights as two files that the site's JavaScript reads (book/assets/live).

`live(model, kind="gpt", ...)` writes the weights in 8-bit integers or 16-bit floats, measures how often the smaller
numbers still give the same answer, and leaves both in the notebook for the site's builder.
"""

import base64
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..run.records import emit, in_kernel
from .frame import as_figure, described, picture, present, rich

KINDS = ("gpt", "bert", "vit", "swin", "detr", "translator", "learning-gpt")
WITHOUT_MODEL = ("attention",)  # widgets that compute with numbers of their own
LARGEST = 600_000  # bytes: what a phone should have to load for one model
FEW = 1024  # tensors with fewer numbers stay in float32: they cost little, and norms and biases are sensitive


@dataclass(frozen=True)
class Export:
    """A model's two files: `about` becomes <name>.json, `data` becomes about["file"]."""

    about: dict[str, Any]
    data: bytes

    def state(self) -> dict[str, Tensor]:
        """The weights as JavaScript reads them: what the integers stand for."""
        return {tensor["name"]: _read(tensor, self.data) for tensor in self.about["tensors"]}

    def _ipython_display_(self) -> None:
        """Nothing: as the last value of a cell it would print all its weights."""


def export(model: nn.Module, *, name: str, kind: str, config: dict[str, Any], precision: str = "int8") -> Export:
    """The weights of a model as bytes, and what they are.

    In "int8" each row of a matrix or kernel is integers in -127 .. 127 times a scale of its own; "float16" halves
    every number; "float32" leaves them. Shared weights are stored once.

    Args:
        config: what the JavaScript of this kind needs to know: depth, heads, ...

    Raises:
        ValueError: an unknown kind or precision, weights that are not finite, a file above 600 KB.
    """
    if kind not in KINDS:
        raise ValueError(f"kind={kind!r} is not one of {', '.join(KINDS)}")
    if precision not in ("int8", "float16", "float32"):
        raise ValueError(f"precision={precision!r} is none of int8, float16, float32")
    tensors: list[dict[str, Any]] = []
    parts: list[bytes] = []
    seen: dict[int, str] = {}
    for key, value in model.state_dict(keep_vars=True).items():
        if not value.is_floating_point() or (isinstance(value, nn.Parameter) and id(value) in seen):
            continue
        seen[id(value)] = key
        x = value.detach().float().cpu()
        if not x.isfinite().all():
            raise ValueError(f"{key} has numbers that are not finite")
        small = x.numel() < FEW or x.ndim < 2
        dtype = "float32" if small else precision
        tensors.append({"name": key, "shape": list(x.shape), "dtype": dtype, "offset": sum(map(len, parts))})
        parts.append(_written(x, dtype))
    data = b"".join(parts)
    if len(data) > LARGEST:
        raise ValueError(f"{name} takes {len(data):,} bytes; a page's model has at most {LARGEST:,}")
    digest = hashlib.sha256(data).hexdigest()
    about = {
        "name": name, "kind": kind, "config": config, "precision": precision, "file": f"{name}-{digest[:12]}.bin",
        "bytes": len(data), "sha256": digest, "tensors": tensors,
    }  # fmt: skip
    return Export(about, data)


def _written(x: Tensor, dtype: str) -> bytes:
    """Numbers as bytes, little endian, filled up to a multiple of four."""
    if dtype == "int8":
        rows = x.flatten(1)
        scale = (rows.abs().amax(1) / 127).clamp_min(1e-12)
        integers = (rows / scale[:, None]).round().to(torch.int8)
        raw = scale.numpy().astype("<f4").tobytes() + integers.numpy().tobytes()
    else:
        raw = x.numpy().astype("<f4" if dtype == "float32" else "<f2").tobytes()
    return raw + bytes(-len(raw) % 4)


def _read(tensor: dict[str, Any], data: bytes) -> Tensor:
    shape, start = tensor["shape"], tensor["offset"]
    count = int(np.prod(shape))
    if tensor["dtype"] == "int8":
        scale = np.frombuffer(data, "<f4", shape[0], start)
        integers = np.frombuffer(data, "i1", count, start + 4 * shape[0]).reshape(shape[0], -1)
        return torch.from_numpy((integers.astype("f4") * scale[:, None]).reshape(shape))
    kind = {"float16": "<f2", "float32": "<f4"}[tensor["dtype"]]
    return torch.from_numpy(np.frombuffer(data, kind, count, start).astype("f4").reshape(shape))


def load_exported(model: nn.Module, exported: Export) -> nn.Module:
    """Puts the exported numbers into a model of the same shape, so that torch computes what the page computes."""
    missing, unexpected = model.load_state_dict(exported.state(), strict=False)
    shared = {name for name, p in model.named_parameters(remove_duplicate=False)} - {
        n for n, _ in model.named_parameters()
    }
    buffers = {name for name, b in model.named_buffers() if not b.is_floating_point()}
    if unexpected or set(missing) - shared - buffers:
        raise ValueError(f"the export lacks {sorted(set(missing) - shared - buffers)} and has {unexpected} too many")
    return model


def live(
    model: nn.Module,
    *,
    name: str,
    kind: str,
    config: dict[str, Any],
    fallback: str,
    caption: str,
    alt: str,
    inputs: Sequence[Any] = (),
    answer: Callable[[nn.Module, Any], Tensor] | None = None,
    page: dict[str, Any] | None = None,
    precision: str = "int8",
) -> Export:
    """Exports a model and shows the place where it will live, with a static figure until it answers.

    Args:
        name: of the files; letters, digits and hyphens.  kind: which JavaScript runs it.  config: see `export`.
        fallback: HTML (an SVG, a table, a <pre>) that stays where JavaScript is off.
        inputs, answer: examples, and answer(model, input) -> logits (..., V); the share of places at which the
            exported numbers have the same largest logit is measured and stated below the figure.
        page: what the widget needs besides the weights: vocabulary, examples, names of classes; stored as JSON.
    """
    if not name or not all(c.isalnum() or c == "-" for c in name):
        raise ValueError(f"name={name!r}: letters, digits and hyphens make a file's name")
    exported = export(model, name=name, kind=kind, config=config, precision=precision)
    share = None
    if answer is not None and inputs:
        training = model.training
        model.eval()
        with torch.no_grad():
            before = [answer(model, x).argmax(-1).flatten() for x in inputs]
            state = {key: value.clone() for key, value in model.state_dict().items()}
            load_exported(model, exported)
            after = [answer(model, x).argmax(-1).flatten() for x in inputs]
            model.load_state_dict(state)
        model.train(training)
        share = (torch.cat(before) == torch.cat(after)).double().mean().item()
    about = exported.about | {"page": page or {}, "same": share}
    size = f"{exported.about['bytes'] / 1000:,.0f} KB"
    same = "" if share is None else f"; {100 * share:.1f} % of {sum(map(len, before)):,} answers are those of float32"
    note = f"{caption} The model is in this page: {size} of weights from this very run ({precision}{same})."
    emit_files(name, Export(about, exported.data))
    _place(kind, fallback, note, alt, name)
    return exported


def live_digits(
    model: nn.Module, digits: tuple[Tensor, Tensor], *, name: str, kind: str, config: dict[str, Any], hint: str,
    caption: str, alt: str,
) -> Export:  # fmt: skip
    """A classifier of handwritten digits that reads what one draws; the first example of each digit can be begun with.

    Args:
        digits: images (N, 3, H, W) of bytes on the gray ground of `data.images.digits`, and labels.
        kind: "vit" or "swin".  config: see `export`.  hint: what to try.
    """
    from ..data.images import as_floats

    images, labels = digits
    firsts = [labels.tolist().index(d) for d in sorted(set(labels.tolist()))]
    example = picture(images[firsts[0]].repeat_interleave(8, 1).repeat_interleave(8, 2))
    still = f'<img src="{example}" alt="A handwritten {labels[firsts[0]]}.">'
    page = {
        "side": images.shape[-1], "examples": images[firsts, 0].flatten(1).tolist(), "paper": 64, "ink": 191,
        "mean": 0.5, "std": 0.5, "names": [f"a {labels[i]} of the test set" for i in firsts],
        "classes": [str(d) for d in range(10)], "hint": hint,
    }  # fmt: skip
    return live(
        model.cpu(), name=name, kind=kind, config=config, page=page, inputs=as_floats(images).split(1),
        answer=lambda model, image: model(image), fallback=still, caption=caption, alt=alt,
    )  # fmt: skip


def live_widget(kind: str, *, fallback: str, caption: str, alt: str) -> None:
    """Shows the place of a widget that needs no model; arguments as in `live`.

    Raises:
        ValueError: no widget of that kind.
    """
    if kind not in WITHOUT_MODEL:
        raise ValueError(f"kind={kind!r} is not one of {', '.join(WITHOUT_MODEL)}; the others take a model: live(...)")
    _place(kind, fallback, caption, alt)


def _place(kind: str, fallback: str, caption: str, alt: str, name: str | None = None) -> None:
    """A figure that the page's script wakes."""
    model = f' data-model="{name}"' if name else ""
    frame = (
        f'<div class="tf-live"{model} data-kind="{kind}" role="group" aria-label="{described(alt)}">'
        f'<div class="tf-live-still">{fallback}</div></div>'
    )
    if in_kernel():
        present({"text/html": as_figure(frame, caption, kind="alive")}, alt=alt)
    else:
        print(f"[live {name or kind}: {alt}] {rich(caption)}")


def emit_files(name: str, exported: Export) -> None:
    """Leaves the two files in the notebook, from where the site's builder takes them."""
    text = f"{name}: {len(exported.data):,} bytes of weights"
    weights = base64.b64encode(exported.data).decode()
    emit("live", {"name": name, "about": exported.about, "weights": weights}, text=text)
