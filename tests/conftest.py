"""What tests need before they import anything."""

import torch

try:
    import torchvision  # noqa: F401
except ImportError:
    pass  # timm's tests skip
except RuntimeError:
    # A torchvision built for CUDA does not start beside a torch built without it, and timm and transformers import it.
    # They use none of its compiled operators here: declaring the two that it looks for is enough.
    operators = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        operators.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
