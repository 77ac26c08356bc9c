import torch
from sklearn.datasets import load_digits

from vqlab.data.images.digits import Digits


def test_native_digits_are_scikit_learns_each_once():
    data = Digits(image_size=8, value_range="unit", batch_size=64)
    parts = [data.load_train_val()[0], data.load_train_val()[1], data.load_test()]
    assert [len(part) for part in parts] == [data.train_size, 180, 180] == [1437, 180, 180]
    images = torch.cat([part.images for part in parts])[:, 0]
    assert images.max() == 255
    ours = sorted(map(tuple, (images.flatten(1).float() * 16 / 255).round().int().tolist()))
    assert ours == sorted(map(tuple, load_digits().data.astype(int).tolist()))


def test_labels_belong_to_the_images():
    data = Digits(image_size=8).load_test()
    digits = load_digits()
    target = {tuple(row): label for row, label in zip(digits.data.astype(int).tolist(), digits.target, strict=True)}
    rows = (data.images.flatten(1).float() * 16 / 255).round().int().tolist()
    assert [target[tuple(row)] for row in rows] == data.labels.tolist()
