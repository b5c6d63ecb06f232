"""Layers, positions and token maps, by what they mean."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tformerlib.attention import attention
from tformerlib.layers.blocks import (
    MLP,
    Attention,
    Block,
    DropPath,
    PostNorm,
    PreNorm,
    ResPostNorm,
    drop_path_rates,
    init_truncated_normal,
)
from tformerlib.layers.maps import ChannelsFirst, PatchEmbed, from_windows, to_windows
from tformerlib.layers.positions import RelativeBias, Rotary, resize_grid, sinusoids


def test_where_the_norm_sits():
    x, double = torch.randn(2, 3, 8), nn.Linear(8, 8, bias=False)
    nn.init.eye_(double.weight)
    norm = nn.functional.layer_norm
    for branch, expected in (
        (PreNorm, x + norm(x, (8,))),
        (PostNorm, norm(x + x, (8,))),
        (ResPostNorm, x + norm(x, (8,))),
    ):
        torch.testing.assert_close(branch(8, double)(x), expected)
    torch.testing.assert_close(ResPostNorm(8, nn.Identity())(3 * x), 3 * x + norm(3 * x, (8,)))


@pytest.mark.parametrize("residual,norm_first", [(PreNorm, True), (PostNorm, False)])
def test_block_equals_torchs_encoder_layer(residual, norm_first):
    torch.manual_seed(0)
    theirs = nn.TransformerEncoderLayer(16, 4, 32, dropout=0.0, batch_first=True, norm_first=norm_first)
    for p in theirs.parameters():
        nn.init.normal_(p, std=0.3)
    ours = Block(16, Attention(16, 4), MLP(16, 32, nn.ReLU), residual=residual)
    qkv = zip("qkv", theirs.self_attn.in_proj_weight.chunk(3), theirs.self_attn.in_proj_bias.chunk(3), strict=True)
    state = {f"mixer.fn.{n}.{part}": t for n, w, b in qkv for part, t in (("weight", w), ("bias", b))}
    for ours_name, module in (
        ("mixer.fn.out", theirs.self_attn.out_proj),
        ("mixer.norm", theirs.norm1),
        ("mlp.norm", theirs.norm2),
        ("mlp.fn.0", theirs.linear1),
        ("mlp.fn.3", theirs.linear2),
    ):
        state |= {f"{ours_name}.{key}": p for key, p in module.named_parameters()}
    ours.load_state_dict(state)
    x = torch.randn(2, 5, 16)
    torch.testing.assert_close(ours(x), theirs(x), atol=2e-5, rtol=2e-5)


def test_drop_path_drops_whole_samples_and_keeps_the_mean():
    torch.manual_seed(0)
    x, drop = torch.ones(20_000, 3), DropPath(0.25)
    y = drop(x)
    assert y.unique().tolist() == pytest.approx([0.0, 1 / 0.75])
    assert (y == y[:, :1]).all() and abs(y.mean() - 1) < 0.02
    assert drop.eval()(x) is x
    with pytest.raises(ValueError, match=r"p=1\.0"):
        DropPath(1.0)


def test_drop_path_rates_rise_over_all_stages():
    assert drop_path_rates(0.3, (1, 3)) == [[0.0], pytest.approx([0.1, 0.2, 0.3])]


def test_layer_scale_starts_a_branch_small():
    x = torch.randn(2, 8)
    branch = PreNorm(8, nn.Identity(), layer_scale=1e-3)
    torch.testing.assert_close(branch(x) - x, 1e-3 * F.layer_norm(x, (8,)), atol=1e-6, rtol=1e-3)


def test_truncated_normal_has_the_spread_and_no_bias():
    layer = nn.Linear(400, 400).apply(init_truncated_normal)
    assert abs(layer.weight.std() - 0.02) < 1e-3 and (layer.bias == 0).all()


def test_sinusoids_by_hand_and_as_a_rotation():
    table = sinusoids(50, 8)
    assert table[3, 2].item() == pytest.approx(torch.tensor(3 / 10000 ** (2 / 8)).sin().item(), abs=1e-6)
    products = table @ table.T  # depends on the distance alone: PE(n) . PE(m) = sum cos(rate (n - m))
    torch.testing.assert_close(products[:-1, :-1], products[1:, 1:], atol=1e-5, rtol=1e-5)
    with pytest.raises(ValueError, match="dim=7"):
        sinusoids(5, 7)


def test_rotary_scores_depend_on_the_distance_alone():
    torch.manual_seed(0)
    rotary = Rotary(8)
    q, k = torch.randn(2, 8).split(1)
    score = lambda n, m: (rotary.rotate(q, n) @ rotary.rotate(k, m).T).item()  # noqa: E731
    assert score(3, 1) == pytest.approx(score(13, 11), abs=1e-5)
    assert score(3, 1) != pytest.approx(score(3, 2), abs=1e-3)
    torch.testing.assert_close(rotary.rotate(q, 7).norm(), q.norm())
    attn, x = Attention(16, 2, on_heads=rotary), torch.randn(1, 5, 16)
    assert not torch.allclose(attn(x)[:, [1, 0, 2, 3, 4]], attn(x[:, [1, 0, 2, 3, 4]]), atol=1e-4)


def test_relative_bias_is_one_number_per_offset():
    bias = RelativeBias(2, 3, 4)
    nn.init.normal_(bias.table)
    table = bias().detach()
    at = lambda q, k: table[:, q[0] * 4 + q[1], k[0] * 4 + k[1]]  # noqa: E731
    assert torch.equal(at((0, 0), (1, 2)), at((1, 1), (2, 3)))
    assert not torch.equal(at((0, 0), (1, 2)), at((1, 2), (0, 0)))
    assert len(table[0].unique()) == 5 * 7


def test_resized_tables_keep_their_picture():
    y, x = torch.meshgrid(torch.linspace(0, 1, 6), torch.linspace(0, 1, 6), indexing="ij")
    table = torch.stack([y, x], -1).view(36, 2)
    big = resize_grid(table, (6, 6), (12, 12)).view(12, 12, 2)
    assert (big[1:-1, 5, 0].diff() > 0).all() and (big[5, 1:-1, 1].diff() > 0).all()
    assert torch.equal(resize_grid(table, (6, 6), (6, 6)), table)
    with pytest.raises(ValueError, match="36 rows is not a grid of 5 x 6"):
        resize_grid(table, (5, 6), (7, 7))


def test_windows_are_inverted_and_local():
    x = torch.arange(2 * 4 * 6).view(2, 4, 6, 1)
    windows = to_windows(x, 2)
    assert windows[1].flatten().tolist() == [2, 3, 8, 9]  # second window of the first row, in reading order
    assert torch.equal(from_windows(windows, 2, 4, 6), x)
    with pytest.raises(ValueError, match=r"size=4 does not divide the map \(4, 6\)"):
        to_windows(x, 4)


def test_a_patch_sees_its_own_pixels_only():
    embed, image = PatchEmbed(8, 4, norm=nn.Identity), torch.randn(1, 3, 8, 8)
    other = image.clone()
    other[..., 0, 0] += 1
    changed = (embed(image) != embed(other)).any(-1)[0]
    assert changed.tolist() == [[True, False], [False, False]]
    with pytest.raises(ValueError, match=r"patch=4 does not divide the image \(8, 6\)"):
        embed(torch.randn(1, 3, 8, 6))


def test_channels_first_layers_run_on_maps():
    conv, x = nn.Conv2d(4, 5, 3, padding=1), torch.randn(2, 6, 7, 4)
    torch.testing.assert_close(ChannelsFirst(conv)(x), conv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))


def test_another_kind_of_attention_enters_by_attend():
    calls = []

    def attend(q, k, v, **options):
        calls.append(options)
        return attention(q, k, v, **options)

    Attention(16, 4, causal=True, scale=0.5, attend=attend)(torch.randn(1, 3, 16))
    assert calls[0]["causal"] and calls[0]["scale"] == 0.5
