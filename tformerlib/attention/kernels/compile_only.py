"""What the compiler makes of the kernels, on a machine without a GPU: registers, shared memory, instructions.

    python -m tformerlib.attention.kernels.compile_only forward --arch 75 90 --width 64 --with causal

prints one JSON object for each kernel and architecture. It is a process of its own, because Triton decides once in a
process whether it compiles or interprets; from Python, `compile_kernels` starts one.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch

from .fused import Launch, Problem, fake_gradients, fake_outputs
from .fused_window import WindowProblem

KERNELS = ("forward", "backward", "bias_gradient", "window_forward", "window_backward")
FEATURES = ("causal", "padding", "bias", "mask", "window", "softcap", "grouped")
# What to look for in PTX: tensor cores (two generations), multiply-adds without them, exponentials, overlapped copies.
INSTRUCTIONS = ("wgmma.mma_async", "mma.sync", "fma.rn.f32", "ex2.approx", "cp.async.cg", "bar.sync")


class Compiled(NamedTuple):
    """One kernel as compiled for one architecture. Registers are those of a thread; spilled and shared are bytes."""

    kernel: str
    arch: int
    registers: int
    spilled: int
    shared: int
    instructions: dict[str, int]
    ptx: str


def compile_kernels(
    *kernels: str,
    arch: tuple[int, ...] = (80,),
    width: int = 64,
    dtype: str = "bfloat16",
    length: int = 1024,
    features: tuple[str, ...] = (),
) -> list[Compiled]:
    """Compiles kernels (see KERNELS) for each architecture (90 is sm_90) with the tiles that a launch would use.

    Args:
        width: of a head.  length: queries and keys (for windows: the side of the window, at most 8).
        dtype: of torch, or "tf32": float32 whose products may be rounded to TF32.
        features: of FEATURES; "window" is a sliding window of 128, "grouped" two query heads to a key head.

    Raises:
        RuntimeError: what the compiler had to say.
    """
    command = [sys.executable, "-m", __name__, *kernels, "--arch", *map(str, arch), "--width", str(width)]
    command += ["--dtype", dtype, "--length", str(length), "--ptx", *(["--with", *features] if features else [])]
    compiling = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    root = Path(__file__).parents[3]
    nothing = subprocess.DEVNULL
    done = subprocess.run(command, stdin=nothing, capture_output=True, text=True, env=compiling, cwd=root, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return [Compiled(**json.loads(line)) for line in done.stdout.splitlines()]


class NoGPU:
    """Stands where Triton expects the driver of a GPU: it names an architecture and can launch nothing."""

    def __init__(self, arch: int) -> None:
        self.arch = arch

    def get_current_target(self) -> Any:
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", self.arch, 32)

    def get_current_device(self) -> int:
        return self.arch  # Triton keeps compiled kernels by device

    def get_current_stream(self, device: int) -> int:
        return 0


def compile_launch(launch: Launch, arch: int) -> Compiled:
    """Compiles a launch through Triton's own path: the arguments are specialized as on a GPU."""
    import triton

    triton.runtime.driver.set_active(NoGPU(arch))
    compiled = launch.kernel.warmup(**launch.args, **launch.options, grid=(launch.programs,))
    ptx = compiled.asm["ptx"]
    counts = {name: len(re.findall(rf"^\s*(?:@\S+ )?{re.escape(name)}", ptx, re.MULTILINE)) for name in INSTRUCTIONS}
    registers, spilled = assemble(ptx, arch)
    return Compiled(launch.kernel.__name__, arch, registers, spilled, compiled.metadata.shared, counts, ptx)


def assemble(ptx: str, arch: int) -> tuple[int, int]:
    """Registers of a thread, and bytes that spilled, as Triton's own `ptxas -v` reports them."""
    from triton.backends.nvidia.compiler import get_ptxas

    target = re.search(r"^\.target ([^\s,]+)", ptx, re.MULTILINE)
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "kernel.ptx"
        source.write_text(ptx)
        name, cubin = f"--gpu-name={target[1] if target else ''}", f"{source}.cubin"
        command = [get_ptxas(arch).path, "-v", name, str(source), "-o", cubin]
        report = subprocess.run(command, capture_output=True, text=True, check=False)
    used, stores = (re.search(pattern, report.stderr) for pattern in (r"Used (\d+) reg", r"(\d+) bytes spill stores"))
    if used is None or stores is None:
        raise RuntimeError(f"ptxas: {report.stderr or report.stdout}")
    return int(used[1]), int(stores[1])


def launches(
    kernels: list[str], arch: int, width: int, dtype: str, length: int, features: list[str]
) -> Iterator[Launch]:
    """Launches on tensors without storage."""
    batch, heads, kind = 2, 4, torch.float32 if dtype == "tf32" else getattr(torch, dtype)
    torch.set_float32_matmul_precision("high" if dtype == "tf32" else "highest")

    def empty(*shape: int, dtype: torch.dtype = kind) -> torch.Tensor:
        return torch.empty(*shape, dtype=dtype, device="meta")

    for kernel in kernels:
        if kernel.startswith("window"):
            qkv, tokens = empty(batch, 2 * length, 2 * length, 3, heads, width), length**2
            window = WindowProblem(qkv, empty(heads, tokens, tokens, dtype=torch.float32), length, 1, 0.1, arch)
            o = empty(batch, 2 * length, 2 * length, heads, width)
            backward = window.backward(o, qkv, window.partial_bias())
            yield window.forward(o) if kernel == "window_forward" else backward
            continue
        q = empty(batch, length, heads, width).transpose(1, 2)
        k = empty(batch, length, heads // (2 if "grouped" in features else 1), width).transpose(1, 2)
        problem = Problem(
            q, k, k, empty(1, heads, length, length) if "bias" in features else None,
            empty(batch, 1, length, length, dtype=torch.bool) if "mask" in features else None,
            empty(batch, length, dtype=torch.bool) if "padding" in features else None,
            width**-0.5, "causal" in features, 128 if "window" in features else 0, 50.0 * ("softcap" in features), arch,
        )  # fmt: skip
        o, lse = fake_outputs(q, k)
        if kernel == "forward":
            yield problem.forward(o, lse)
        elif kernel == "backward":
            yield problem.backward(o, lse, lse, *fake_gradients(q, k, k, None)[:3], None)
        else:
            yield problem.bias_gradient(o, lse, lse)[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kernels", nargs="+", choices=KERNELS)
    parser.add_argument("--arch", nargs="+", type=int, default=[80], help="90 for sm_90")
    parser.add_argument("--width", type=int, default=64, help="of a head")
    parser.add_argument("--dtype", default="bfloat16", help="of torch, or tf32")
    parser.add_argument("--length", type=int, default=1024, help="queries and keys, or the side of a window")
    parser.add_argument("--with", nargs="*", default=[], dest="features", choices=FEATURES)
    parser.add_argument("--ptx", action="store_true", help="print the code, too")
    given = parser.parse_args()
    for arch in given.arch:
        for launch in launches(given.kernels, arch, given.width, given.dtype, given.length, given.features):
            compiled = compile_launch(launch, arch)
            print(json.dumps((compiled if given.ptx else compiled._replace(ptx=""))._asdict()), flush=True)


if __name__ == "__main__":
    main()
