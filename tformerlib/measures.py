"""What a model costs: parameters, multiply-adds, memory of activations, throughput."""

import copy
import time
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode


def parameter_count(model: nn.Module) -> int:
    """Numbers that training can change, shared ones counted once."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def macs(model: nn.Module, image: Sequence[int]) -> int:
    """Multiply-adds of one forward pass for one image (3, H, W): torch's FLOP counter, halved.

    Papers call these FLOPs. Both products of attention count; norms, activations and softmax do not. Nothing is
    computed: the model's copy and the image have shapes and no content.
    """
    shadow = copy.deepcopy(model).to("meta").eval()
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH), torch.no_grad():
        shadow(torch.zeros(1, *image, device="meta"))
    return counter.get_total_flops() // 2


def activation_bytes(model: nn.Module, image: Sequence[int]) -> int:
    """Bytes that training keeps for the backward pass of one image (3, H, W), beside the model's own numbers.

    It is this, times the batch, that fills a GPU's memory. What several operations keep counts once.
    """
    copied = copy.deepcopy(model).train()
    own = {tensor.untyped_storage().data_ptr() for tensor in (*copied.parameters(), *copied.buffers())}
    kept: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage().data_ptr()
        if storage not in own:
            kept[storage] = tensor  # held, so that no other tensor gets its address
        return tensor

    images = torch.zeros(2, *image, device=next(copied.parameters()).device)  # two: batch norms refuse one
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        copied(images)
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values()) // 2


def images_per_second(model: nn.Module, side: int, *, batch: int = 64, seconds: float = 0.5) -> float:
    """Throughput of the forward pass in eval mode, on the model's device: the best of runs that fill the seconds."""
    device = next(model.parameters()).device
    images, best = torch.zeros(batch, 3, side, side, device=device), 0.0
    training, end = model.training, time.perf_counter() + seconds
    model.eval()
    with torch.no_grad():
        model(images)
        while not best or time.perf_counter() < end:
            start = time.perf_counter()
            model(images)
            if device.type != "cpu":
                torch.accelerator.synchronize(device)
            best = max(best, batch / (time.perf_counter() - start))
    model.train(training)
    return best
