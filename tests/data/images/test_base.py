"""Batches, value ranges, order, sharding and augmentation, on images in memory."""

from itertools import chain
from types import SimpleNamespace

import pytest
import torch
from torch.nn.functional import interpolate

from vqlab.data.images.base import ImageDataModule, ImageTensors, channel_statistics, fit_square, shift_and_flip
from vqlab.errors import UserError

NUM_TRAIN, NUM_VAL = 21, 9


class Noise(ImageDataModule):
    channels, image_size, num_classes, train_size = 3, 16, 0, NUM_TRAIN

    def load_train_val(self):
        images = torch.randint(0, 256, (NUM_TRAIN + NUM_VAL, 3, 16, 16), generator=torch.Generator().manual_seed(0))
        images[:, 1] //= 4
        images = images.to(torch.uint8)
        return ImageTensors(images[:NUM_TRAIN]), ImageTensors(images[NUM_TRAIN:])


def on_rank(data, world, rank, training=True, epoch=0, batch=0):
    """Attach what the module reads of a trainer."""
    data.trainer = SimpleNamespace(
        world_size=world,
        global_rank=rank,
        training=training,
        current_epoch=epoch,
        fit_loop=SimpleNamespace(batch_idx=batch - 1),
    )
    return data


def indices(loader):
    return [batch["index"].tolist() for batch in loader]


@pytest.mark.parametrize("value_range", ["unit", "signed", "standardized"])
def test_batch_is_in_range_and_decodes_to_the_pixels(value_range):
    data = Noise(batch_size=4, value_range=value_range)
    data.setup("fit")
    batch = next(iter(data.train_dataloader()))
    pixels = data.load_train_val()[0].images[batch["index"]]
    torch.testing.assert_close(data.pixel_range.decode(batch["image"]), pixels / 255)
    assert batch["image"].dtype == torch.float32
    assert (batch["label"].dtype, batch["index"].dtype) == (torch.int64, torch.int64)
    assert batch["label"].tolist() == [-1] * 4
    if value_range == "standardized":
        every = torch.cat(
            [batch["image"] for batch in Noise(batch_size=21, value_range=value_range).train_dataloader()]
        )
        torch.testing.assert_close(every.mean((0, 2, 3)), torch.zeros(3), atol=1e-3, rtol=0)
        torch.testing.assert_close(every.std((0, 2, 3)), torch.ones(3), atol=1e-3, rtol=0)
    else:
        low = {"unit": 0.0, "signed": -1.0}[value_range]
        assert low <= batch["image"].min() < low + 0.1
        assert 0.9 < batch["image"].max() <= 1


def test_statistics_are_those_of_the_pixels_even_of_a_constant_channel():
    images = torch.randint(0, 256, (700, 2, 4, 4)).to(torch.uint8)
    images[:, 1] = 255
    mean, std = channel_statistics(ImageTensors(images))
    assert mean == pytest.approx((images[:, 0].double().mean().item() / 255, 1.0), abs=1e-4)
    assert std[0] == pytest.approx(images[:, 0].double().std(correction=0).item() / 255, abs=1e-4)
    assert std[1] > 0


def test_order_depends_on_seed_and_epoch_alone():
    first, again, other = (Noise(batch_size=4, seed=seed).train_dataloader() for seed in (0, 0, 1))
    epoch0 = indices(first)
    assert epoch0 == indices(again) != indices(other)
    first.sampler.set_epoch(1)
    assert indices(first) != epoch0
    assert len(epoch0) == NUM_TRAIN // 4


def test_two_ranks_see_the_batches_of_one():
    single = indices(Noise(batch_size=4).train_dataloader())
    ranks = [indices(on_rank(Noise(batch_size=2), 2, rank).train_dataloader()) for rank in (0, 1)]
    assert [sorted(a + b) for a, b in zip(*ranks, strict=True)] == [sorted(batch) for batch in single]


def test_validation_counts_each_image_once_on_any_number_of_ranks():
    assert list(chain(*indices(Noise(batch_size=4).val_dataloader()))) == list(range(NUM_VAL))
    ranks = [indices(on_rank(Noise(batch_size=4), 2, rank).val_dataloader()) for rank in (0, 1)]
    assert sorted(chain(*chain(*ranks))) == list(range(NUM_VAL))


def test_augmentation_is_the_same_for_the_same_place_and_differs_elsewhere():
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
    # Each pixel holds its column, so an image tells how it was moved; a reflection turns round at the border.
    size, reach = 16, 2
    ramp = torch.arange(size, dtype=torch.float32).expand(64, 3, size, size)
    moved = shift_and_flip(ramp, torch.Generator().manual_seed(0), flip=True)
    assert moved.shape == ramp.shape
    reflected = torch.tensor([2, 1, *range(size), 14, 13], dtype=torch.float32)
    windows = [reflected[start : start + size] for start in range(2 * reach + 1)]
    choices = torch.stack(windows + [window.flip(0) for window in windows])
    found = (moved[:, 0, 0, None] == choices).all(-1)
    assert found.any(1).all(), "every row is a shifted, perhaps mirrored, row"
    assert found.any(0).all(), "every shift and both directions occur"
    assert torch.equal(moved, moved[:, :1, :1].expand_as(moved)), "channels and rows move together"
    straight = shift_and_flip(ramp, torch.Generator().manual_seed(0), flip=False)
    assert (straight[:, 0, 0, 8] < straight[:, 0, 0, 9]).all()


def test_fit_square_resizes_with_antialiasing_and_crops_the_centre():
    checker = torch.zeros(2, 1, 16, 32, dtype=torch.uint8)
    checker[..., ::2] = 255  # without antialiasing every second column would be picked
    checker[..., :8] = 0  # the margin that the crop removes
    checker[..., -8:] = 0
    small = fit_square(checker, 4)
    assert small.shape == (2, 1, 4, 4)
    assert small.dtype == torch.uint8
    assert (small[..., 1:3].float() - 127.5).abs().max() < 30
    same = torch.randint(0, 256, (1, 3, 4, 4)).to(torch.uint8)
    assert torch.equal(fit_square(same, 4), same)
    large = fit_square(same, 8).float()
    torch.testing.assert_close(
        large, interpolate(same.float(), size=8, mode="bilinear", antialias=True), atol=1.01, rtol=0
    )


def test_too_few_images_for_a_batch_are_named():
    with pytest.raises(UserError, match=r"21 training images fill no batch of 16 on 2 device.*: set batch_size=10"):
        on_rank(Noise(batch_size=16), 2, 0).train_dataloader()


def test_without_test_images_predict_takes_validation_and_test_says_so():
    data = Noise()
    assert len(data.predict_dataloader().dataset) == NUM_VAL
    with pytest.raises(UserError, match=r"Noise has no test images: use `vqlab validate`"):
        data.test_dataloader()
