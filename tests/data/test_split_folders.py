import pytest

from tests.helpers.refusal import refused
from vqlab.data.split_folders import group_by_split, name_splits, require_no_held_out, split_folders


def split(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    _, files = split_folders(root, (".x",), "examples")
    return {split: [str(file.relative_to(root)) for file in group] for split, group in files.items()}


@pytest.mark.parametrize(
    ("names", "splits"),
    [
        (["train/a/1.x", "test/a/1.x"], {"train": ["train/a/1.x"], "test": ["test/a/1.x"]}),
        (["TRAIN/1.x", "Dev/2.x", "eval/3.x"], {"train": ["TRAIN/1.x"], "val": ["Dev/2.x"], "test": ["eval/3.x"]}),
        (["seg_train/1.x", "seg_test/1.x"], {"train": ["seg_train/1.x"], "test": ["seg_test/1.x"]}),
        (["training_set/1.x", "valset/1.x"], {"train": ["training_set/1.x"], "val": ["valset/1.x"]}),
        (["train/1.x", "val/1.x", "notes/a.txt", "2.x"], {"train": ["train/1.x"], "val": ["val/1.x"]}),
        (["train/a/1.x", ".git/test/1.x"], {"": ["train/a/1.x"]}),
        (["bullet-train/1.x", "train_station/2.x", "a/3.x"], {"": ["a/3.x", "bullet-train/1.x", "train_station/2.x"]}),
    ],
)
def test_folders_with_usual_names_are_splits(tmp_path, names, splits):
    assert split(tmp_path, *names) == splits


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["test/1.x"], ["holds test", "rename test"]),
        (["val/1.x", "test/1.x"], ["holds test, val"]),
        (["cat/1.x", "dog/1.x", "test/1.x"], ["holds test, cat, dog"]),
        (["train/1.x", "plane/1.x"], ["holds train, plane"]),
        (["train/1.x", "test/1.x", "unlabeled/1.x"], ["holds test, train, unlabeled"]),
        (["train/1.x", "val/1.x", "validation/1.x"], ["holds train, val, validation"]),
        (["trainA/1.x", "trainB/1.x", "testA/1.x"], ["holds testA, trainA, trainB"]),
        (["bottle/train/good/1.x", "bottle/test/good/1.x", "cable/1.x"], ["bottle holds test, train"]),
        (["train/cat/1.x", "train/dog/test/1.x", "val/1.x"], ["dog holds test"]),
        (["train/1.x", "val/1.txt"], ["val holds no examples"]),
    ],
)
def test_other_layouts_are_refused(tmp_path, names, words):
    with refused(*words, "path=FOLDER"):
        split(tmp_path, *names)


def test_splits_of_names_and_held_out_parents_of_paths():
    assert name_splits(["Trainset", "devset", "2"]) == {"Trainset": "train", "devset": "val"}
    assert name_splits(["test_tube", "validity", "dev-board"]) == {}
    assert group_by_split(["0", "1"], "here") == {"": [0, 1]}
    with refused("here holds train-0, test-0, other", "rename train-0"):
        group_by_split(["train-0", "test-0", "other"], "here")
    with refused("here/a holds b, test"):
        require_no_held_out(["a/b/1.x", "a/test/1.x"], "here")
