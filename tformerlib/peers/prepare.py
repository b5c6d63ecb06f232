"""Other people's implementations, which chapters and tests hold ours against."""

import importlib.util

import torch

_declared: list[torch.library.Library] = []  # declarations last as long as the object does


def prepare() -> None:
    """Call before importing timm or transformers: both import torchvision, which may refuse to start.

    One that was built for CUDA does, beside a torch that was not: its compiled operators are missing. Ours need none of
    them, so declaring those that it looks for at import is enough. Does nothing where torchvision starts or is absent.
    """
    if importlib.util.find_spec("torchvision") is None:
        return
    try:
        importlib.import_module("torchvision")
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
        _declared.append(torch.library.Library("torchvision", "DEF"))
        for name in ("nms", "qnms"):
            _declared[-1].define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
