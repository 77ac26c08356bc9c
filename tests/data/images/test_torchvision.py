"""CIFAR-10, MNIST and Fashion-MNIST from small files in torchvision's layout, without a network."""

import gzip
import io
import pickle
import socket
import urllib.error
import urllib.request
from hashlib import md5
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import torch
from torchvision import datasets

from tests.helpers.refusal import refused
from vqlab.data import CIFAR10, MNIST, SVHN, FashionMNIST


def pixels(*shape):
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def write_mnist(root: Path, name: str = "MNIST") -> None:
    raw = root / name / "raw"
    raw.mkdir(parents=True)
    for part, count in (("train", 30), ("t10k", 10)):
        labels = (np.arange(count) % 10).astype(np.uint8)
        for kind, array in (("images-idx3", pixels(count, 28, 28)), ("labels-idx1", labels)):
            header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">i4").tobytes()
            (raw / f"{part}-{kind}-ubyte").write_bytes(header + array.tobytes())


@pytest.fixture
def small(monkeypatch):
    """Set the number of official training images to that of the small files."""
    for data in (MNIST, FashionMNIST, CIFAR10, SVHN):
        monkeypatch.setattr(data, "num_official", 30)


@pytest.fixture
def offline(monkeypatch):
    """Let every request fail, and return the list of requests."""
    requests = []

    def refuse(request, *args, **kwargs):
        requests.append(request.full_url)
        assert socket.getdefaulttimeout() == 10, "no request may hang"
        raise urllib.error.URLError("no route\nto host")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    return requests


@pytest.mark.parametrize("source", [MNIST, FashionMNIST])
def test_existing_files_are_used_without_a_network(tmp_path, small, offline, source):
    write_mnist(tmp_path, source.__name__)
    data = source(str(tmp_path), val_size=5, batch_size=4, value_range="unit")
    data.prepare_data()
    data.setup()
    train, val = data._train_val
    assert (len(train), len(val), len(data._test), data.train_size) == (25, 5, 10, 25)
    together = torch.cat([train.images, val.images])[:, 0].numpy()
    assert sorted(map(bytes, together)) == sorted(map(bytes, pixels(30, 28, 28))), "each official image is in one split"
    assert next(iter(data.train_dataloader()))["image"].shape == (4, 1, 28, 28)
    assert not offline


def write_cifar10(root: Path, monkeypatch) -> np.ndarray:
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    images = pixels(35, 3072)
    sums = {}
    names = [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch", "batches.meta"]
    contents = [{"data": part, "labels": list(range(len(part)))} for part in np.split(images, [6, 12, 18, 24, 30])]
    for name, content in zip(names, [*contents, {"label_names": list("abcdefghij")}], strict=True):
        (folder / name).write_bytes(pickle.dumps(content))
        sums[name] = md5((folder / name).read_bytes()).hexdigest()
    monkeypatch.setattr(datasets.CIFAR10, "train_list", [[name, sums[name]] for name in names[:5]])
    monkeypatch.setattr(datasets.CIFAR10, "test_list", [["test_batch", sums["test_batch"]]])
    monkeypatch.setattr(datasets.CIFAR10, "meta", datasets.CIFAR10.meta | {"md5": sums["batches.meta"]})
    return images


def test_cifar10_is_read_and_resized_and_must_be_complete(tmp_path, small, offline, monkeypatch):
    images = write_cifar10(tmp_path, monkeypatch)
    data = CIFAR10(str(tmp_path), val_size=5)
    data.prepare_data()
    data.setup()
    assert torch.equal(data._test.images.flatten(1), torch.from_numpy(images[30:]))
    assert data._test.labels.tolist() == list(range(5))
    assert CIFAR10(str(tmp_path), val_size=5, image_size=16).load_test().images.shape == (5, 3, 16, 16)
    assert not offline
    (tmp_path / "cifar-10-batches-py" / "data_batch_3").write_bytes(b"cut")
    with refused(f"CIFAR10 in {tmp_path}/cifar-10-batches-py is missing or incomplete"):
        CIFAR10(str(tmp_path), val_size=5, download=False).prepare_data()


def test_svhn_is_read_and_must_be_complete(tmp_path, small, offline, monkeypatch):
    folder = tmp_path / "svhn"
    folder.mkdir()
    images = pixels(40, 32, 32, 3)
    labels = np.arange(40) % 10 + 1  # 10 is the digit 0
    sums = {}
    for name, part in (("train", slice(30)), ("test", slice(30, 40))):
        file = folder / f"{name}_32x32.mat"
        scipy.io.savemat(file, {"X": images[part].transpose(1, 2, 3, 0), "y": labels[part, None]})
        sums[name] = ["http://nowhere", file.name, md5(file.read_bytes()).hexdigest()]
    monkeypatch.setattr(datasets.SVHN, "split_list", sums)
    data = SVHN(str(tmp_path), val_size=5)
    data.prepare_data()
    data.setup()
    assert torch.equal(data._test.images, torch.from_numpy(images[30:]).permute(0, 3, 1, 2))
    assert data._test.labels.tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9, 0]
    assert (len(data._train_val[0]), data.train_size) == (25, 25)
    assert not offline
    (folder / "train_32x32.mat").write_bytes(b"cut")
    with refused(f"SVHN in {tmp_path}/svhn is missing or incomplete"):
        SVHN(str(tmp_path), val_size=5, download=False).prepare_data()


@pytest.mark.parametrize("source", [CIFAR10, SVHN, MNIST, FashionMNIST])
def test_failed_download_gives_one_line_and_leaves_no_files(tmp_path, offline, source):
    before = socket.getdefaulttimeout()
    with refused(f"{source.__name__} could not be downloaded", "without a network use Photos"):
        source(str(tmp_path / "new")).prepare_data()
    assert offline
    assert list((tmp_path / "new").iterdir()) == []
    assert socket.getdefaulttimeout() == before


class Answer(io.BytesIO):
    """The response of a server, which ends with a timeout after ``content`` if ``broken``."""

    def __init__(self, content: bytes, url: str, broken: bool):
        super().__init__(content)
        self.url, self.broken, self.length = url, broken, len(content)

    def read(self, size=-1):
        content = super().read(size)
        if self.broken and not content:
            raise TimeoutError("timed out")
        return content


def test_an_interrupted_download_leaves_no_files_and_a_complete_one_is_used(tmp_path, small, monkeypatch):
    write_mnist(tmp_path / "server")
    raw = tmp_path / "server" / "MNIST" / "raw"
    files = {f"{file.name}.gz": gzip.compress(file.read_bytes()) for file in raw.iterdir()}
    monkeypatch.setattr(datasets.MNIST, "resources", [(name, md5(data).hexdigest()) for name, data in files.items()])
    interrupted = {[*files][-1]}

    def answer(request, *args, **kwargs):
        name = request.full_url.rsplit("/", 1)[1]
        return Answer(files[name][: 100 if name in interrupted else None], request.full_url, name in interrupted)

    monkeypatch.setattr(urllib.request, "urlopen", answer)
    data = MNIST(str(tmp_path / "data"), val_size=5, batch_size=8)
    with refused("timed out"):
        data.prepare_data()
    assert list((tmp_path / "data").iterdir()) == []
    interrupted.clear()
    data.prepare_data()
    assert len(data.load_train_val()[0]) == 25
    assert [file.name for file in (tmp_path / "data").iterdir()] == ["MNIST"]


def test_missing_data_without_download_give_one_line(tmp_path, offline):
    with refused("set path=FOLDER or download=true; without a network use Photos"):
        MNIST(str(tmp_path), download=False).prepare_data()
    with refused(f"MNIST in {tmp_path}/MNIST/raw is missing"):
        MNIST(str(tmp_path)).setup("fit")
    assert not offline
