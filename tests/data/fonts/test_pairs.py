import logging

import lightning
import numpy as np
import pytest
import torch

from tests.helpers.toy_fonts import NOTDEF, SANS, SERIF, box, build
from vqlab.data.fonts import glyphs
from vqlab.data.fonts import pairs as font_pairs
from vqlab.data.fonts.pairs import FontPairs, enlarge_and_shift
from vqlab.errors import UserError
from vqlab.fonts import font_file
from vqlab.fonts.draw import render


def bar(number, width=0):
    """A shape of its own for each number."""
    return [box(100, 0, 200 + 5 * number, 700), box(300, 750, 400 + width, 800)]


@pytest.fixture
def fonts(tmp_path):
    """Sixty characters in both fonts, some with flaws; 200 to 204 in the source only."""
    source = {code: bar(code - 100) for code in range(100, 160)}
    target = {code: bar(code - 100, 40) for code in range(100, 160)}
    source |= {code: bar(code - 100) for code in range(200, 205)} | {205: [], 206: [box(0, 0, 3000, 700)]}
    target[101] = []  # blank in the target, so the target lacks it
    source[102] = []
    target[103] = NOTDEF
    source[104] = [box(0, 0, 3000, 700)]
    source[106] = source[105]
    target[107] = target[106]
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
    assert {name: (value.dtype, tuple(value.shape)) for name, value in batch.items()} == {
        "source": (torch.float32, (16, 1, 64, 64)),
        "target": (torch.float32, (16, 1, 64, 64)),
        "char": (torch.int64, (16,)),
        "style": (torch.int64, (16,)),
        "density": (torch.float32, (16,)),
        "index": (torch.int64, (16,)),
    }
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
    assert sum({105, 106, 107} <= part for part in parts) == 1, (
        "105 and 106 are one in the source, 106 and 107 in the target"
    )
    assert data.train_size == len(parts[0])
    report = (
        "From to To: 56 pairs of 60 shared characters at em_scale 0.75; left out 2 blank, 1 like .notdef, "
        "1 that leave the image; 3 share an outline with another; 7 of the charset are not in To"
    )
    assert report in caplog.text


def test_what_the_target_lacks_is_there_to_predict(fonts, caplog):
    data = pairs(fonts)
    assert data.missing == [[101, 103, 200, 201, 202, 203, 204]]
    data.setup("predict")
    (first, second) = data.predict_dataloader()
    assert first["char"].tolist() + second["char"].tolist() == data.missing[0]
    assert "target" not in first
    assert "1 characters to predict leave the image at em_scale 0.75 and are left out" in caplog.text
    drawn = render(fonts[0], data.missing[0], 64, data.em_scale)
    torch.testing.assert_close(second["source"][:, 0], torch.from_numpy(drawn[4:]) / 127.5 - 1)
    # A charset that holds only what is missing can be predicted, not trained on.
    only = pairs(fonts, charset="U+C8-D2")
    assert only.missing == [[200, 201, 202, 203, 204]]
    assert only.train_size == 0
    only.setup("predict")
    assert len(list(only.predict_dataloader())) == 2
    with pytest.raises(UserError, match=r"From and To share no characters of the charset, too few to train on"):
        only.setup("fit")
    full = pairs(fonts, charset="U+6E-82")
    with pytest.raises(UserError, match=r"To lacks nothing of the charset: set --data.charset"):
        full.predict_dataloader()


def test_several_targets_are_styles(fonts, tmp_path):
    source, target = fonts
    other = build(tmp_path / "other.ttf", {code: bar(code - 100, 90) for code in range(130, 203)}, family="Other")
    data = pairs((source, [target, other]), val_fraction=0.2)
    data.setup("fit")
    assert (data.num_styles, data.style_names) == (2, ["To", "Other"])
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


def test_the_same_settings_give_the_same_batches_and_seeds_other_splits(fonts, tmp_path):
    def chars(**arguments):
        return [batch["char"].tolist() for batch in pairs(fonts, **arguments).train_dataloader()]

    cache = str(tmp_path / "cache")
    assert chars() == chars(cache=cache) == chars(cache=cache)
    assert chars() != chars(seed=1)
    held_out = [set(pairs(fonts, seed=seed).load_test().pairs[:, 0].tolist()) for seed in (0, 0, 1)]
    assert held_out[0] == held_out[1] != held_out[2]


def test_limit_keeps_what_is_held_out(fonts):
    whole, small = pairs(fonts), pairs(fonts, limit=10)
    assert small.train_size == 10
    assert set(small.load_train_val()[0].pairs[:, 0]) < set(whole.load_train_val()[0].pairs[:, 0])
    for part in (lambda data: data.load_train_val()[1], lambda data: data.load_test()):
        np.testing.assert_array_equal(part(whole).pairs, part(small).pairs)
    assert pairs(fonts, limit=1000).train_size == whole.train_size


def test_a_second_start_draws_nothing(fonts, tmp_path, monkeypatch):
    cache = str(tmp_path / "cache")
    first = pairs(fonts, cache=cache)
    _ = first.missing
    monkeypatch.setattr(glyphs, "draw", None)
    again = pairs(fonts, cache=cache)
    assert (again.characters, again.missing) == (first.characters, first.missing)
    assert torch.equal(
        again.load_train_val()[1].__getitems__([0, 1])["target"],
        first.load_train_val()[1].__getitems__([0, 1])["target"],
    )


def test_em_scale_follows_the_fonts_not_the_charset(tmp_path):
    wide = {0x4E00 + number: bar(number) for number in range(20)} | {65: bar(30)}
    other = {0x4E00 + number: bar(number, 50) for number in range(20)} | {65: bar(30, 50)}
    fonts = build(tmp_path / "a.ttf", wide), build(tmp_path / "b.ttf", other)
    assert [pairs(fonts, **more).em_scale for more in ({}, {"charset": "ascii"}, {"em_scale": 0.5})] == [
        0.875,
        0.875,
        0.5,
    ]
    assert FontPairs(charset="U+41-50", cache=None).em_scale == 0.75


def test_augmentation_moves_pairs_alike_and_is_seeded():
    images = torch.from_numpy(render(SANS, "ABCDEFGH", 64, 0.75)).float()[:, None] / 127.5 - 1
    both = torch.cat([images, images.flip(3)], 1)
    one, two, three = (enlarge_and_shift(both, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1))
    assert torch.equal(one, two)
    assert not torch.equal(one, three)
    assert one.shape == both.shape
    assert one.abs().max() <= 1
    assert (one[:, :, 0] == 1).all(), "paper comes in at the sides"
    # The place of the ink's middle moves by at most 1/32 of the side, and by what enlarging moves it.
    axis = (torch.arange(64) + 0.5) / 32 - 1
    for channel in (0, 1):
        middle = [((1 - x[:, channel]).sum(1) * axis).sum(1) / (1 - x[:, channel]).sum((1, 2)) for x in (both, one)]
        scale = ((1 - one[:, channel]).sum((1, 2)) / (1 - both[:, channel]).sum((1, 2))).sqrt()
        assert ((scale > 0.97) & (scale < 1.12)).all()
        assert ((middle[1] - middle[0] * scale).abs() < 0.08).all()
    # Source and target stay over one another: where a pair is the same image, it still is.
    same = enlarge_and_shift(images.repeat(1, 2, 1, 1), torch.Generator().manual_seed(0))
    assert torch.equal(same[:, 0], same[:, 1])
    grey = [(x.abs() < 0.8).float().mean() for x in (both, one)]
    assert grey[1] < 1.4 * grey[0], "edges stay as sharp as they were"


class Watch(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.seen = []

    def training_step(self, batch, batch_idx):
        self.seen.append(batch)
        return self.weight.sum()

    def validation_step(self, batch, batch_idx):
        self.seen.append(batch)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


def test_only_training_batches_are_augmented(fonts):
    def run(**arguments):
        model = Watch()
        options = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "barebones": False}
        trainer = lightning.Trainer(
            max_epochs=1,
            limit_train_batches=2,
            limit_val_batches=1,
            num_sanity_val_steps=0,
            accelerator="cpu",
            enable_model_summary=False,
            **options,
        )
        trainer.fit(model, pairs(fonts, **arguments))
        return model.seen

    plain, augmented, again = run(), run(augment=True), run(augment=True)
    for step, (a, b, c) in enumerate(zip(plain, augmented, again, strict=True)):
        assert torch.equal(a["char"], b["char"])
        assert torch.equal(b["source"], c["source"])
        assert torch.equal(a["source"], b["source"]) == torch.equal(a["target"], b["target"]) == (step == 2)


def test_few_pairs_warn(fonts, caplog):
    with caplog.at_level(logging.WARNING):
        pairs(fonts).setup("fit")
        assert "characters are in both fonts" not in caplog.text
        pairs(fonts, charset="U+6E-82").setup("fit")
    assert "only 21 characters are in both fonts: a style needs hundreds; set --data.charset wider" in caplog.text


def test_bad_input_is_one_line(fonts, tmp_path):
    source, target = fonts
    text = tmp_path / "text.ttf"
    text.write_text("no font")
    other = build(tmp_path / "other.ttf", {0x3042: bar(1), 0x3044: bar(2)}, family="Else")
    variable = build(tmp_path / "variable.ttf", {c: bar(c) for c in range(60, 70)}, weights=(300, 400, 700))
    copy = tmp_path / "copy.ttf"
    copy.write_bytes((tmp_path / "source.ttf").read_bytes())
    broken = tmp_path / "set.txt"
    broken.write_bytes(b"abc\n\xff\xfe\n")
    cases = [
        ({"source": str(text), "target": target}, r"text.ttf is not a font .*set --data.source"),
        ({"source": source, "target": [target, str(text)]}, r"text.ttf is not a font .*set --data.target"),
        ({"source": source}, r"target is not given: set --data.target to a font file"),
        ({"target": target}, r"source is not given: set --data.source"),
        ({"source": source, "target": []}, r"target is not given"),
        ({"source": source, "target": target, "charset": "jis1"}, r"source.ttf has none of the 2,965 characters"),
        ({"source": source, "target": source}, r"have the same outlines, and a pair of them is the identity"),
        ({"source": source, "target": str(copy)}, r"have the same outlines"),
        ({"source": source, "target": target, "weight": 700}, r"weight 700 cannot be chosen, for no font has several"),
        ({"source": variable, "target": target, "weight": 900}, r"from 300 to 700, not 900: set --data.weight=700"),
        ({"charset": str(broken)}, r"line 2 of .*set.txt is not UTF-8"),
        ({"image_size": 100}, r"image_size must be a power of two from 16 to 1024, got 100: set --data.image_size=128"),
        ({"limit": 0}, r"limit must be at least 1, got 0"),
        ({"val_fraction": 0.0}, r"val_fraction 0.0 and test_fraction 0.1 leave no training characters"),
        ({"val_fraction": 0.6, "test_fraction": 0.4}, r"leave no training characters"),
        ({"em_scale": 2.0, "charset": "ascii"}, r"em_scale must be above 0 and at most 1, got 2.0: set --data"),
        ({"batch_size": 0}, r"batch_size must be at least 1"),
    ]  # fmt: skip
    for arguments, message in cases:
        with pytest.raises(UserError, match=message) as error:
            FontPairs(**{"cache": None, **arguments})
        assert "\n" not in str(error.value)
    apart = FontPairs(source, other, cache=None)
    with pytest.raises(
        UserError, match=r"From and Else share no characters of the charset.*set --data.charset=auto, or"
    ):
        apart.setup("fit")
    with pytest.raises(UserError, match=r"2 training pairs of characters fill no batch of 4.*set --data.batch_size=2"):
        pairs(fonts, charset="U+6E-71").setup("fit")
    with pytest.raises(UserError, match=r"FontPairs has no test pairs of characters: set --data.test_fraction"):
        pairs(fonts, test_fraction=0.0).test_dataloader()


def test_weights_of_variable_fonts(tmp_path):
    shapes = {code: bar(code - 60) for code in range(60, 120)}
    source = build(tmp_path / "source.ttf", shapes, weights=(300, 300, 700))
    target = build(tmp_path / "target.ttf", {code: bar(code - 60, 60) for code in range(60, 120)})
    light, bold = (pairs((source, target), weight=weight).load_train_val()[1] for weight in (300, 700))
    assert torch.equal(light[0]["target"], bold[0]["target"])
    assert light[0]["source"].sum() < bold[0]["source"].sum() or not torch.equal(light[0]["source"], bold[0]["source"])


def test_embedded_fonts_need_no_files():
    assert font_pairs.open_fonts(None, None, None)[0].name == "DejaVu Sans"


def test_a_variable_target_is_tried_before_the_training(tmp_path, monkeypatch):
    """What would fail when the completed font is written fails in setup."""
    shapes = {code: bar(code - 100) for code in range(100, 160)}
    source = build(tmp_path / "source.ttf", shapes, family="From")
    target = build(tmp_path / "target.ttf", {c: bar(c - 100, 40) for c in shapes}, weights=(400, 400, 800))

    def fail(*args, **options):
        raise RuntimeError("dictionary changed size during iteration")

    pairs((source, target)).setup("fit")
    monkeypatch.setattr(font_file, "instantiateVariableFont", fail)
    with pytest.raises(UserError, match=r"cannot be made a static TrueType font.*--data.target"):
        pairs((source, target)).setup("fit")
    pairs((source, target)).setup("validate")
