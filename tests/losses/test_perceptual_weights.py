"""Where LPIPS gets its weights, and the messages for files that are missing, damaged or of another network."""

import os
import re
import socket
import urllib.error
from pathlib import Path

import pytest
import torch
import torchvision

from tests.helpers.refusal import refused
from tests.helpers.weights import images, random_features, save_all
from vqlab.losses.perceptual import BACKBONES, Perceptual


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return save_all(tmp_path_factory.mktemp("weights"))


def no_download(error):
    def fail(*_, **__):
        raise error

    return fail


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """An empty cache of torch hub's, and no network."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.setattr(torch.hub, "download_url_to_file", no_download(urllib.error.URLError("unreachable")))
    return tmp_path / "hub" / "checkpoints"


@pytest.mark.parametrize("prefix", ["features.", ""])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 0), (torch.float16, 1e-2)])
def test_a_whole_model_and_features_alone_are_read(tmp_path, files, prefix, dtype, tolerance):
    state = {prefix + name: value.to(dtype) for name, value in random_features("squeeze").state_dict().items()}
    if prefix:
        state["classifier.1.weight"] = torch.zeros(1000, 512, 1, 1)
    torch.save(state, tmp_path / "a.pth")
    x_hat, x = images(), images()
    expected = Perceptual("squeeze", files["squeeze"])(x_hat, x)
    found = Perceptual("squeeze", str(tmp_path / "a.pth"))(x_hat, x)
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=0)


def test_a_file_in_the_cache_is_taken_without_a_network(hub, files):
    hub.mkdir(parents=True)
    os.symlink(files["squeeze"], hub / "squeezenet1_1-b8a52dc0.pth")
    x = images()
    assert torch.equal(Perceptual("squeeze")(x, -x), Perceptual("squeeze", files["squeeze"])(x, -x))


def test_what_is_not_there_is_downloaded_once_and_checked(hub, files, monkeypatch):
    calls = []

    def download(url, target, hash_prefix):
        calls.append((url, Path(target), hash_prefix))
        Path(target).write_bytes(Path(files["alex"]).read_bytes())

    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    x = images()
    for _ in range(2):
        Perceptual("alex")(x, -x)
    file = hub / "alexnet-owt-7be5be79.pth"
    assert calls == [("https://download.pytorch.org/models/alexnet-owt-7be5be79.pth", file, "7be5be79")]


@pytest.mark.parametrize("net", BACKBONES)
def test_urls_are_those_of_torchvision_and_carry_the_hash(net):
    weights = torchvision.models.get_model_weights(BACKBONES[net].model)["IMAGENET1K_V1"]
    assert BACKBONES[net].url == weights.url
    assert re.search(r"-[0-9a-f]{8}\.pth$", weights.url)


@pytest.mark.parametrize(
    "error",
    [
        urllib.error.URLError("[Errno -2] Name or service not known"),
        TimeoutError("timed out"),
        RuntimeError('invalid hash value (expected "397923af", got "0")'),
        PermissionError(13, "Permission denied"),
    ],
)
def test_no_network_is_one_line_with_url_place_and_ways_out(hub, monkeypatch, error):
    monkeypatch.setattr(torch.hub, "download_url_to_file", no_download(error))
    url, place = "https://download.pytorch.org/models/vgg16-397923af.pth", str(hub / "vgg16-397923af.pth")
    words = url, place, "perceptual.backbone=FILE", "perceptual_weight=0"
    with refused(*words):
        Perceptual()(images(), images())
    with refused(*words):
        Perceptual().load()
    assert socket.getdefaulttimeout() is None, "left as it was"


def test_a_missing_file_is_named(tmp_path):
    with refused(str(tmp_path / "none.pth"), "perceptual.backbone=FILE"):
        Perceptual(backbone=str(tmp_path / "none.pth")).load()


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("share", [0, 0.01, 0.5, 0.999])
def test_a_truncated_file_is_named(tmp_path, zipped, share):
    file = tmp_path / "cut.pth"
    torch.save(random_features("squeeze").state_dict(), file, _use_new_zipfile_serialization=zipped)
    file.write_bytes(file.read_bytes()[: int(share * file.stat().st_size)])
    with refused(str(file), "perceptual.backbone=FILE"):
        Perceptual("squeeze", str(file)).load()


def test_a_damaged_file_in_the_cache_is_to_be_deleted(hub):
    hub.mkdir(parents=True)
    file = hub / "vgg16-397923af.pth"
    file.write_text("<html>Not found</html>")
    with refused(str(file), "delete it"):
        Perceptual().load()


@pytest.mark.parametrize("other", ["alex", "squeeze"])
def test_the_file_of_another_network_is_refused(files, other):
    with refused(files[other], "vgg16", "perceptual.net"):
        Perceptual("vgg", files[other]).load()


class Command:
    def __reduce__(self):
        return os.system, ("touch ran",)


@pytest.mark.parametrize(
    "content",
    [torch.zeros(3), [1, 2], {"state_dict": {}}, {"0.weight": 1}, {}, {"a": Command()}],
    ids=["tensor", "list", "nested", "number", "empty", "command"],
)
def test_files_of_something_else_are_refused_and_not_run(tmp_path, content):
    torch.save(content, tmp_path / "other.pth")
    with refused(str(tmp_path / "other.pth")):
        Perceptual("squeeze", str(tmp_path / "other.pth")).load()
    assert not Path("ran").exists()


def test_weights_that_are_missing_in_part_are_refused(tmp_path):
    state = random_features("squeeze").state_dict()
    del state["12.expand3x3.bias"]
    torch.save(state, tmp_path / "part.pth")
    with refused(str(tmp_path / "part.pth"), "squeezenet1_1"):
        Perceptual("squeeze", str(tmp_path / "part.pth")).load()
