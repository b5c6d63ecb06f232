"""GPT, GPT-2 and GPT-3: sizes, masks, writing with a cache, and inputs that are refused."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import tformerlib as tf
from tformerlib.attention import record_attention
from tformerlib.decoding.sampling import generate, probabilities
from tformerlib.models.gpt import GPT
from tformerlib.models.gpt2 import GPT2
from tformerlib.models.gpt3 import GPT3
from tformerlib.peers import prepare

SIZES: dict[str, Any] = {"vocab": 31, "dim": 32, "depth": 4, "heads": 4, "context": 24, "dropout": 0.0}
PROMPTS = [[5, 1, 7, 7, 2, 9], [3], [30, 0, 4]]


def wide(kind: type[nn.Module], **overrides: Any) -> Any:
    torch.manual_seed(0)
    model = kind(**(SIZES | overrides))
    for name, p in model.named_parameters():
        nn.init.normal_(p, mean=float("norm" in name and name.endswith("weight")), std=0.3)
    return model.eval()


MODELS = {
    "gpt": lambda **o: wide(GPT, **o),
    "gpt2": lambda **o: wide(GPT2, **o),
    "gpt3": lambda **o: wide(GPT3, window=3, **o),
}
each_model = pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)

COUNTS = {
    "gpt": (116_534_784, 116_534_784),
    "gpt2": (124_439_808, 117_000_000),
    "gpt2_medium": (354_823_168, 345_000_000),
    "gpt2_large": (774_030_080, 762_000_000),
    "gpt2_xl": (1_557_611_200, 1_542_000_000),
    "gpt3_small": (125_226_240, 125_000_000),
    "gpt3_medium": (355_871_744, 350_000_000),
    "gpt3_large": (760_300_032, 760_000_000),
    "gpt3_xl": (1_315_723_264, 1_300_000_000),
    "gpt3_2_7b": (2_651_553_280, 2_700_000_000),
    "gpt3_6_7b": (6_658_404_352, 6_700_000_000),
    "gpt3_13b": (12_936_488_380, 13_000_000_000),
    "gpt3_175b": (174_604_259_328, 175_000_000_000),
}


@pytest.mark.parametrize("name", COUNTS)
def test_parameter_counts_beside_the_papers(name):
    """Ours is the formula: embeddings, then 12 C^2 + 13 C a layer, then the final norm; the paper's within 7 %."""
    with torch.device("meta"):
        model: Any = tf.create_model(name)
    dim, depth = model.tokens.embedding_dim, len(model.blocks)
    formula = (model.vocab + model.context) * dim + depth * (12 * dim**2 + 13 * dim) + 2 * dim * (name != "gpt")
    if name == "gpt3_13b":  # heads of 128 together are 20 narrower than the model
        formula -= depth * 20 * (4 * dim + 3)
    ours, paper = sum(p.numel() for p in model.parameters()), COUNTS[name][1]
    assert ours == formula == COUNTS[name][0]
    assert abs(ours / paper - 1) < 0.07


@each_model
def test_a_token_sees_nothing_later(make):
    model = make()
    ids = torch.randint(31, (2, 12))
    changed = ids.clone()
    changed[:, 7] = (ids[:, 7] + 1) % 31
    before, after = model(ids), model(changed)
    torch.testing.assert_close(before[:, :7], after[:, :7])
    assert (before[:, 7:] - after[:, 7:]).abs().amax(-1).min() > 1e-3


def test_every_second_layer_of_gpt3_sees_a_band():
    model = MODELS["gpt3"]()
    with record_attention() as weights:
        model(torch.randint(31, (1, 10)))
    n = torch.arange(10)
    ahead = n[:, None] - n
    for layer, weight in enumerate(weights):
        allowed = (ahead >= 0) & ((ahead < 3) | (layer % 2 == 0))
        assert torch.equal(weight[0] > 0, allowed.expand(4, -1, -1))


@each_model
def test_every_parameter_gets_a_gradient(make):
    model = make()
    ids = torch.randint(31, (2, 24))
    F.cross_entropy(model(ids)[:, :-1].flatten(0, 1), ids[:, 1:].flatten()).backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in model.parameters())
    assert model.output.weight is model.tokens.weight


def test_weights_begin_as_the_papers_say():
    torch.manual_seed(0)
    model = GPT2(vocab=500, dim=128, depth=8, heads=4, context=300)
    for module, std in (
        (model.tokens, 0.02), (model.positions, 0.01), (model.blocks[3].mixer.fn.q, 0.02),
        (model.blocks[3].mlp.fn[0], 0.02), (model.blocks[3].mixer.fn.out, 0.005), (model.blocks[0].mlp.fn[3], 0.005),
    ):  # fmt: skip
        assert abs(module.weight.std().item() / std - 1) < 0.05
    first = F.cross_entropy(model(torch.randint(500, (4, 100))).flatten(0, 1), torch.randint(500, (400,)))
    assert abs(first.item() - torch.tensor(500.0).log().item()) < 0.1  # untrained: every token as likely


@each_model
def test_cached_equals_full(make):
    model, ids = make(), torch.randint(31, (2, 20))
    full = model(ids)
    with torch.no_grad():
        for cuts in ([1] * 20, [6, 1, 1, 9, 3], [20]):
            caches, parts = model.caches(20), []
            for part in ids.split(cuts, 1):
                parts.append(model(part, caches=caches))
            torch.testing.assert_close(torch.cat(parts, 1), full, atol=2e-5, rtol=2e-5)


@each_model
def test_greedy_writing_equals_taking_the_likeliest_of_the_full_model(make):
    model = make()
    written = [generate(model, [prompt], tokens=10, temperature=0)[0] for prompt in PROMPTS]
    for prompt, line in zip(PROMPTS, written, strict=True):
        for i, token in enumerate(line):
            assert token == model(torch.tensor([prompt + line[:i]]))[0, -1].argmax()
    assert len({token for line in written for token in line}) > 2  # texts of one token would prove little


@each_model
def test_prompts_of_different_lengths_do_not_disturb_each_other(make):
    model = make()
    together = generate(model, PROMPTS, tokens=12, temperature=0)
    assert together == [generate(model, [prompt], tokens=12, temperature=0)[0] for prompt in PROMPTS]
    logits = []
    model.output.register_forward_hook(lambda module, args, out: logits.append(out))
    generate(model, PROMPTS, tokens=1, temperature=0)
    alone = torch.stack([model(torch.tensor([prompt]))[0, -1] for prompt in PROMPTS])
    torch.testing.assert_close(logits[0], alone, atol=2e-5, rtol=2e-5)


def test_equals_transformers_generate_with_padded_prompts():
    prepare()
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=31, n_embd=32, n_layer=4, n_head=4, n_positions=24, bos_token_id=None, eos_token_id=None
    )
    theirs = GPT2LMHeadModel(config).eval()
    ours = MODELS["gpt2"]()
    for name, p in theirs.named_parameters():
        nn.init.normal_(p, mean=float("ln_" in name and name.endswith("weight")), std=0.3)
    tf.load_published(ours, theirs.state_dict())
    ids = torch.tensor([[0] * (6 - len(prompt)) + prompt for prompt in PROMPTS])
    mask = torch.tensor([[0] * (6 - len(prompt)) + [1] * len(prompt) for prompt in PROMPTS])
    expected = theirs.generate(ids, attention_mask=mask, max_new_tokens=12, do_sample=False, pad_token_id=0)
    assert generate(ours, PROMPTS, tokens=12, temperature=0) == expected[:, 6:].tolist()


def test_writing_ends_where_it_should_and_leaves_the_model_as_it_was():
    model = MODELS["gpt2"]().train()
    free = generate(model, PROMPTS, tokens=12, temperature=0)
    assert model.training and all(len(row) == 12 for row in free)
    end = free[0][4]
    stopped = generate(model, PROMPTS, tokens=12, temperature=0, end=end)
    assert stopped == [row[: row.index(end) + 1] if end in row else row for row in free]
    assert len(stopped[0]) <= 5


def test_draws_repeat_by_seed_and_leave_torchs_generator_alone():
    model = MODELS["gpt2"]()
    state = torch.get_rng_state()
    runs = [generate(model, PROMPTS, tokens=10, seed=seed, temperature=3.0) for seed in (1, 1, 2)]
    assert runs[0] == runs[1] != runs[2]
    assert torch.equal(state, torch.get_rng_state())
    generate(model, PROMPTS, tokens=1)
    assert not torch.equal(state, torch.get_rng_state())


def test_draws_follow_the_probabilities():
    model = wide(GPT2, depth=1)
    expected = probabilities(model(torch.tensor([[4, 2]]))[0, -1], temperature=4.0, top_k=5)
    drawn = generate(model, [[4, 2]] * 4000, tokens=1, temperature=4.0, top_k=5, seed=0)
    counts = torch.bincount(torch.tensor(drawn).flatten(), minlength=31) / 4000
    assert (counts - expected).abs().max() < 0.03  # four standard errors of a share of one half
    assert int((counts > 0).sum()) == 5


LOGITS = torch.log(torch.tensor([0.5, 0.05, 0.3, 0.1, 0.05]))


def test_probabilities_by_hand():
    def close(values: list[float], **choice: Any) -> None:
        torch.testing.assert_close(probabilities(LOGITS, **choice), torch.tensor(values).float(), atol=1e-6, rtol=0)

    close([0.5, 0.05, 0.3, 0.1, 0.05])
    close([0.625, 0, 0.375, 0, 0], top_k=2)
    close([0.625, 0, 0.375, 0, 0], top_p=0.7)
    close([1, 0, 0, 0, 0], top_p=0.5)  # exactly p is enough
    close([1, 0, 0, 0, 0], top_p=1e-9)
    close([1, 0, 0, 0, 0], temperature=0)
    close([0.5, 0.05, 0.3, 0.1, 0.05], top_k=99, top_p=1.0)
    close([0.5, 0.05, 0.3, 0.1, 0.05], top_k=4)  # the fourth and the fifth are as likely
    squares = [0.25, 0.0025, 0.09, 0.01, 0.0025]
    close([p / sum(squares) for p in squares], temperature=0.5)


@pytest.mark.parametrize("choice", [{"top_k": 3}, {"top_p": 0.6}, {"top_p": 0.95}, {"temperature": 0.7}], ids=str)
def test_probabilities_equal_transformers_warpers(choice):
    prepare()
    from transformers.generation import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

    (name, value), logits = next(iter(choice.items())), torch.randn(50, 31, generator=torch.Generator().manual_seed(0))
    warper = {"top_k": TopKLogitsWarper, "top_p": TopPLogitsWarper, "temperature": TemperatureLogitsWarper}[name](value)
    expected = warper(torch.zeros(50, 1, dtype=torch.long), logits * 3).softmax(-1)
    torch.testing.assert_close(probabilities(logits * 3, **choice), expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(
    "prompts,arguments,message",
    [
        ([], {}, "there is no prompt"),
        ([[1], []], {}, r"prompts \[1\] are empty"),
        ([[1] * 20], {}, "prompt 0 of 20 ids and 5 tokens do not fit context=24"),
        ([[1], [2, 31]], {}, r"prompt 1 has id 31, outside the vocabulary 0 \.\. 30"),
        ([[-1]], {}, "prompt 0 has id -1"),
        ([[1]], {"tokens": 0}, "tokens=0"),
        ([[1]], {"end": 31}, "end=31"),
        ([[1]], {"temperature": -0.1}, "temperature=-0.1"),
        ([[1]], {"temperature": float("nan")}, "temperature=nan"),
        ([[1]], {"top_k": 0}, "top_k=0"),
        ([[1]], {"top_p": 0.0}, "top_p=0.0"),
        ([[1]], {"top_p": 1.5}, "top_p=1.5"),
    ],
)
def test_bad_input_is_refused(prompts, arguments, message):
    with pytest.raises(ValueError, match=message):
        generate(MODELS["gpt2"](), prompts, **({"tokens": 5} | arguments))


@each_model
def test_a_text_longer_than_the_context_is_refused(make):
    model = make()
    with pytest.raises(ValueError, match="25 tokens do not fit the model's context=24"):
        model(torch.zeros(1, 25, dtype=torch.long))
    with torch.no_grad(), pytest.raises(ValueError, match="25 tokens do not fit"):
        caches = model.caches(30)
        model(torch.zeros(1, 20, dtype=torch.long), caches=caches)
        model(torch.zeros(1, 5, dtype=torch.long), caches=caches)
    with pytest.raises(ValueError, match="heads=5 does not divide dim=32"):
        make(heads=5)


@each_model
def test_compiles_without_a_graph_break(make):
    model, ids = make(), torch.randint(31, (2, 16))
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(ids), model(ids), atol=2e-5, rtol=2e-5)
    compiled(ids).sum().backward()
