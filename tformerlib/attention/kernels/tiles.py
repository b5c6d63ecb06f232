"""Tile sizes of the kernels, as data: by architecture, head width and length.

Starting points are FlexAttention's tuned tables in torch 2.13, cut to what compiles with few or no spilled registers
(`python -m tformerlib.attention.kernels.compile_only`) and fits the shared memory of the smallest card of its
architecture. None was tuned on a GPU yet.
"""

from typing import NamedTuple, TypeVar

import torch


class Forward(NamedTuple):
    """Queries of a program, keys of a step, steps in flight, and groups of 32 threads."""

    rows: int
    keys: int
    stages: int
    warps: int

    def options(self) -> dict[str, int]:
        return {"num_stages": self.stages, "num_warps": self.warps}


class Backward(NamedTuple):
    """rows1, keys1: step and block of the loop for dK and dV.  rows2, keys2: block and step of the loop for dQ."""

    rows1: int
    keys1: int
    rows2: int
    keys2: int
    stages: int
    warps: int

    def options(self) -> dict[str, int]:
        return {"num_stages": self.stages, "num_warps": self.warps}


class Window(NamedTuple):
    """Programs for each multiprocessor; each walks over its share of the windows."""

    programs: int
    stages: int
    warps: int

    def options(self) -> dict[str, int]:
        return {"num_stages": self.stages, "num_warps": self.warps}


Tile = TypeVar("Tile")
Table = dict[int, list[tuple[int, int, Tile]]]  # architecture -> (widest head in 16-bit elements, longest row, tiles)

INTERPRETED = 0  # the "architecture" of a CPU; its tiles are small, so that small tests walk over several
FLOAT32 = 1  # of any GPU: products that no tensor core computes keep their operands in registers, so tiles are small
SHARED_MEMORY = {80: 163, 86: 99, 89: 99, 90: 227}  # KiB that one program may use
ANY = 1 << 62

FORWARD: Table[Forward] = {
    INTERPRETED: [(ANY, ANY, Forward(16, 16, 1, 4))],
    FLOAT32: [
        (128, ANY, Forward(64, 32, 2, 8)),
        (256, ANY, Forward(32, 16, 2, 4)),
        (ANY, ANY, Forward(32, 16, 1, 4)),
    ],
    80: [
        (64, ANY, Forward(128, 64, 3, 4)),
        (128, ANY, Forward(128, 64, 3, 8)),
        (256, ANY, Forward(64, 32, 2, 4)),
    ],
    86: [
        (64, ANY, Forward(128, 64, 2, 4)),
        (128, ANY, Forward(128, 32, 2, 8)),
        (256, ANY, Forward(64, 16, 2, 4)),
    ],
    90: [
        (64, 256, Forward(64, 64, 3, 4)),
        (64, ANY, Forward(128, 128, 3, 8)),
        (128, ANY, Forward(128, 64, 3, 8)),
        (256, ANY, Forward(128, 32, 2, 8)),
    ],
}
BACKWARD: Table[Backward] = {
    INTERPRETED: [(ANY, ANY, Backward(16, 16, 16, 16, 1, 4))],
    FLOAT32: [(128, ANY, Backward(32, 32, 32, 32, 1, 8)), (ANY, ANY, Backward(16, 16, 16, 16, 1, 4))],
    80: [
        (64, ANY, Backward(64, 64, 64, 64, 2, 4)),
        (128, ANY, Backward(64, 64, 64, 64, 2, 8)),
        (256, ANY, Backward(32, 32, 32, 32, 2, 4)),
    ],
    86: [
        (64, ANY, Backward(64, 64, 64, 64, 2, 4)),
        (128, ANY, Backward(32, 64, 64, 32, 2, 4)),
        (256, ANY, Backward(32, 32, 32, 32, 1, 4)),
    ],
    90: [
        (64, 256, Backward(64, 64, 64, 64, 3, 4)),
        (64, ANY, Backward(64, 128, 128, 64, 3, 8)),
        (128, ANY, Backward(64, 128, 128, 64, 2, 8)),
        (256, ANY, Backward(32, 64, 64, 32, 2, 8)),
    ],
}
BIAS: Table[Forward] = {  # the gradient of a shared bias
    INTERPRETED: [(ANY, ANY, Forward(16, 16, 1, 4))],
    FLOAT32: [(ANY, ANY, Forward(32, 32, 1, 4))],
    80: [
        (64, ANY, Forward(64, 64, 2, 8)),
        (128, ANY, Forward(64, 32, 2, 4)),
        (256, ANY, Forward(32, 32, 1, 4)),
    ],
    90: [
        (64, ANY, Forward(64, 64, 2, 4)),
        (128, ANY, Forward(64, 64, 2, 8)),
        (256, ANY, Forward(32, 32, 2, 4)),
    ],
}
WINDOW: Table[Window] = {
    INTERPRETED: [(ANY, ANY, Window(2, 1, 4))],
    80: [(ANY, ANY, Window(4, 2, 4))],
}
BIAS_PROGRAMS = 512  # aimed at when a sum over the batch is split: a constant, so that every GPU adds in one order


def find(table: Table[Tile], arch: int, width: int, length: int = ANY) -> Tile:
    """The first fitting row of the newest architecture that is not newer than `arch`."""
    known = arch if arch in (INTERPRETED, FLOAT32) else max(known for known in table if known <= max(arch, 80))
    return next(tile for widest, longest, tile in table[known] if width <= widest and length <= longest)


def processors(device: torch.device) -> int:
    """Multiprocessors of a GPU; 2 on a CPU, where one runs after the other."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 2
