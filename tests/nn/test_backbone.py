"""torchvision's classifiers: the layers that are taken, and every way in which weights can be missing or wrong."""

import re
import urllib.error

import pytest
import torch
import torchvision

from tests.helpers.refusal import refused
from vqlab.nn.backbone import BACKBONES, Owner, cached, load_features

OWNER = Owner("the distance", "--model.distance", "--model.distance=null")


def save(net, path="net.pth", part=lambda model: model):
    model = getattr(torchvision.models, BACKBONES[net].model)(weights=None).eval()
    torch.save(part(model).state_dict(), path)
    return model


@pytest.mark.parametrize("part", [lambda model: model, lambda model: model.features], ids=["model", "features"])
@pytest.mark.parametrize("net", ["alex", "squeeze", "squeezenet1_0"])
def test_the_layers_are_torchvisions_up_to_the_last_tap(net, part):
    model = save(net, part=part)
    size = BACKBONES[net].smallest
    features, x = load_features(net, "net.pth", OWNER), torch.randn(2, 3, size, size + 5)
    expected = x
    for layer in model.features[: BACKBONES[net].taps[-1] + 1]:
        expected = layer(expected)
    assert torch.equal(features(x), expected)
    assert features(x).shape[1] == BACKBONES[net].channels
    with pytest.raises(RuntimeError):
        features(torch.randn(1, 3, size - 1, size - 1))


def test_the_taps_of_both_squeezenets_are_the_layers_of_one_name():
    """Both are conv1, fire2 to fire9 and three pools, which lie in different places."""
    names = {}
    for net in ("squeeze", "squeezenet1_0"):
        features = getattr(torchvision.models, BACKBONES[net].model)(weights=None).features
        fires = iter(range(2, 10))
        labels = [f"fire{next(fires)}" if type(layer).__name__ == "Fire" else "other" for layer in features]
        names[net] = [labels[tap] for tap in BACKBONES[net].taps]
    assert names["squeeze"] == names["squeezenet1_0"]


def test_a_file_of_another_network_is_refused():
    save("squeeze")
    with refused("torchvision's squeezenet1_0", "squeezenet1_0-b66bff10.pth", "--model.distance.net"):
        load_features("squeezenet1_0", "net.pth", OWNER)


@pytest.mark.parametrize("content", [b"", b"no weights", b"PK\x03\x04 neither"])
def test_a_damaged_file_is_refused(tmp_path, content):
    (tmp_path / "net.pth").write_bytes(content)
    with refused("net.pth", "--model.distance.backbone=FILE"):
        load_features("alex", "net.pth", OWNER)


def test_a_missing_file_and_a_file_of_something_else_are_refused():
    with refused("nowhere.pth", "--model.distance.backbone=FILE"):
        load_features("alex", "nowhere.pth", OWNER)
    torch.save({"step": 3}, "other.pth")
    with refused("other.pth holds no state dict"):
        load_features("alex", "other.pth", OWNER)


def test_without_a_network_the_line_says_where_the_file_belongs(tmp_path, monkeypatch):
    def offline(url, *args, **kwargs):
        raise urllib.error.URLError("no route to host")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "hub"))
    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    with refused("the distance needs", "no route to host", "hub/hub/checkpoints", "--model.distance.net", "=null"):
        load_features("squeezenet1_0", None, OWNER)


def test_the_cache_is_used_before_the_network(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "hub"))
    monkeypatch.setattr(torch.hub, "download_url_to_file", lambda *args, **kwargs: pytest.fail("downloaded"))
    url = BACKBONES["squeeze"].url
    folder = tmp_path / "hub" / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    model = save("squeeze", folder / url.rpartition("/")[2])
    assert cached(url, OWNER).parent == folder
    weight = load_features("squeeze", None, OWNER)[0].weight
    assert torch.equal(weight, model.features[0].weight)
    (folder / url.rpartition("/")[2]).write_bytes(b"half")
    with refused("delete it"):
        load_features("squeeze", None, OWNER)


def test_the_urls_carry_the_hash_that_a_download_is_checked_by():
    assert all(re.search(r"-[0-9a-f]{8}\.pth$", backbone.url) for backbone in BACKBONES.values())
