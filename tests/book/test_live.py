"""Models in the page: JavaScript answers as torch does, from the very files that the page loads."""

import json
import shutil
import subprocess
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tformerlib.attention import record_attention
from tformerlib.decoding.sampling import probabilities
from tformerlib.layers.convs import ConvNorm
from tformerlib.models.bert import BERT
from tformerlib.models.detr import DETR
from tformerlib.models.gpt2 import GPT2
from tformerlib.models.rnn import RNNEncoderDecoder
from tformerlib.models.swin import Swin
from tformerlib.models.vit import ViT
from tformerlib.peers.parity import widen
from tformerlib.show.live_models import Export, export, live, load_exported

ASSETS = Path(__file__).resolve().parents[2] / "book" / "assets" / "live"
TOLERANCE = 1e-4
CASES = 200
ENGINE = ("tensor.js", "weights.js", "models.js", "sampling.js")  # train.js comes on top, where a page trains

node = shutil.which("node")
needs_node = pytest.mark.skipif(node is None, reason="no Node.js here; the browser check compares in Chromium")


def javascript(folder: Path, kind: str, about: dict[str, Any], data: bytes, inputs: list[Any]) -> list[dict[str, Any]]:
    """What the page's scripts answer to inputs."""
    scripts = folder / "scripts"
    shutil.copytree(ASSETS, scripts, dirs_exist_ok=True)
    (scripts / "package.json").write_text('{"type": "module"}')  # Node asks for it; a browser does not
    (folder / "weights.bin").write_bytes(data)
    (folder / "cases.json").write_text(json.dumps({"kind": kind, "about": about, "inputs": inputs}))
    command = [str(node), str(Path(__file__).with_name("live.mjs")), str(folder), str(scripts)]
    return list(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))


def close(theirs: list[float], ours: Tensor, what: str) -> None:
    found = torch.tensor(theirs, dtype=torch.float64).view(ours.shape)
    error, scale = (found - ours.double()).abs().max().item(), max(1.0, ours.abs().max().item())
    assert error <= TOLERANCE * scale, f"{what}: off by {error:.1e} among values up to {scale:.2g}"


def image(shape: tuple[int, int, int], seed: int) -> tuple[Tensor, dict[str, Any]]:
    x = torch.randn(1, *shape, generator=torch.Generator().manual_seed(seed))
    pixels = x[0].permute(1, 2, 0).flatten().tolist()
    return x, {"data": pixels, "channels": shape[0], "height": shape[1], "width": shape[2]}


def compare(
    tmp_path: Path, kind: str, model: nn.Module, config: dict[str, Any], inputs: list[Any], torch_inputs: list[Any],
    call: Any, precision: str,
) -> None:  # fmt: skip
    widen(model)
    exported = export(model, name="m", kind=kind, config=config, precision=precision)
    load_exported(model.eval(), exported)
    answers = javascript(tmp_path, kind, exported.about, exported.data, inputs)
    assert len(answers) == len(inputs)
    for found, x in zip(answers, torch_inputs, strict=True):
        with torch.no_grad(), record_attention() as maps:
            logits = call(model, x)
        assert logits.std() > 0.1, "answers that hardly differ prove little"
        close(found["logits"], logits, "logits")
        if kind in ("gpt", "bert", "vit"):
            for layer, seen in zip(found["weights"], maps, strict=True):
                for head, theirs in enumerate(layer):
                    rows = len(theirs) // seen.shape[-1]
                    close(theirs, seen[0, head][-rows:], "attention")


@needs_node
@pytest.mark.parametrize("precision", ["float32", "float16", "int8"])
def test_gpt_answers_as_torch_with_its_cache(tmp_path, precision):
    model = GPT2(vocab=37, dim=24, depth=2, heads=3, hidden=40, context=19, dropout=0.0)
    generator = torch.Generator().manual_seed(1)
    inputs, texts = [], []
    for i in range(CASES):
        length = 1 + i % 19
        ids = torch.randint(37, (length,), generator=generator).tolist()
        cut = i % length  # read in two pieces: the second one sees the first through the cache
        inputs.append({"parts": [ids[:cut], ids[cut:]] if cut else [ids]})
        texts.append(torch.tensor([ids]))
    config = {"depth": 2, "heads": 3}
    compare(tmp_path, "gpt", model, config, inputs, texts, lambda m, x: m(x), precision)


@needs_node
def test_bert_answers_as_torch(tmp_path):
    model = BERT(vocab=41, dim=20, depth=2, heads=4, hidden=28, context=17, dropout=0.0, pad=40)
    ids = [torch.randint(40, (1 + i % 17,), generator=torch.Generator().manual_seed(i)).tolist() for i in range(CASES)]
    inputs = [{"ids": row} for row in ids]
    config = {"depth": 2, "heads": 4}
    tensors = [torch.tensor([row]) for row in ids]
    compare(tmp_path, "bert", model, config, inputs, tensors, lambda m, x: m(x)[0], "int8")


@needs_node
def test_vit_answers_as_torch(tmp_path):
    model = ViT(image=(12, 20), patch=4, classes=7, dim=24, depth=2, heads=3)
    pairs = [image((3, 12, 20), i) for i in range(CASES)]
    config = {"depth": 2, "heads": 3, "patch": 4}
    compare(tmp_path, "vit", model, config, [p for _, p in pairs], [x for x, _ in pairs], lambda m, x: m(x), "int8")


@needs_node
@pytest.mark.parametrize("window", [2, 4])
def test_swin_answers_as_torch(tmp_path, window):
    model = Swin(image=16, patch=2, classes=5, dim=16, depths=(2, 2), heads=(2, 4), window=window)
    pairs = [image((3, 16, 16), i) for i in range(CASES // 2)]
    config = {"depths": [2, 2], "heads": [2, 4], "window": window, "patch": 2}
    compare(tmp_path, "swin", model, config, [p for _, p in pairs], [x for x, _ in pairs], lambda m, x: m(x), "int8")


class Eyes(nn.Module):
    """Convolutions with norms over groups, as the chapter on DETR has them."""

    def __init__(self) -> None:
        super().__init__()
        norm = partial(nn.GroupNorm, 4)
        self.convs = nn.Sequential(ConvNorm(3, 12, stride=2, norm=norm), ConvNorm(12, 16, norm=norm))

    def features(self, image: Tensor) -> list[Tensor]:
        return [self.convs(image).movedim(1, -1)]


@needs_node
def test_detr_answers_as_torch(tmp_path):
    model = DETR(classes=3, queries=5, backbone=Eyes, dim=16, heads=2, hidden=20, encoder=1, decoder=2, dropout=0.0)
    pairs = [image((3, 14, 10), i) for i in range(CASES)]
    config = {"encoder": 1, "decoder": 2, "heads": 2, "strides": [2, 1], "groups": 4}

    def call(model: nn.Module, x: Tensor) -> Tensor:
        found = model(x)
        return torch.cat([found.logits[-1].flatten(), found.boxes[-1].flatten()])

    compare(tmp_path, "detr", model, config, [p for _, p in pairs], [x for x, _ in pairs], call, "float16")


@needs_node
def test_the_translator_answers_as_torch_and_looks_where_it_looks(tmp_path):
    model = RNNEncoderDecoder(source_vocab=23, target_vocab=19, embed=10, hidden=14)
    widen(model)
    exported = export(model, name="m", kind="translator", config={"hidden": 14})
    load_exported(model.eval(), exported)
    generator, inputs = torch.Generator().manual_seed(0), []
    for i in range(CASES):
        source = torch.randint(1, 23, (1 + i % 7,), generator=generator).tolist()
        target = torch.randint(1, 19, (1 + i % 5,), generator=generator).tolist()
        inputs.append({"source": source, "target": target})
    for found, x in zip(javascript(tmp_path, "translator", exported.about, exported.data, inputs), inputs, strict=True):
        with torch.no_grad(), record_attention() as maps:
            logits = model(torch.tensor([x["source"]]), torch.tensor([x["target"]]))
        close(found["logits"], logits, "logits")
        close(found["weights"][0][0], torch.cat([m.flatten() for m in maps]), "alignment")


@needs_node
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_a_hundred_steps_in_the_page_are_a_hundred_steps_of_torch(tmp_path, decay):
    torch.manual_seed(3)
    sizes = {"vocab": 11, "dim": 16, "depth": 1, "heads": 2, "hidden": 32, "context": 12}
    model = GPT2(**sizes, dropout=0.0).double()
    widen(model, gain=0.7)
    weights = {
        name: {"rows": p.shape[0] if p.ndim > 1 else 1, "cols": p.shape[-1], "data": p.flatten().tolist()}
        for name, p in model.named_parameters()
    }
    generator = torch.Generator().manual_seed(5)
    batches = [
        [torch.randint(11, (4 + k,), generator=generator).tolist() for k in range(3)] for _ in range(100)
    ]  # fmt: skip
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, betas=(0.9, 0.95), eps=1e-8, weight_decay=decay)
    losses = []
    for batch in batches:
        loss = sum(
            nn.functional.cross_entropy(model(torch.tensor([ids[:-1]]))[0], torch.tensor(ids[1:])) for ids in batch
        ) / len(batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    about = {"tensors": [], "config": {"depth": 1, "heads": 2}}
    options = {"lr": 3e-3, "betas": [0.9, 0.95], "decay": decay}
    inputs = [{"weights": weights, "options": options, "batches": batches}]
    (found,) = javascript(tmp_path, "learning-gpt", about, b"", inputs)
    assert losses[-1] != pytest.approx(losses[0], rel=0.01), "it has to learn something"
    assert found["losses"] == pytest.approx(losses, abs=1e-5)


@needs_node
def test_sampling_draws_as_the_library(tmp_path):
    generator = torch.Generator().manual_seed(0)
    choices: list[dict[str, Any]] = [
        {"temperature": 0.7}, {"topK": 3}, {"topP": 0.6}, {"temperature": 1.3, "topK": 5, "topP": 0.9},
        {"temperature": 0},
    ]  # fmt: skip
    names = {"topK": "top_k", "topP": "top_p", "temperature": "temperature"}
    inputs, expected = [], []
    for i in range(CASES):
        logits, uniform = 3 * torch.randn(9, generator=generator), torch.rand(4, generator=generator)
        choice = choices[i % len(choices)]
        p = probabilities(logits.double(), **{names[key]: value for key, value in choice.items()})
        inputs.append({"logits": logits.double().tolist(), "choice": choice, "uniform": uniform.tolist()})
        expected.append((p, [int((p.double().cumsum(0) <= u).sum()) for u in uniform.double()]))
    about: dict[str, Any] = {"tensors": [], "config": {}}
    for found, (p, drawn) in zip(javascript(tmp_path, "sampling", about, b"", inputs), expected, strict=True):
        close(found["p"], p, "probabilities")
        assert found["drawn"] == drawn


# --- files ----------------------------------------------------------------------------------------------------------


def test_the_engine_is_small():
    assert sum(len((ASSETS / name).read_bytes()) for name in ENGINE) <= 30_000


def test_integers_are_close_and_shared_weights_are_stored_once():
    model = GPT2(vocab=64, dim=32, depth=1, heads=2, context=8, dropout=0.0)
    exported = export(model, name="m", kind="gpt", config={})
    names = [tensor["name"] for tensor in exported.about["tensors"]]
    assert "output.weight" not in names and "tokens.weight" in names
    for name, value in exported.state().items():
        row = value.flatten(1) if value.ndim > 1 else value[None]
        error = (value - model.state_dict()[name]).abs().max()
        assert error <= row.abs().max() / 127, name


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "rwkv"}, "kind='rwkv' is not one of gpt"),
        ({"precision": "int4"}, "precision='int4'"),
    ],
)
def test_what_no_script_runs_is_refused(change, message):
    model = nn.Linear(2, 2)
    with pytest.raises(ValueError, match=message):
        export(model, **{"name": "m", "kind": "gpt", "config": {}} | change)


def test_too_large_or_broken_weights_are_refused():
    with pytest.raises(ValueError, match=r"takes 1,\d+,\d+ bytes"):
        export(nn.Linear(1000, 1000), name="m", kind="vit", config={})
    broken = nn.Linear(2, 2)
    nn.init.constant_(broken.weight, float("nan"))
    with pytest.raises(ValueError, match="weight has numbers that are not finite"):
        export(broken, name="m", kind="vit", config={})


def test_a_foreign_state_is_refused():
    exported = export(nn.Linear(2, 3), name="m", kind="vit", config={})
    with pytest.raises(ValueError, match="too many"):
        load_exported(
            nn.LayerNorm(2), Export({"tensors": [{**exported.about["tensors"][0], "name": "other"}]}, exported.data)
        )


def test_the_share_of_equal_answers_is_measured(capsys):
    torch.manual_seed(0)
    model = ViT(image=8, patch=4, classes=3, dim=16, depth=1, heads=2)
    widen(model)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    inputs = [torch.randn(1, 3, 8, 8) for _ in range(50)]
    live(
        model, name="tiny", kind="vit", config={}, fallback="<p>still</p>", caption="A digit.", alt="a digit",
        inputs=inputs, answer=lambda m, x: m(x),
    )  # fmt: skip
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items()), (
        "the model stays as it is"
    )
    printed = capsys.readouterr().out
    assert "% of 50 answers are those of float32" in printed and "KB of weights" in printed
