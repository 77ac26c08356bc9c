"""Few labels: which are used, that no other is, and that a batch's draw depends on the batch alone."""

import pytest
import torch

from tests.helpers.refusal import refused
from vqlab.data.images.base import ImageTensors, PartlyLabelled, choose_labelled
from vqlab.data.images.digits import Digits


def tensors(labels):
    count = len(labels)
    images = torch.arange(count, dtype=torch.uint8)[:, None, None, None].expand(-1, 1, 2, 2)
    return ImageTensors(images.contiguous(), torch.tensor(labels))


def test_the_seed_chooses_as_many_of_each_class():
    labels = torch.tensor([0, 1, 2] * 20 + [-1] * 5)
    chosen = choose_labelled(labels, 4, seed=0)
    assert labels[chosen].bincount().tolist() == [4, 4, 4]
    assert torch.equal(chosen, choose_labelled(labels, 4, seed=0))
    assert not torch.equal(chosen, choose_labelled(labels, 4, seed=1))


def test_no_other_label_is_used():
    labels = [0, 1] * 10
    data = tensors(labels)
    chosen = choose_labelled(data.labels, 3, seed=0)
    poisoned = torch.full((20,), 10**6)
    poisoned[chosen] = data.labels[chosen]
    batches = [
        PartlyLabelled(ImageTensors(data.images, told), chosen, batch_size=4).__getitems__([5, 1, 8])
        for told in (data.labels, poisoned)
    ]
    assert all(torch.equal(value, batches[1][name]) for name, value in batches[0].items())
    batch = batches[0]
    assert batch["label"].tolist() == [-1, -1, -1]
    assert batch["image"][:, 0, 0, 0].tolist() == [5, 1, 8]
    positions = batch["labelled_image"][:, 0, 0, 0].long()
    assert set(positions.tolist()) <= set(chosen.tolist())
    assert batch["labelled_label"].tolist() == [labels[p] for p in positions]


def test_all_chosen_images_come_before_one_comes_again():
    data = tensors([0, 1] * 10)
    part = PartlyLabelled(data, torch.arange(6), batch_size=15)
    positions = part.__getitems__([0])["labelled_image"][:, 0, 0, 0].long()
    assert positions.bincount(minlength=6).min() >= 2
    assert not torch.equal(positions, part.__getitems__([1])["labelled_image"][:, 0, 0, 0].long())


@pytest.mark.parametrize("augment", [False, True])
def test_the_data_module_has_two_streams(augment):
    data = Digits(image_size=8, labels_per_class=10, batch_size=32, augment=augment)
    batch = next(iter(data.train_dataloader()))
    assert batch["image"].shape == batch["labelled_image"].shape == (32, 1, 8, 8)
    assert batch["labelled_image"].dtype == torch.float32
    assert (batch["label"] == -1).all()
    assert set(batch["labelled_label"].tolist()) <= set(range(10))
    assert (next(iter(data.val_dataloader()))["label"] >= 0).all()
    assert "labelled_image" not in next(iter(Digits(image_size=8).train_dataloader()))


def test_missing_labels_are_refused():
    with refused("labels_per_class must be at most 2, the images of class 1, got 3"):
        choose_labelled(torch.tensor([0, 0, 0, 1, 1]), 3, seed=0)
    with refused("no labels", "labels_per_class=null"):
        choose_labelled(torch.full((5,), -1), 3, seed=0)
