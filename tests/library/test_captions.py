"""Captions name what is drawn, pictures show it, and both stay the same for a seed."""

import pytest
import torch

from tformerlib.data.captions import (
    COLORS,
    END,
    KINDS,
    LONGEST,
    PAIRS,
    START,
    TEMPLATES,
    WORDS,
    as_ids,
    as_text,
    captioned,
    name_of,
)


def test_captions_name_their_pair_and_no_other():
    drawn = captioned(300, seed=1)
    for ids, pair in zip(drawn.ids, drawn.pairs.tolist(), strict=True):
        words = as_text(ids).split()
        assert name_of(pair) in as_text(ids)
        assert sum(word in COLORS for word in words) == sum(word in KINDS for word in words) == 1


def test_pictures_have_the_color_and_the_area_of_their_figure():
    """A ring covers less than a disc and a bar less than a ring; the mean color of what stands out is the named one."""
    drawn = captioned(600, noise=0.0, seed=2)
    ground = drawn.images[:, :, 0, 0]
    figure = (drawn.images != ground[:, :, None, None]).any(1)
    share = {kind: figure[drawn.pairs % 6 == k].float().mean().item() for k, kind in enumerate(KINDS)}
    assert min(share["square"], share["disc"]) > share["ring"] > share["bar"] > 0.05
    for c, color in enumerate(COLORS):
        of_color = drawn.pairs // 6 == c
        pixels = drawn.images[of_color].permute(0, 2, 3, 1)[figure[of_color]].float().mean(0)
        red, green, blue = (pixels > 128).tolist()
        expected = {"red": (1, 0, 0), "green": (0, 1, 0), "blue": (0, 0, 1), "yellow": (1, 1, 0), "purple": (1, 0, 1),
                    "white": (1, 1, 1)}[color]  # fmt: skip
        assert (red, green, blue) == expected, color


def test_pairs_that_are_left_out_never_occur_and_the_others_all_do():
    kept = [p for p in range(PAIRS) if p % 7]
    assert set(captioned(2000, pairs=kept).pairs.tolist()) == set(kept)


def test_the_seed_decides():
    first, again, other = captioned(20, seed=3), captioned(20, seed=3), captioned(20, seed=4)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first.images, other.images) and not torch.equal(first.ids, other.ids)


def test_ids_and_texts_go_both_ways_and_the_end_is_the_largest_id():
    texts = [template.format(name_of(p)) for p in (0, 13, 35) for template in TEMPLATES]
    ids = as_ids(texts)
    assert [as_text(row) for row in ids] == texts
    assert ids.shape[1] == LONGEST and ids.max() == len(WORDS) - 1 == WORDS.index(END)
    assert (ids[:, 0] == WORDS.index(START)).all() and WORDS[0] == "<pad>" and len(set(WORDS)) == len(WORDS)


def test_without_chatter_a_caption_is_its_template():
    plain = {as_text(ids) for ids in captioned(400, pairs=[8], chatter=0.0).ids}
    assert plain == {template.format("green square") for template in TEMPLATES}


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match="count=0 of 36 pairs"):
        captioned(0)
    with pytest.raises(ValueError, match="pair=36 is not in 0 .. 35"):
        captioned(3, pairs=[1, 36])
    with pytest.raises(ValueError, match="'pink' of 'a pink disc'"):
        as_ids(["a pink disc"])
    with pytest.raises(ValueError, match="13 words; captions have at most 12"):
        as_ids(["a " * 13])
