"""Batches, value ranges, order, ranks, augmentation and few labels, on images in memory."""

from itertools import chain
from types import SimpleNamespace

import pytest
import torch
from torch.nn.functional import interpolate

from tests.helpers.refusal import refused
from vqlab.data import Digits
from vqlab.data.images import base
from vqlab.data.images.base import ImageDataModule, ImageTensors, PartlyLabelled, choose_labelled

NUM_TRAIN, NUM_VAL = 21, 9


class Noise(ImageDataModule):
    channels, image_size, num_classes, train_size = 3, 16, 0, NUM_TRAIN

    def load_train_val(self):
        images = torch.randint(0, 256, (NUM_TRAIN + NUM_VAL, 3, 16, 16), generator=torch.Generator().manual_seed(0))
        images[:, 1] //= 4
        images = images.to(torch.uint8)
        return ImageTensors(images[:NUM_TRAIN]), ImageTensors(images[NUM_TRAIN:])


def on_rank(data, world, rank, training=True, epoch=0, batch=0):
    """Attach the part of a trainer that the module reads."""
    place = {"world_size": world, "global_rank": rank, "current_epoch": epoch}
    data.trainer = SimpleNamespace(**place, training=training, fit_loop=SimpleNamespace(batch_idx=batch - 1))
    return data


def indices(loader):
    return [batch["index"].tolist() for batch in loader]


@pytest.mark.parametrize("value_range", ["unit", "signed", "standardized"])
def test_batch_is_in_range_and_decodes_to_the_pixels(value_range):
    data = Noise(batch_size=NUM_TRAIN, value_range=value_range)
    data.setup("fit")
    batch = next(iter(data.train_dataloader()))
    pixels = data.load_train_val()[0].images[batch["index"]]
    torch.testing.assert_close(data.pixel_range.decode(batch["image"]), pixels / 255)
    assert [batch[name].dtype for name in ("image", "label", "index")] == [torch.float32, torch.int64, torch.int64]
    assert batch["label"].tolist() == [-1] * NUM_TRAIN
    if value_range == "standardized":
        torch.testing.assert_close(batch["image"].mean((0, 2, 3)), torch.zeros(3), atol=1e-3, rtol=0)
        torch.testing.assert_close(batch["image"].std((0, 2, 3)), torch.ones(3), atol=1e-3, rtol=0)
    else:
        low = {"unit": 0.0, "signed": -1.0}[value_range]
        assert low <= batch["image"].min() < low + 0.1
        assert 0.9 < batch["image"].max() <= 1


def test_statistics_are_those_of_the_pixels_even_of_a_constant_channel():
    images = torch.randint(0, 256, (700, 2, 4, 4)).to(torch.uint8)
    images[:, 1] = 255
    mean, std = base.channel_statistics(ImageTensors(images))
    assert mean == pytest.approx((images[:, 0].double().mean().item() / 255, 1.0), abs=1e-4)
    assert std[0] == pytest.approx(images[:, 0].double().std(correction=0).item() / 255, abs=1e-4)
    assert std[1] > 0


def test_order_depends_on_seed_and_epoch_alone():
    first, again, other = (Noise(batch_size=4, seed=seed).train_dataloader() for seed in (0, 0, 1))
    epoch0 = indices(first)
    assert epoch0 == indices(again) != indices(other)
    assert len(epoch0) == NUM_TRAIN // 4
    first.sampler.set_epoch(1)
    assert indices(first) != epoch0


def test_two_ranks_get_the_batches_of_one_and_each_validation_image_once():
    single = indices(Noise(batch_size=4).train_dataloader())
    ranks = [indices(on_rank(Noise(batch_size=2), 2, rank).train_dataloader()) for rank in (0, 1)]
    assert [sorted(a + b) for a, b in zip(*ranks, strict=True)] == [sorted(batch) for batch in single]
    assert list(chain(*indices(Noise(batch_size=4).val_dataloader()))) == list(range(NUM_VAL))
    ranks = [indices(on_rank(Noise(batch_size=4), 2, rank).val_dataloader()) for rank in (0, 1)]
    assert sorted(chain(*chain(*ranks))) == list(range(NUM_VAL))


def test_augmentation_depends_on_epoch_batch_and_rank():
    data = Noise(augment=True)
    batch = {"image": torch.rand(8, 3, 16, 16) * 2 - 1, "index": torch.arange(8)}

    def draw(**place):
        return on_rank(data, 2, **{"rank": 0, **place}).on_after_batch_transfer(batch, 0)["image"]

    assert torch.equal(draw(), draw())
    for place in ({"batch": 1}, {"epoch": 1}, {"rank": 1}):
        assert not torch.equal(draw(), draw(**place)), place
    assert torch.equal(draw(training=False), batch["image"])
    assert torch.equal(on_rank(Noise(), 1, 0).on_after_batch_transfer(batch, 0)["image"], batch["image"])
    assert not torch.equal(draw(), batch["image"])


def test_shift_and_flip_moves_each_image_by_itself():
    # Each pixel holds its column, so the values show how an image was moved; a reflection reverses them at the border.
    size, reach = 16, 2
    ramp = torch.arange(size, dtype=torch.float32).expand(64, 3, size, size)
    moved = base.shift_and_flip(ramp, torch.Generator().manual_seed(0), flip=True)
    assert moved.shape == ramp.shape
    reflected = torch.tensor([2, 1, *range(size), 14, 13], dtype=torch.float32)
    windows = [reflected[start : start + size] for start in range(2 * reach + 1)]
    choices = torch.stack(windows + [window.flip(0) for window in windows])
    found = (moved[:, 0, 0, None] == choices).all(-1)
    assert found.any(1).all(), "every row is a shifted, perhaps mirrored, row"
    assert found.any(0).all(), "every shift and both directions occur"
    assert torch.equal(moved, moved[:, :1, :1].expand_as(moved)), "channels and rows move together"
    straight = base.shift_and_flip(ramp, torch.Generator().manual_seed(0), flip=False)
    assert (straight[:, 0, 0, 8] < straight[:, 0, 0, 9]).all()


def test_max_shift_bounds_the_shift():
    ramp = torch.arange(16.0).expand(64, 1, 16, 16)
    seen = {}
    for max_shift in (0, 1, None):
        data = Noise(augment=True, max_shift=max_shift)
        data.flip = False
        moved = data.augmented({"image": ramp}, torch.Generator().manual_seed(0))["image"]
        seen[max_shift] = set(moved[:, 0, 8, 8].tolist())
    assert seen == {0: {8}, 1: {7, 8, 9}, None: {6, 7, 8, 9, 10}}
    with refused("max_shift must be less than the side of the images, 16, got 16"):
        Noise(augment=True, max_shift=16).augmented({"image": ramp}, torch.Generator())


def test_fit_square_resizes_with_antialiasing_and_crops_the_centre():
    checker = torch.zeros(2, 1, 16, 32, dtype=torch.uint8)
    checker[..., 8:-8:2] = 255  # without antialiasing every second column would be picked; the crop removes the margins
    small = base.fit_square(checker, 4)
    assert (small.shape, small.dtype) == ((2, 1, 4, 4), torch.uint8)
    assert (small[..., 1:3].float() - 127.5).abs().max() < 30
    same = torch.randint(0, 256, (1, 3, 4, 4)).to(torch.uint8)
    assert torch.equal(base.fit_square(same, 4), same)
    expected = interpolate(same.float(), size=8, mode="bilinear", antialias=True)
    torch.testing.assert_close(base.fit_square(same, 8).float(), expected, atol=1.01, rtol=0)


def test_missing_examples_are_named():
    with refused("21 training images fill no batch of 16 on 2 device(s): set batch_size=10"):
        on_rank(Noise(batch_size=16), 2, 0).train_dataloader()
    assert len(Noise().predict_dataloader().dataset) == NUM_VAL
    with refused("Noise has no test images: use `vqlab validate`"):
        Noise().test_dataloader()
    with refused("labels_per_class must be at most 2, the number of images of class 1, got 3"):
        choose_labelled(torch.tensor([0, 0, 0, 1, 1]), 3, seed=0)
    with refused("no labels", "labels_per_class=null"):
        choose_labelled(torch.full((5,), -1), 3, seed=0)


# Few labels


def test_labelled_images_of_each_class_are_chosen_by_the_seed():
    labels = torch.tensor([0, 1, 2] * 20 + [-1] * 5)
    chosen = choose_labelled(labels, 4, seed=0)
    assert labels[chosen].bincount().tolist() == [4, 4, 4]
    assert torch.equal(chosen, choose_labelled(labels, 4, seed=0))
    assert not torch.equal(chosen, choose_labelled(labels, 4, seed=1))


def test_labels_of_other_images_are_not_used():
    images, labels = torch.arange(20, dtype=torch.uint8).view(20, 1, 1, 1), torch.tensor([0, 1] * 10)
    chosen = choose_labelled(labels, 3, seed=0)
    poisoned = torch.full((20,), 10**6)
    poisoned[chosen] = labels[chosen]
    batch, other = (
        PartlyLabelled(ImageTensors(images, known), chosen, batch_size=4).__getitems__([5, 1, 8])
        for known in (labels, poisoned)
    )
    assert all(torch.equal(value, other[name]) for name, value in batch.items())
    assert batch["label"].tolist() == [-1, -1, -1]
    assert batch["image"].flatten().tolist() == [5, 1, 8]
    positions = batch["labelled_image"].flatten().long()
    assert set(positions.tolist()) <= set(chosen.tolist())
    assert torch.equal(batch["labelled_label"], labels[positions])


def test_all_labelled_images_are_drawn_before_one_is_repeated():
    images = ImageTensors(torch.arange(20, dtype=torch.uint8).view(20, 1, 1, 1))
    part = PartlyLabelled(images, torch.arange(6), batch_size=15)
    first, second = (part.__getitems__([index])["labelled_image"].flatten().long() for index in (0, 1))
    assert first.bincount(minlength=6).min() >= 2
    assert not torch.equal(first, second)


def test_strong_augmentation_depends_on_the_place_and_covers_a_square():
    data = Noise(strong_augment=True, value_range="signed")
    batch = {"image": torch.rand(40, 3, 16, 16) * 2 - 1, "index": torch.arange(40)}

    def draw(**place):
        return on_rank(data, 1, **{"rank": 0, **place}).on_after_batch_transfer(batch, 0)

    state = torch.get_rng_state()
    first, again, other = draw(), draw(), draw(batch=1)
    assert torch.equal(torch.get_rng_state(), state), "the draws of the model do not change"
    assert torch.equal(first["image"], batch["image"])
    strong = first["strong_image"]
    assert torch.equal(strong, again["strong_image"])
    assert not torch.equal(strong, other["strong_image"])
    assert -1 <= strong.min() < strong.max() <= 1
    grey = (strong == 0).all(1).flatten(1).sum(1)  # pixels of 0.5 in [0, 1]
    assert (grey >= 16).all(), "a square of 8 x 8 that at most half is outside of on each axis"
    assert (grey == 64).any()
    assert "strong_image" not in draw(training=False)


def test_labelled_batches_have_their_own_size():
    data = Digits(image_size=8, labels_per_class=10, batch_size=32, labelled_batch_size=20)
    batch = next(iter(data.train_dataloader()))
    assert (len(batch["image"]), len(batch["labelled_image"]), len(batch["labelled_label"])) == (32, 20, 20)


@pytest.mark.parametrize("augment", [False, True])
def test_labels_per_class_adds_labelled_batches_for_training(augment):
    data = Digits(image_size=8, labels_per_class=10, batch_size=32, augment=augment)
    batch = next(iter(data.train_dataloader()))
    assert batch["image"].shape == batch["labelled_image"].shape == (32, 1, 8, 8)
    assert batch["labelled_image"].dtype == torch.float32
    assert (batch["label"] == -1).all()
    assert set(batch["labelled_label"].tolist()) <= set(range(10))
    assert (next(iter(data.val_dataloader()))["label"] >= 0).all()
    assert "labelled_image" not in next(iter(Digits(image_size=8).train_dataloader()))
