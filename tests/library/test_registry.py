"""Names, published weights and the light import."""

import ast
import importlib
import inspect
import pkgutil
import pydoc
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import torch
from torch import nn

import tformerlib as tf
from tformerlib import models, registry
from tformerlib.published import convert
from tformerlib.registry import register


def test_unknown_names_are_refused_with_the_nearest():
    with pytest.raises(ValueError, match=r"no model 'transformer_bas'; did you mean transformer_base") as caught:
        tf.create_model("transformer_bas")
    assert str(caught.value).count(",") <= 2  # a few, not all
    with pytest.raises(ValueError, match=r"^no model '0123456789'; list_models\(\) has all \d+$"):
        tf.create_model("0123456789")


@pytest.mark.parametrize(
    ("name", "overrides", "error", "message"),
    [
        ("transformer_base", {"widht": 3}, TypeError, r"takes no widht; it takes .*source_vocab"),
        ("swin_tiny", {"dephts": (1, 1)}, TypeError, r"takes no dephts \(did you mean depths\?\); it takes image"),
        ("cxv_linear", {"mixer": None}, TypeError, "takes no mixer"),
        ("deit_tiny_distilled", {"prefix": 3}, TypeError, "takes no prefix"),
        ("resnet18", {"act": None}, TypeError, "takes no act"),
        ("swin_tiny", {"image": [224, 224]}, TypeError, r"image=\[224, 224\] is of type list, not int"),
        ("vit_base_patch16", {"dim": "768"}, TypeError, "dim='768' is of type str, not int"),
        ("vit_base_patch16", {"depth": True}, TypeError, "depth=True is of type bool, not int"),
        ("swin_tiny", {"depths": (2, 2.5)}, TypeError, r"depths=\(2, 2.5\) is of type tuple, not tuple\[int, ...\]"),
        ("transformer_base", {"residual": nn.Linear}, TypeError, "residual=.*Linear.* not type"),
        ("vit_base_patch16", {"heads": 0}, ValueError, "vit_base_patch16: heads=0 is not positive"),
        ("swin_tiny", {"heads": (3, 6, 12, -24)}, ValueError, r"heads=\(3, 6, 12, -24\) is not positive"),
        ("bert_tiny", {"dropout": 1.5}, ValueError, r"dropout=1.5 is not a probability in \[0, 1\)"),
        ("vit_base_patch16", {"heads": 7}, ValueError, "heads=7 does not divide dim=768"),  # the model's own
    ],
)
def test_what_cannot_be_right_is_refused_by_what_was_wrong(name, overrides, error, message):
    with pytest.raises(error, match=message):
        tf.create_model(name, **overrides)


@pytest.mark.parametrize(
    ("name", "overrides"),
    [
        ("deit_tiny_distilled", {"image": (32, 48), "patch": 16, "heads": 2, "dim": 8, "depth": 1}),
        ("swinv2_tiny_window8", {"channels": 2, "dim": 8, "depths": [1, 1], "heads": [1, 2]}),
        ("conviformer_base_448", {"dim": 16, "heads": 4, "depth": 3, "mlp": 1.0}),
        ("vit_p_1gf", {"dim": 8, "heads": 2, "depth": 1, "dropout": 0.1}),
        ("efficientnet_b0", {"stem": 8, "blocks": 2, "norm": nn.BatchNorm2d}),
        ("efficient_vit", {"dim": 8, "depth": 1, "hidden": 8, "blocks": 3, "patch": 4, "image": 32}),
        ("resnet18", {"depths": (1,), "dims": (8,), "stem": 4, "norm": lambda dim: nn.GroupNorm(2, dim)}),
        ("dn_detr_resnet50", {"queries": 3, "dim": 16, "heads": 2, "hidden": 8, "encoder": 1, "decoder": 1}),
        ("gpt3_small", {"vocab": 7, "dim": 8, "heads": 2, "depth": 2, "window": None}),
    ],
)
def test_arguments_handed_on_by_a_class_are_taken(name, overrides):
    tf.create_model(name, **overrides)


def test_an_error_from_inside_comes_through_as_it_is():
    def backbone() -> nn.Module:
        return nn.Linear(2)  # type: ignore[call-arg]

    with pytest.raises(TypeError, match="missing 1 required positional argument: 'out_features'"):
        tf.create_model("detr_resnet50", backbone=backbone)


@pytest.mark.parametrize("name", tf.list_models())
def test_signature_and_docstring_say_what_is_built(name):
    """Every default that the signature shows is taken, and together they make the model that the docstring counts."""
    factory = registry.variant_of(name)
    shown = {key: p.default for key, p in inspect.signature(factory).parameters.items()}
    assert shown and inspect.Parameter.empty not in shown.values()
    with torch.device("meta"):
        count = sum(p.numel() for p in tf.create_model(name, **shown).parameters())
    about = inspect.getdoc(factory) or ""
    assert re.search(r"[A-Z]\w+.*\b(19|20)\d\d\b", about), "cites no paper"
    size = re.search(r"([\d,]+)(\.\d+)? ([MB]) parameters", about)
    assert size, "does not say how many parameters"
    unit = {"M": 1e6, "B": 1e9}[size[3]]
    said, digits = float(size[1].replace(",", "") + (size[2] or "")) * unit, len((size[2] or ".")[1:])
    assert abs(said - count) <= 0.5001 * unit / 10**digits, f"{count:,} parameters"


def test_help_and_signature_show_the_variants_own_defaults():
    from tformerlib.models import swin

    shown = inspect.signature(swin.swin_base_384).parameters
    assert (shown["dim"].default, shown["image"].default, shown["window"].default) == (128, 384, 12)
    assert "image: int = 384" in pydoc.render_doc(swin.swin_base_384)
    assert swin.Swin(dim=8, heads=(1,), depths=(1,)).head.in_features == 8  # reading it left the class as it was


def test_a_name_leads_to_its_file_without_importing_it():
    code = """
import sys
from tformerlib import registry
assert registry.module_of("swinv2_base_window12to24").name == "swin_v2.py"
assert registry.module_of("coatnet_0_224").name == "coatnet.py"
assert "tformerlib.models.coatnet" not in sys.modules
registry.create_model("coatnet_0_224", dims=(8, 8), depths=(1, 1), layout="CC", image=32)
print(sorted(m.rpartition(".")[2] for m in sys.modules if m.startswith("tformerlib.models.")))
"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "['coatnet']"


def test_the_index_of_names_is_what_importing_registers():
    for module in pkgutil.iter_modules(models.__path__):
        importlib.import_module(f"tformerlib.models.{module.name}")
    shipped = {name for name, f in registry._factories.items() if f.__module__.startswith("tformerlib.models.")}
    assert shipped == set(tf.list_models())
    for name in shipped:
        assert registry.module_of(name) == Path(inspect.getfile(sys.modules[registry._factories[name].__module__]))


def test_models_describe_themselves(capsys):
    tf.describe("swin_tiny")
    text = capsys.readouterr().out
    for part in ("28,288,354", "depths=(2, 2, 6, 2)", "Liu et al. 2021", "with timm", "swin.shifted-windows"):
        assert part in text
    tf.describe("luong_dot")  # a file of three papers
    text = capsys.readouterr().out
    assert "Luong et al. 2015" in text and "bahdanau" not in text.lower() and "attention=Dot" in text
    with pytest.raises(ValueError, match="did you mean swin_tiny"):
        tf.describe("swin_tny")


def test_what_is_missing_names_the_extra():
    code = "import sys; sys.modules['yaml'] = None; import tformerlib as tf; tf.describe('swin_tiny')"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert re.search(r"yaml.*pip install 'tformerlib\[show\]'", out.stderr.splitlines()[-1])


def test_every_package_is_in_the_extra_that_errors_name():
    """`needs("show")` promises that tformerlib[show] brings what is imported below it."""
    root = Path(tf.__file__).parent
    extras = tomllib.loads((root.parent / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    names = {"yaml": "pyyaml", "sklearn": "scikit-learn", "skimage": "scikit-image"}
    found = 0
    for path in root.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.With) or not ast.unparse(node.items[0].context_expr).startswith("needs("):
                continue
            extra = ast.literal_eval(node.items[0].context_expr.args[0])
            for each in node.body:
                modules = [each.module] if isinstance(each, ast.ImportFrom) else [a.name for a in each.names]
                for module in modules:
                    top = str(module).partition(".")[0]
                    listed = [re.split(r"[<>=\[]", row)[0] for row in extras[extra]]
                    assert names.get(top, top) in listed, f"{path.name}: {top} is not in {extra}"
                    found += 1
    assert found > 15


def test_types_are_shipped():
    assert (Path(tf.__file__).parent / "py.typed").exists()


def test_overrides_reach_the_model_and_names_match_patterns():
    model = tf.create_model("transformer_base", source_vocab=11, target_vocab=7, dim=16, depth=1, heads=2, hidden=8)
    assert model(torch.ones(2, 3, dtype=torch.long), torch.ones(2, 4, dtype=torch.long)).shape == (2, 4, 7)
    assert {"transformer_base", "transformer_big"} <= set(tf.list_models("transformer_*"))


def test_a_name_is_taken_once():
    def transformer_base() -> nn.Module:
        return nn.Identity()

    tf.list_models()
    with pytest.raises(ValueError, match="'transformer_base' is already registered"):
        register(transformer_base)


def test_converted_keys_are_renamed_split_dropped_or_refused():
    rules = [(r"qkv\.(w|b)", r"attn.{q,k,v}.\1"), ("junk", None), (r"fc\.(.*)", r"mlp.\1")]
    state = {"qkv.w": torch.arange(6.0), "junk": torch.ones(1), "fc.bias": torch.zeros(2)}
    out = convert(state, rules)
    assert sorted(out) == ["attn.k.w", "attn.q.w", "attn.v.w", "mlp.bias"] and out["attn.k.w"].tolist() == [2.0, 3.0]
    with pytest.raises(KeyError, match=r"no rule for 'stray' \(3,\)"):
        convert({"stray": torch.ones(3)}, rules)
    with pytest.raises(ValueError, match="would overwrite"):
        convert({"a": torch.ones(1), "b": torch.ones(1)}, [("a|b", "c")])


def test_unknown_sources_are_refused():
    model = tf.create_model("transformer_base", source_vocab=5, target_vocab=5, dim=8, depth=1, heads=2, hidden=8)
    with pytest.raises(ValueError, match=r"source='tensorflow'; known sources: .*transformers"):
        tf.load_published(model, {}, source="tensorflow")
    with pytest.raises(ValueError, match="no published weights are known for Linear"):
        tf.load_published(nn.Linear(2, 2), {})


def test_import_is_light():
    heavy = ["matplotlib", "plotly", "datasets", "accelerate", "transformers", "pandas", "sklearn", "IPython"]
    code = f"import sys, tformerlib; print([m for m in {heavy} if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_names_are_found_without_importing_and_none_is_missed() -> None:
    """Every name that importing all models registers is in the index, with the module that registers it."""
    import importlib
    import pkgutil

    from tformerlib import models, registry

    for module in pkgutil.iter_modules(models.__path__):
        importlib.import_module(f"{models.__name__}.{module.name}")
    assert {name: make.__module__ for name, make in registry._factories.items()} == registry._module_names()


def test_creating_a_model_imports_no_other() -> None:
    code = (
        "import sys, tformerlib as tf; tf.create_model('coatnet_0_224', image=64, depths=(1, 1, 1, 1));"
        "print(sorted(m.rpartition('.')[2] for m in sys.modules if m.startswith('tformerlib.models.')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['coatnet']"
