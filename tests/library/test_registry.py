"""Names, published weights and the light import."""

import subprocess
import sys

import pytest
import torch
from torch import nn

import tformerlib as tf
from tformerlib.published import convert
from tformerlib.registry import register


def test_unknown_names_are_refused_with_the_nearest():
    with pytest.raises(ValueError, match=r"did you mean .*transformer_base"):
        tf.create_model("transformer_bas")
    with pytest.raises(TypeError, match=r"takes no widht; it takes .*source_vocab"):
        tf.create_model("transformer_base", widht=3)


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
    assert {name: make.__module__ for name, make in registry._factories.items()} == registry._index()


def test_creating_a_model_imports_no_other() -> None:
    code = (
        "import sys, tformerlib as tf; tf.create_model('coatnet_0_224', image=64, depths=(1, 1, 1, 1));"
        "print(sorted(m.rpartition('.')[2] for m in sys.modules if m.startswith('tformerlib.models.')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['coatnet']"
