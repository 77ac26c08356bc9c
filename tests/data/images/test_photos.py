import numpy as np
import pytest
import torch

from vqlab.data.images import photos
from vqlab.data.images.photos import HELD_OUT, TRAIN, Photos, read_photo


def test_whole_photographs_are_held_out():
    photographs = [read_photo(*name) for name in TRAIN + HELD_OUT]
    assert all(photo.shape[2:] == (3,) and min(photo.shape[:2]) >= 300 for photo in photographs)
    assert len({photo.tobytes() for photo in photographs}) == len(TRAIN) + len(HELD_OUT) == 8


def test_crops_of_each_split_come_from_its_photographs(monkeypatch):
    # Each photograph has its own colour, and the halves of held-out photographs differ.
    def painted(package, file):
        number = [name[1] for name in TRAIN + HELD_OUT].index(file)
        photo = np.full((300, 452, 3), number, np.uint8)
        if number >= len(TRAIN):
            photo[:, 226:, 1] = 100 + number
        return photo

    monkeypatch.setattr(photos, "read_photo", painted)
    data = Photos(num_train=200, num_val=60, image_size=16)
    train, val, test = map(data.load_split, ("train", "val", "test"))
    assert set(train.images.unique().tolist()) == set(range(len(TRAIN)))
    held_out = set(range(len(TRAIN), len(TRAIN + HELD_OUT)))
    assert set(val.images[:, 0].unique().tolist()) == set(test.images[:, 0].unique().tolist()) == held_out
    assert val.images[:, 1].max() < 100 <= test.images[:, 1].min(), "validation left, test right"
    assert (len(train), len(val), len(test)) == (200, 60, 60)


def test_crops_are_seeded_and_varied():
    a, b, c = (Photos(num_train=64, num_val=8, seed=seed).load_train_val()[0].images for seed in (0, 0, 1))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)
    assert len({image.numpy().tobytes() for image in a}) == 64
    assert a.float().std() > 30


def test_training_crops_have_permuted_channels_and_are_mirrored():
    images = torch.arange(3 * 4 * 4, dtype=torch.uint8).view(1, 3, 4, 4).repeat(600, 1, 1, 1)
    varied = photos.vary(images.clone(), torch.Generator().manual_seed(0))
    kinds = {image.numpy().tobytes(): image for image in varied}
    assert len(kinds) == 12, "six orders of the channels, mirrored or not"
    for image in kinds.values():
        assert torch.equal(image.flatten().sort().values, images[0].flatten()), "nothing is lost"
    unchanged = (varied[:, :, 0].sort(2).values == images[:, :, 0]).flatten(1).all(1).float().mean()
    assert unchanged == pytest.approx(0.5 + 0.5 / 6, abs=0.07)
