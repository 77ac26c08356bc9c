from sklearn.datasets import load_digits

from vqlab.data import Digits


def test_splits_hold_each_digit_of_scikit_learn_once_with_its_label():
    data = Digits(image_size=8)
    parts = [data.load_split(split) for split in ("train", "val", "test")]
    assert [len(part) for part in parts] == [data.train_size, 180, 180] == [1437, 180, 180]
    assert max(part.images.max() for part in parts) == 255
    found = [
        (*(image.flatten().float() * 16 / 255).round().int().tolist(), label)
        for part in parts
        for image, label in zip(part.images, part.labels.tolist(), strict=True)
    ]
    digits = load_digits()
    expected = [(*map(int, row), label) for row, label in zip(digits.data, digits.target.tolist(), strict=True)]
    assert sorted(found) == sorted(expected)
