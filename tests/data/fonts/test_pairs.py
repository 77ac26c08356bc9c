import itertools
import logging

import numpy as np
import pytest
import torch

from tests.helpers.refusal import refused
from tests.helpers.toy_fonts import NOTDEF, SANS, SERIF, box, build
from vqlab.data.fonts.glyphs import Glyphs
from vqlab.data.fonts.pairs import FontPairs, enlarge_and_shift, group_by_outline, split_groups
from vqlab.fonts.draw import render


def bar(number, width=0):
    """Return a different shape for each number."""
    return [box(100, 0, 200 + 5 * number, 700), box(300, 750, 400 + width, 800)]


@pytest.fixture
def fonts(tmp_path):
    """Sixty characters in both fonts, some with flaws; 200 to 204 only in the source."""
    source = {code: bar(code - 100) for code in (*range(100, 160), *range(200, 205))}
    target = {code: bar(code - 100, 40) for code in range(100, 160)}
    wide = [box(0, 0, 3000, 700)]
    source |= {102: [], 104: wide, 106: source[105], 205: [], 206: wide}
    target |= {101: [], 103: NOTDEF, 107: target[106]}  # blank characters count as missing
    return build(tmp_path / "source.ttf", source, family="From"), build(tmp_path / "target.ttf", target, family="To")


def pairs(fonts, **arguments):
    source, target = fonts
    return FontPairs(source, target, **{"batch_size": 4, "cache": None, **arguments})


def test_batches_hold_both_drawings_of_the_same_character():
    data = FontPairs(charset="ascii", batch_size=16, cache=None, num_workers=2)
    data.setup("fit")
    batches = list(data.train_dataloader())
    assert data.train_size == 76
    assert [len(batch["char"]) for batch in batches] == [16] * 4
    batch = batches[1]
    shapes = {name: (16, 1, 64, 64) if name in ("source", "target") else (16,) for name in batch}
    assert {name: tuple(value.shape) for name, value in batch.items()} == shapes
    assert {name for name, value in batch.items() if value.dtype == torch.int64} == {"char", "style", "index"}
    for name, file in (("source", SANS), ("target", SERIF)):
        drawn = render(file, batch["char"].tolist(), 64, data.em_scale)
        torch.testing.assert_close(batch[name][:, 0], torch.from_numpy(drawn) / 127.5 - 1)
    edges = sum((batch["source"].diff(dim=axis).abs() / 2).sum((1, 2, 3)) for axis in (2, 3)) / 128
    torch.testing.assert_close(batch["density"], edges, atol=1e-4, rtol=1e-4)


def test_splits_cover_the_characters_and_keep_outlines_together(fonts, caplog):
    caplog.set_level(logging.INFO)
    data = pairs(fonts, val_fraction=0.2, test_fraction=0.2)
    data.setup()
    parts = [set(part.pairs[:, 0].tolist()) for part in (*data._train_val, data._test)]
    sound = set(range(100, 160)) - {101, 102, 103, 104}
    assert set().union(*parts) == sound == set(data.characters)
    assert sum(map(len, parts)) == len(sound)
    assert any({105, 106, 107} <= part for part in parts), "105 and 106 share an outline, 106 and 107 as well"
    assert data.train_size == len(parts[0])
    assert "From to To: 56 pairs of 60 shared characters at em_scale 0.75; left out " in caplog.text
    assert "left out 2 blank, 1 like .notdef, 1 partly outside of the image" in caplog.text


def test_predict_gets_the_characters_that_the_target_lacks(fonts, caplog):
    data = pairs(fonts)
    assert data.missing == [[101, 103, 200, 201, 202, 203, 204]]
    data.setup("predict")
    first, second = data.predict_dataloader()
    assert first["char"].tolist() + second["char"].tolist() == data.missing[0]
    assert "target" not in first
    assert "left out 1 characters to predict" in caplog.text
    drawn = render(fonts[0], data.missing[0], 64, data.em_scale)
    torch.testing.assert_close(second["source"][:, 0], torch.from_numpy(drawn[4:]) / 127.5 - 1)


def test_several_targets_are_styles(fonts, tmp_path):
    source, target = fonts
    other = build(tmp_path / "other.ttf", {code: bar(code - 100, 90) for code in range(130, 203)}, family="Other")
    data = pairs((source, [target, other]), val_fraction=0.2)
    data.setup("fit")
    assert data.style_names == ["To", "Other"]
    assert data.missing == [[101, 103, 200, 201, 202, 203, 204], [*range(100, 102), 103, *range(105, 130), 203, 204]]
    train, val = data._train_val
    assert not set(train.pairs[:, 0]) & set(val.pairs[:, 0]), "a character is held out in all styles"
    assert data.train_size == len(train) == len({tuple(pair) for pair in train.pairs.tolist()})
    batch = train.__getitems__(list(range(len(train))))
    for style, file in enumerate((target, other)):
        here = batch["style"] == style
        assert here.any()
        drawn = render(file, batch["char"][here].tolist(), 64, data.em_scale)
        np.testing.assert_array_equal(batch["target"][here, 0], drawn)


def test_limit_does_not_change_the_held_out_characters(fonts):
    whole, small = pairs(fonts), pairs(fonts, limit=10)
    assert small.train_size == 10
    assert set(small.load_split("train").pairs[:, 0]) < set(whole.load_split("train").pairs[:, 0])
    for split in ("val", "test"):
        np.testing.assert_array_equal(whole.load_split(split).pairs, small.load_split(split).pairs)


def test_em_scale_depends_on_the_fonts_and_not_on_the_charset(tmp_path):
    wide = {0x4E00 + number: bar(number) for number in range(20)} | {65: bar(30)}
    other = {0x4E00 + number: bar(number, 50) for number in range(20)} | {65: bar(30, 50)}
    fonts = build(tmp_path / "a.ttf", wide), build(tmp_path / "b.ttf", other)
    assert pairs(fonts).em_scale == pairs(fonts, charset="ascii").em_scale == 0.875
    assert pairs(fonts, em_scale=0.5).em_scale == 0.5
    assert FontPairs(charset="U+41-50", cache=None).em_scale == 0.75


def test_augmentation_moves_both_images_equally_and_is_seeded():
    images = torch.from_numpy(render(SANS, "ABCDEFGH", 64, 0.75)).float()[:, None] / 127.5 - 1
    both = torch.cat([images, images.flip(3)], 1)
    one, again, other = (enlarge_and_shift(both, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    assert one.shape == both.shape
    assert one.abs().max() <= 1
    assert (one[:, :, 0] == 1).all(), "the border is paper"
    same = enlarge_and_shift(images.repeat(1, 2, 1, 1), torch.Generator().manual_seed(0))
    assert torch.equal(same[:, 0], same[:, 1])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"target": None}, "source and target must be font files"),
        ({"target": []}, "source and target must be font files"),
        ({"charset": "jis1"}, "charset must hold characters of source.ttf, got jis1"),
        ({"target": "copy.ttf"}, "target must be another font than source, copy.ttf has the same outlines"),
        ({"weight": 700.0}, "weight=700 is set, but none of the fonts is a variable font"),
        ({"image_size": 100}, "image_size must be one of 16, 32, 64"),
        ({"val_fraction": 0.6, "test_fraction": 0.4}, "val_fraction=0.6 and test_fraction=0.4 leave no training pairs"),
    ],
)
def test_bad_arguments_give_one_line(fonts, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "copy.ttf").write_bytes((tmp_path / "source.ttf").read_bytes())
    with refused(message):
        FontPairs(**{"source": "source.ttf", "target": "target.ttf", "cache": None, **arguments})


def test_too_few_characters_give_one_line(fonts):
    with refused("To has all characters of the charset"):
        pairs(fonts, charset="U+6E-82").predict_dataloader()
    with refused("From and To share 0 characters of the charset, too few to split"):
        pairs(fonts, charset="U+C8-D2").setup("fit")
    with refused("2 training pairs of characters fill no batch of 4"):
        pairs(fonts, charset="U+6E-71").setup("fit")
    with refused("FontPairs has no test pairs of characters: set test_fraction"):
        pairs(fonts, test_fraction=0.0).test_dataloader()


# Splits


def font_with(outlines):
    """Return a font in which each character has the outline with this number."""
    codes = np.array(sorted(outlines), np.uint32)
    keys = np.array([outlines[code] for code in codes.tolist()], np.uint64)
    return Glyphs(codes, keys, np.zeros(len(codes), np.uint8), np.zeros(len(codes), np.float32), np.zeros(0))


def test_characters_are_grouped_by_the_outlines_of_all_fonts():
    source = font_with({1: 10, 2: 10, 3: 11, 4: 12, 5: 13, 6: 14, 9: 10})
    target = font_with({1: 20, 2: 21, 3: 21, 4: 22, 6: 22})  # links 3 to 2, and so to 1; has no 5
    groups = group_by_outline(np.arange(1, 7), [source, target])
    assert groups[0] == groups[1] == groups[2]
    assert groups[3] == groups[5]
    assert len(set(groups.tolist())) == 3


@pytest.mark.parametrize("fractions", [(0.1, 0.1), (0.25, 0.0), (0.3, 0.2)])
def test_splits_hold_whole_groups_in_about_the_fractions(fractions):
    rng = np.random.default_rng()
    groups = np.unique(rng.integers(0, 300, 400), return_inverse=True)[1]
    parts = split_groups(groups, *fractions, seed=3)
    assert set(parts) == {"train", "val", "test"} - ({"test"} if not fractions[1] else set())
    assert np.sort(np.concatenate(list(parts.values()))).tolist() == list(range(400))
    inside = [set(groups[part].tolist()) for part in parts.values()]
    assert sum(map(len, inside)) == len(set().union(*inside))
    for name, fraction in zip(("val", "test"), fractions, strict=True):
        if fraction:
            assert 0 <= len(parts[name]) - fraction * 400 < np.bincount(groups).max()
    again, other = (split_groups(groups, *fractions, seed=seed) for seed in (3, 4))
    assert all(np.array_equal(again[name], parts[name]) for name in parts)
    assert not np.array_equal(other["val"], parts["val"])


def test_all_splits_get_a_group_or_none_does():
    for count, fraction in itertools.product(range(6), (0.1, 0.45)):
        parts = split_groups(np.arange(count), fraction, fraction, seed=0)
        assert [len(part) > 0 for part in parts.values()] == [True] * (3 if count >= 3 else 0)
    large = np.array([0] * 50 + [1, 2])
    assert all(len(part) for seed in range(9) for part in split_groups(large, 0.1, 0.1, seed).values())
