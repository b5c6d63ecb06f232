"""Training: the loop against a loop written out, exact resume, schedules, averages, the smoothed loss."""

import copy
import hashlib
import math
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from tformerlib.objectives.smoothing import label_smoothed_cross_entropy
from tformerlib.training import CheckpointError, History, average_checkpoints, constant, cosine, fit, noam, parse
from tformerlib.training.order import chosen

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Bitwise equality holds for an equal number of threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def task() -> tuple[Tensor, Tensor]:
    """100 examples (x, y) of a smooth function of 8 numbers."""
    x = torch.randn(100, 8, generator=torch.Generator().manual_seed(5))
    return x, x[:, :2].sin().sum(-1, keepdim=True)


def network(dropout: float = 0.2, width: int = 16) -> nn.Sequential:
    """A small network with everything that a state_dict may hold: matrices, biases, float and integer buffers."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return nn.Sequential(
            nn.Linear(8, width), nn.BatchNorm1d(width), nn.Tanh(), nn.Dropout(dropout), nn.Linear(width, 4),
            nn.Linear(4, 1),
        )  # fmt: skip


def squares(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return F.mse_loss(model(batch[0]), batch[1])


def noisy(model: nn.Module, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, dict[str, Any]]:
    """A loss that draws from every generator there is, as augmentations do."""
    noise = random.random() + float(np.random.rand()) + torch.rand(())
    value = squares(model, (batch[0] + 0.01 * noise, batch[1]))
    return value, {"noise": noise, "twice": 2 * value}


def fingerprint(model: nn.Module, history: History) -> str:
    """Changes with any bit of the weights, the averages, the losses or the metrics."""
    digest = hashlib.sha256()
    for state in (model.state_dict(), history.ema or {}, *history.kept):
        for name, tensor in state.items():
            digest.update(name.encode() + tensor.numpy().tobytes())
    metrics = [{k: v for k, v in entry.items() if k != "seconds"} for entry in history.metrics]
    digest.update(repr((history.steps, history.losses, history.parts, metrics)).encode())
    return digest.hexdigest()


def long_run(checkpoint: Path | None, loss: Callable[..., Any] = noisy) -> str:
    """The training that the resume tests break off; one checkpoint in three steps."""
    model = network()
    history = fit(
        model, task(), loss, steps=60, batch_size=16, lr=0.01, schedule=cosine(60, 10), ema=0.9, weight_decay=0.1,
        seed=7, checkpoint=checkpoint, checkpoint_every=3, keep_last=2, evaluate_every=5,
        evaluate=lambda m, step: {"mean": m(task()[0]).mean(), "list": np.float64(random.random())},
    )  # fmt: skip
    return fingerprint(model, history)


# --- the loop itself ---


def test_fit_is_the_loop_one_would_write() -> None:
    """Bitwise: AdamW, gradient clipping, a schedule, batches in the documented order."""
    x, y = task()
    ours, theirs = network(dropout=0.0), network(dropout=0.0)
    settings: dict[str, Any] = {"lr": 0.02, "schedule": noam(4, 10), "clip": 0.3, "weight_decay": 0.5}
    history = fit(ours, (x, y), squares, steps=40, batch_size=16, seed=1, **settings)

    matrices = [p for p in theirs.parameters() if p.ndim == 2]
    vectors = [p for p in theirs.parameters() if p.ndim == 1]
    groups = [{"params": matrices, "weight_decay": 0.5}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.98), eps=1e-9, fused=True)
    losses = []
    for step in range(1, 41):
        for group in optimizer.param_groups:
            group["lr"] = 0.02 * 4**-0.5 * min(step**-0.5, step * 10**-1.5)
        indices = chosen(100, 16, step, 1)
        loss = squares(theirs, (x[indices], y[indices]))
        loss.backward()
        nn.utils.clip_grad_norm_(theirs.parameters(), 0.3)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert history.losses == pytest.approx(losses, rel=1e-5)
    for (name, a), b in zip(ours.state_dict().items(), theirs.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6, msg=name)
    assert history.losses[-1] < history.losses[0] / 2
    assert history.steps == list(range(1, 41))


@pytest.mark.parametrize(("count", "batch_size"), [(10, 3), (7, 7), (3, 8), (1, 2)])
def test_batches_are_cut_from_shuffled_passes(count: int, batch_size: int) -> None:
    stream = torch.cat([chosen(count, batch_size, step, 0) for step in range(1, 2 * count + 1)])
    assert len(stream) == 2 * count * batch_size
    passes = stream.split(count)
    for number in passes:
        assert sorted(number.tolist()) == list(range(count))
    if count > 5:
        assert len({tuple(p.tolist()) for p in passes}) == len(passes)
        assert not torch.equal(chosen(count, batch_size, 1, 0), chosen(count, batch_size, 1, 1))


def test_result_depends_on_the_seed_and_not_on_what_ran_before() -> None:
    runs = {}
    for seed, before in ((0, 0), (0, 99), (1, 0)):
        torch.manual_seed(before)
        random.seed(before)
        np.random.seed(before)
        model = network()
        runs[seed, before] = fingerprint(model, fit(model, task(), noisy, steps=12, batch_size=8, seed=seed))
        state = torch.manual_seed(before).get_state()
        fit(network(), task(), noisy, steps=2, batch_size=8)
        assert torch.equal(torch.get_rng_state(), state), "the caller's generator must be left as it was"
    assert runs[0, 0] == runs[0, 99] != runs[1, 0]


def test_evaluation_does_not_touch_the_training() -> None:
    modes, evaluating = [], 0.0

    def evaluate(model: nn.Module, step: int) -> dict[str, Any]:
        nonlocal evaluating
        began = time.perf_counter()
        modes.append((model.training, torch.is_grad_enabled()))
        model(torch.rand(50, 8))
        time.sleep(0.02)
        evaluating += time.perf_counter() - began
        return {"draw": torch.rand(()), "list": torch.arange(2), "lengths": {3: np.float32(0.5)}}

    plain, watched = network(), network()
    without = fit(plain, task(), noisy, steps=10, batch_size=8)
    began = time.perf_counter()
    history = fit(watched, task(), noisy, steps=10, batch_size=8, evaluate=evaluate, evaluate_every=3)
    elapsed = time.perf_counter() - began
    assert history.losses == without.losses
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), watched.parameters(), strict=True))
    assert [entry["step"] for entry in history.metrics] == [3, 6, 9, 10]
    assert history.metrics[0]["list"] == [0, 1]
    assert history.metrics[0]["lengths"] == {"3": 0.5}
    assert set(modes) == {(False, False)}
    assert not watched.training
    assert history.seconds == sorted(history.seconds)
    assert history.seconds[-1] <= elapsed - evaluating, "evaluations must not be counted"
    assert 0 < history.cpu_seconds[-1] < 1


@pytest.mark.parametrize("kind", ["rows", "dicts", "dataset", "own"])
def test_examples_of_every_kind(kind: str) -> None:
    """The same examples as tensors, as a list and as a Hugging Face Dataset train the same network."""
    x, y = task()
    rows = list(zip(x, y, strict=True))
    dicts = [{"x": a, "y": b} for a, b in rows]
    if kind == "dataset":
        from datasets import Dataset

        dicts = Dataset.from_dict({"x": x, "y": y}).with_format("torch")
    kinds: dict[str, Any] = {"rows": rows, "dicts": dicts, "dataset": dicts, "own": range(100)}
    collate = (lambda indices: (x[indices], y[indices])) if kind == "own" else None

    def loss(model: nn.Module, batch: Any) -> Tensor:
        return squares(model, (batch["x"], batch["y"]) if isinstance(batch, dict) else batch)

    history = fit(network(), kinds[kind], loss, steps=5, batch_size=8, collate=collate)
    assert history.losses == fit(network(), task(), squares, steps=5, batch_size=8).losses


def test_parts_of_the_loss_are_recorded() -> None:
    history = fit(network(), task(), noisy, steps=4, batch_size=8)
    assert history.parts["twice"] == pytest.approx([2 * loss for loss in history.losses])
    assert len(set(history.parts["noise"])) == 4


def test_history_of_several_steps_read_at_once() -> None:
    """On a GPU losses are read every 16 steps; each still belongs to its own step."""
    history = History()
    history.add(3, ["part"], torch.tensor([[1.0, 10.0], [2.0, 20.0], [3.0, 30.0]]))
    history.add(4, ["part"], torch.tensor([[4.0, 40.0]]))
    assert (history.steps, history.losses) == ([1, 2, 3, 4], [1.0, 2.0, 3.0, 4.0])
    assert history.parts == {"part": [10.0, 20.0, 30.0, 40.0]}
    with pytest.raises(FloatingPointError, match="nan at step 6"):
        history.add(7, [], torch.tensor([[1.0], [math.nan], [math.nan]]))


def test_moving_average_is_its_recurrence() -> None:
    states: list[dict[str, Tensor]] = [copy.deepcopy(network().state_dict())]

    def evaluate(model: nn.Module, step: int) -> dict[str, Any]:
        states.append(copy.deepcopy(dict(model.state_dict())))
        return {}

    settings: dict[str, Any] = {"lr": 0.1, "evaluate": evaluate, "evaluate_every": 1}
    history = fit(network(), task(), squares, steps=6, batch_size=8, ema=0.7, **settings)
    assert history.ema is not None
    for name in ("0.weight", "1.running_var", "5.bias"):
        expected = states[0][name]
        for state in states[1:]:
            expected = 0.7 * expected + 0.3 * state[name]
        torch.testing.assert_close(history.ema[name], expected)
    assert history.ema["1.num_batches_tracked"] == 6
    network().load_state_dict(history.ema)


def test_kept_states_are_the_last_ones_and_average_to_their_mean() -> None:
    states = {}

    def evaluate(model: nn.Module, step: int) -> dict[str, Any]:
        states[step] = copy.deepcopy(model.state_dict())
        return {}

    history = fit(
        network(), task(), squares, steps=10, batch_size=8, keep_last=3, checkpoint_every=3, evaluate=evaluate,
        evaluate_every=1,
    )  # fmt: skip
    assert len(history.kept) == 3
    for state, step in zip(history.kept, (6, 9, 10), strict=True):
        assert all(torch.equal(state[name], states[step][name]) for name in state)
    mean = (states[6]["4.weight"] + states[9]["4.weight"] + states[10]["4.weight"]) / 3
    torch.testing.assert_close(history.averaged["4.weight"], mean)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_no_number_stops_the_run_before_the_update(value: float) -> None:
    calls = []
    model = network(dropout=0.0)

    def loss(m: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        calls.append(copy.deepcopy(model.state_dict()))
        return squares(m, batch) * (value if len(calls) == 4 else 1.0)

    with pytest.raises(FloatingPointError, match=f"{value} at step 4"):
        fit(model, task(), loss, steps=10, batch_size=8)
    assert torch.equal(model.state_dict()["0.weight"], calls[-1]["0.weight"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"steps": 0}, "steps=0"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"precision": "fp16"}, "'fp16' is not one of auto, fp32, bf16"),
        ({"keep_last": 2}, "keep_last=2 needs checkpoint_every"),
        ({"checkpoint_every": 2}, "checkpoint_every needs"),
        ({"evaluate_every": 2}, "evaluate_every=2 needs evaluate"),
        ({"ema": 1.0}, "ema=1.0"),
        ({"examples": ()}, "0 examples"),
        ({"examples": (torch.ones(3), torch.ones(4))}, r"\[3, 4\]"),
    ],
)
def test_what_cannot_be_honored_is_refused(arguments: dict[str, Any], message: str) -> None:
    everything: dict[str, Any] = {"examples": task(), "steps": 2, "batch_size": 2} | arguments
    with pytest.raises(ValueError, match=message):
        fit(network(), loss=squares, **everything)


def test_bf16_is_used_where_asked_for() -> None:
    seen = []

    def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        seen.append(model(batch[0]).dtype)
        return squares(model, (batch[0], batch[1].to(seen[-1])))

    model = network()
    for precision in ("auto", "fp32", "bf16"):
        fit(model, task(), loss, steps=1, batch_size=8, device="cpu", precision=precision)
    assert seen == [torch.float32, torch.float32, torch.bfloat16]
    assert all(p.dtype == torch.float32 for p in model.parameters())


def test_nobody_there_nothing_said(capfd: pytest.CaptureFixture[str]) -> None:
    fit(network(), task(), squares, steps=3, batch_size=8, label="training")
    assert capfd.readouterr() == ("", "")


# --- breaking off and going on ---


class StoppedError(Exception):
    pass


@pytest.mark.parametrize("stops", [(1,), (3,), (4, 31), (59, 60)])
def test_resumed_run_is_bitwise_the_uninterrupted_one(stops: tuple[int, ...], tmp_path: Path) -> None:
    checkpoint = tmp_path / "new" / "run.pt"
    for stop in stops:
        calls = range(10**6).__iter__()
        done = len(torch.load(checkpoint, weights_only=True)["history"]["steps"]) if checkpoint.exists() else 0

        def stopping(model: nn.Module, batch: Any, stop: int = stop - done, calls: Iterator[int] = calls) -> Any:
            if next(calls) + 1 == stop:
                raise StoppedError
            return noisy(model, batch)

        with pytest.raises(StoppedError):
            long_run(checkpoint, stopping)
    assert long_run(checkpoint) == long_run(None)
    assert [file.name for file in checkpoint.parent.iterdir()] == ["run.pt"]
    assert long_run(checkpoint) == long_run(None), "a finished run is read back, not trained on"


def test_killed_run_is_bitwise_the_uninterrupted_one(tmp_path: Path) -> None:
    """SIGKILL, wherever it falls, also in the middle of writing a checkpoint."""
    checkpoint = tmp_path / "run.pt"
    code = (
        "import sys, time, torch; torch.set_num_threads(1)\n"
        "from pathlib import Path\n"
        "from tests.library.test_training import long_run, noisy\n"
        "naps = iter([0.01] * 25)\n"  # then it waits to be killed, however late that is on a busy machine
        "long_run(Path(sys.argv[1]), lambda *a: (time.sleep(next(naps, 600)), noisy(*a))[1])\n"
    )
    for wait in (0.11, 0.05):
        written = checkpoint.stat().st_mtime_ns if checkpoint.exists() else 0
        process = subprocess.Popen([sys.executable, "-c", code, str(checkpoint)], cwd=ROOT)
        try:
            while not checkpoint.exists() or checkpoint.stat().st_mtime_ns == written:
                assert process.poll() is None, "it must not end by itself"
                time.sleep(0.01)
            time.sleep(wait)
        finally:
            process.send_signal(signal.SIGKILL)
            code_at_end = process.wait()
        assert code_at_end == -signal.SIGKILL
    steps = torch.load(checkpoint, weights_only=True)["history"]["steps"]
    assert 0 < len(steps) < 60
    assert long_run(checkpoint) == long_run(None)


def test_checkpoint_of_another_run_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "run.pt"
    settings: dict[str, Any] = {"steps": 4, "batch_size": 8, "lr": 0.1, "schedule": noam(4, 2)}
    fit(network(), task(), squares, checkpoint=path, **settings)
    x, y = task()
    others: list[tuple[dict[str, Any], str]] = [
        ({"steps": 5}, r"steps=4.*steps=5"),
        ({"batch_size": 4}, r"batch_size=8.*batch_size=4"),
        ({"lr": 0.2}, r"lr=0\.1.*lr=0\.2"),
        ({"schedule": noam(4, 3)}, "schedule="),
        ({"ema": 0.5}, r"ema=None.*ema=0\.5"),
        ({"seed": 1}, r"seed=0.*seed=1"),
    ]
    for change, message in others:
        with pytest.raises(CheckpointError, match=f"{path}.*{message}"):
            fit(network(), task(), squares, checkpoint=path, **(settings | change))
    with pytest.raises(CheckpointError, match=r"examples=100.*examples=90"):
        fit(network(), (x[:90], y[:90]), squares, checkpoint=path, **settings)
    with pytest.raises(CheckpointError, match=r"'0\.bias' is \(16,\) there and \(32,\) here"):
        fit(network(width=32), task(), squares, checkpoint=path, **settings)
    deeper = network().append(nn.Linear(1, 1))
    with pytest.raises(CheckpointError, match=r"'6.bias' is missing there"):
        fit(deeper, task(), squares, checkpoint=path, **settings)
    torch.save(network().state_dict(), path)
    with pytest.raises(CheckpointError, match="not written by fit"):
        fit(network(), task(), squares, checkpoint=path, **settings)


def test_damaged_checkpoint_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "run.pt"
    settings: dict[str, Any] = {"steps": 2, "batch_size": 8, "checkpoint": path}
    fit(network(), task(), squares, **settings)
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[whole.index(torch.load(path, weights_only=True)["model"]["0.weight"].numpy().tobytes()) + 2] ^= 1
    for damaged in (b"", b"no checkpoint", whole[:1000], whole[: len(whole) // 2], whole[:-1], bytes(flipped)):
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError, match=str(path)):
            fit(network(), task(), squares, **settings)


def test_checkpoint_runs_no_code(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return (os.mkdir, (str(tmp_path / "owned"),))

    path = tmp_path / "run.pt"
    torch.save({"settings": Evil()}, path)
    with pytest.raises(CheckpointError, match=str(path)):
        fit(network(), task(), squares, steps=2, batch_size=8, checkpoint=path)
    assert not (tmp_path / "owned").exists()


# --- many processes ---


def test_two_processes_train_like_one(tmp_path: Path) -> None:
    """The global batch is split; the loss curve and the weights are those of one process up to rounding."""
    code = (
        "import sys, torch; torch.set_num_threads(1)\n"
        "from tests.library.test_training import ROOT, shared_run\n"
        "from torch import distributed\n"
        "state = shared_run()\n"
        "assert distributed.get_backend() == 'gloo' and distributed.get_world_size() == 2\n"
        "torch.save(state, f'{sys.argv[1]}/{distributed.get_rank()}.pt')\n"
        "distributed.destroy_process_group()\n"
    )
    script = tmp_path / "train.py"
    script.write_text(code)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(script)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run([*command, str(tmp_path)], env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    alone = shared_run()
    for rank in (0, 1):
        state = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        for name in alone:
            torch.testing.assert_close(state[name], alone[name], rtol=1e-4, atol=1e-6)
    assert alone["losses"][-1] < alone["losses"][0] / 2


def shared_run() -> dict[str, Tensor]:
    """A run whose result does not depend on how the batch is split: no dropout, no batch statistics."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 1))
    share = 16 // int(os.environ.get("WORLD_SIZE", 1))

    def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        assert len(batch[0]) == share, "each process must compute its share and no more"
        return squares(model, batch)

    history = fit(model, task(), loss, steps=40, batch_size=16, lr=0.02, ema=0.9, clip=0.5, device="cpu")
    return {**model.state_dict(), "losses": torch.tensor(history.losses), "ema": (history.ema or {})["0.weight"]}


# --- schedules, losses, averages ---


def test_noam_is_equation_3() -> None:
    schedule = noam(512, 4000)
    for step in (1, 10, 3999, 4000, 4001, 100_000):
        assert schedule(step) == pytest.approx(512**-0.5 * min(step**-0.5, step * 4000**-1.5), rel=1e-12)
    assert max(range(3900, 4100), key=schedule) == 4000
    assert schedule(4000) == pytest.approx(6.99e-4, abs=1e-6)  # the peak rate of the base model


def test_cosine_and_constant() -> None:
    schedule = cosine(100, warmup=20)
    assert [schedule(step) for step in (1, 10, 20, 60, 100, 120)] == pytest.approx([0.05, 0.5, 1.0, 0.5, 0.0, 0.0])
    assert cosine(10)(5) == pytest.approx(0.5)
    assert {constant()(step) for step in (1, 10**6)} == {1.0}
    with pytest.raises(ValueError, match="warmup=10"):
        cosine(10, warmup=10)


def test_schedule_strings_of_tensor2tensor() -> None:
    """Against the values that Tensor2Tensor's definitions give, computed by hand."""
    base = parse("constant*linear_warmup*rsqrt_decay*rsqrt_hidden_size", constant=2.0, dim=512, warmup=8000)
    assert base(4000) == pytest.approx(2 * 0.5 * 8000**-0.5 * 512**-0.5)
    assert base(32000) == pytest.approx(2 * 1.0 * 32000**-0.5 * 512**-0.5)
    normalized = parse("constant * linear_warmup * rsqrt_normalized_decay", constant=0.1, warmup=100)
    assert [normalized(step) for step in (50, 100, 400)] == pytest.approx([0.05, 0.1, 0.05])
    linear = parse("linear_decay", steps=100, decay_steps=40)
    assert [linear(step) for step in (10, 60, 80, 100, 101)] == pytest.approx([1.0, 1.0, 0.5, 0.0, 0.0])


@pytest.mark.parametrize(
    ("product", "numbers", "message"),
    [
        ("constant*linear_warmpu", {"constant": 1.0}, "unknown factor 'linear_warmpu'.*: constant, linear_warmup"),
        ("linear_warmup", {}, "'linear_warmup'.*needs warmup > 0, got None"),
        ("rsqrt_hidden_size", {"dim": 0}, "needs dim > 0, got 0"),
        ("", {}, "unknown factor ''"),
    ],
)
def test_schedule_strings_refuse(product: str, numbers: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse(product, **numbers)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.6])
def test_smoothed_loss_is_torchs(smoothing: float) -> None:
    """Values and gradients, padding ignored."""
    generator = torch.Generator().manual_seed(0)
    logits = (4 * torch.randn(5, 7, 11, dtype=torch.float64, generator=generator)).requires_grad_()
    target = torch.randint(0, 11, (5, 7), generator=generator)
    target[:, 4:] = 0
    ours = label_smoothed_cross_entropy(logits, target, smoothing)
    theirs = F.cross_entropy(logits.flatten(0, 1), target.flatten(), ignore_index=0, label_smoothing=smoothing)
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(*(torch.autograd.grad(loss, logits)[0] for loss in (ours, theirs)))


def test_smoothed_loss_by_hand_and_refusal() -> None:
    """Two tokens, probabilities 3/4 and 1/4: (0.8 + 0.1) log(4/3) + 0.1 log 4 with a smoothing of 0.2."""
    logits = torch.tensor([[math.log(3.0), 0.0]])
    value = label_smoothed_cross_entropy(logits, torch.tensor([0]), smoothing=0.2, ignore=-1)
    assert value.item() == pytest.approx(0.9 * math.log(4 / 3) + 0.1 * math.log(4))
    with pytest.raises(ValueError, match=r"smoothing=1\.5"):
        label_smoothed_cross_entropy(logits, torch.tensor([0]), smoothing=1.5)


def test_average_of_states_and_files(tmp_path: Path) -> None:
    values = (torch.tensor(1.0), torch.tensor(2.0), torch.tensor(6.0))
    states = [{"w": torch.stack([v, -v]), "half": v.half(), "n": v.int()} for v in values]
    mean = average_checkpoints(states)
    assert mean["w"].tolist() == [3.0, -3.0]
    assert (mean["half"].item(), mean["half"].dtype, mean["n"].item()) == (3.0, torch.float16, 6)
    assert states[0]["w"].tolist() == [1.0, -1.0], "the arguments stay as they are"

    model = network()
    fit(model, task(), squares, steps=2, batch_size=8, checkpoint=tmp_path / "a.pt")
    torch.save(network().state_dict(), tmp_path / "b.pt")
    save_file(model.state_dict(), tmp_path / "c.safetensors")
    mean = average_checkpoints([tmp_path / "a.pt", str(tmp_path / "b.pt"), tmp_path / "c.safetensors"])
    expected = (2 * model.state_dict()["4.weight"] + network().state_dict()["4.weight"]) / 3
    torch.testing.assert_close(mean["4.weight"], expected)

    with pytest.raises(ValueError, match=r"'w' is \(2,\) in the first checkpoint and \(3,\) in number 2"):
        average_checkpoints([{"w": torch.ones(2)}, {"w": torch.ones(3)}])
    with pytest.raises(ValueError, match="'b' is missing in the first"):
        average_checkpoints([{"w": torch.ones(2)}, {"w": torch.ones(2), "b": torch.ones(1)}])
    with pytest.raises(ValueError, match="no checkpoint"):
        average_checkpoints([])
    (tmp_path / "c.safetensors").write_bytes(b"12345678")
    with pytest.raises(CheckpointError, match=r"c\.safetensors"):
        average_checkpoints([tmp_path / "c.safetensors"])


def test_another_optimizer_in_the_place_of_adamw(tmp_path: Path) -> None:
    """SGD with momentum against a loop written out; biases are spared the decay; a checkpoint knows its optimizer."""
    x, y = task()
    model, twin = network(0.0)[:1], copy.deepcopy(network(0.0)[:1])
    sgd = partial(torch.optim.SGD, momentum=0.9)

    def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        return (model(batch[0]).sum(-1, keepdim=True) - batch[1]).square().mean()

    settings: dict[str, Any] = {"batch_size": 10, "weight_decay": 0.1, "seed": 4, "checkpoint": tmp_path / "c.pt"}
    fit(model, (x, y), loss, steps=5, lr=0.05, optimizer=sgd, clip=None, device="cpu", **settings)
    velocity = [torch.zeros_like(p) for p in twin.parameters()]
    for step in range(1, 6):
        rows = chosen(100, 10, step, 4)
        gradients = torch.autograd.grad(loss(twin, (x[rows], y[rows])), list(twin.parameters()))
        with torch.no_grad():
            for p, g, v in zip(twin.parameters(), gradients, velocity, strict=True):
                v.mul_(0.9).add_(g + (0.1 if p.ndim > 1 else 0.0) * p)
                p.sub_(0.05 * v)
    for ours, theirs in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs)
    with pytest.raises(CheckpointError, match="optimizer"):
        fit(model, (x, y), loss, steps=5, lr=0.05, clip=None, device="cpu", **settings)
