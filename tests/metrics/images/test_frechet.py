"""The Frechet distance against scipy's matrix root."""

import copy

import numpy as np
import pytest
import scipy.linalg
import torch
import torchvision
from torch import nn

from tests.helpers.refusal import refused
from vqlab.metrics.images.frechet import FrechetDistance, Inception, frechet_distance, gaussian
from vqlab.nn.frozen import Frozen

CHANNELS = 512


def rand(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def images(count, seed):
    return torch.rand(count, 3, 21, 21, generator=torch.Generator().manual_seed(seed)) ** (1 + seed)


def scipys(x, y):
    """Heusel et al.'s formula with numpy's covariance and scipy's root of the product."""
    (m, c), (n, d) = ((f.mean(0), np.cov(f, rowvar=False)) for f in (x.double().numpy(), y.double().numpy()))
    root = scipy.linalg.sqrtm(c @ d).real
    return ((m - n) ** 2).sum() + np.trace(c + d - 2 * root)


def with_pixels(metric):
    """Replace the network by one whose features are some of the pixels."""

    class Pixels(nn.Module):
        def forward(self, x):
            assert x.dtype == torch.float32
            return x.flatten(1)[:, :CHANNELS]

    metric._loaded.append(Frozen(Pixels()))
    return metric


# The formula


def distance(x, y):
    states = [(f.sum(0), f.T @ f, torch.tensor(len(f))) for f in (x, y)]
    return frechet_distance(*gaussian(*states[0]), *gaussian(*states[1])).item()


@pytest.mark.parametrize("dim", [1, 2, 17, 64])
@pytest.mark.parametrize("offset", [0.0, 30.0])
def test_it_equals_scipys(dim, offset):
    x = rand(200, dim, seed=1) @ rand(dim, dim, seed=2) + offset
    y = rand(150, dim, seed=3) @ rand(dim, dim, seed=4) - rand(dim, seed=5) + offset
    reference = scipys(x, y) if dim > 1 else float((x.mean() - y.mean()) ** 2 + (x.std() - y.std()) ** 2)
    assert distance(x, y) == pytest.approx(reference, rel=1e-8)


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
def test_singular_covariances_keep_the_precision(scale):
    """Features of rank 5 in 40 dimensions: the distance is that within their subspace, where all is regular."""
    basis = torch.linalg.qr(rand(40, 5, seed=1))[0]
    x, y = scale * rand(30, 5, seed=2), scale * rand(30, 5, seed=3) @ rand(5, 5, seed=4)
    assert distance(x @ basis.T, y @ basis.T) == pytest.approx(scipys(x, y), rel=1e-9)


def test_one_singular_covariance_or_fewer_images_than_features():
    x, y = rand(100, 6, seed=1), rand(100, 6, seed=2)
    flat = x.clone()
    flat[:, 3:] = 0
    assert distance(flat, y) == pytest.approx(scipys(flat, y), rel=1e-5)  # the accuracy of the reference
    constant = torch.full((100, 6), 0.3, dtype=torch.float64)
    expected = (y.mean(0) - 0.3).square().sum() + y.var(0).sum()
    assert distance(constant, y) == pytest.approx(expected.item(), rel=1e-9)
    assert distance(constant, constant) == pytest.approx(0, abs=1e-12)
    few, others = rand(10, 64, seed=1), rand(12, 64, seed=2) + 1
    assert distance(few, others) == pytest.approx(scipys(few, others), rel=1e-4)  # as above
    assert 0 <= distance(few, few) < 1e-9


# The metric


@pytest.fixture
def squeezenet():
    model = torchvision.models.squeezenet1_0(weights=None).eval()
    torch.save(model.state_dict(), "net.pth")
    return model


def test_the_features_are_those_of_the_network_averaged_over_positions(squeezenet):
    metric = FrechetDistance("squeezenet1_0", backbone="net.pth")
    sets = [images(12, seed) for seed in (0, 1)]
    for real, batch in zip((True, False), sets, strict=True):
        for part in batch.split(5):
            metric.update(part, real=real)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    with torch.no_grad():
        normed = [((x.movedim(1, -1) - mean) / std).movedim(-1, 1) for x in sets]
        x, y = (squeezenet.features(batch).mean((2, 3)).double() for batch in normed)
    assert metric.compute().item() == pytest.approx(distance(x, y), rel=1e-4)
    assert metric.name == "squeezenet1_0"


def test_the_network_is_frozen_lazy_and_in_no_state_dict(squeezenet):
    metric = FrechetDistance("squeezenet1_0", backbone="net.pth")
    assert not metric._loaded
    metric.train().update(images(2, 0).requires_grad_(), real=True)
    assert not list(metric.state_dict())
    assert not list(metric.parameters())
    assert not metric.load().net.training
    assert not metric.real_products.requires_grad
    assert copy.deepcopy(metric).real_count == 2


def test_autocast_does_not_reach_the_features(squeezenet):
    metrics = [FrechetDistance("squeezenet1_0", backbone="net.pth") for _ in range(2)]
    metrics[0].update(images(4, 0), real=True)
    with torch.autocast("cpu", torch.bfloat16):
        metrics[1].update(images(4, 0), real=True)
    assert torch.equal(metrics[0].real_products, metrics[1].real_products)


class Network(nn.Module):
    """What torchmetrics has where torch-fidelity is installed; its features are the pixels."""

    def __init__(self, name, features_list, path):
        super().__init__()
        assert (name, features_list) == ("inception-v3-compat", ["2048"])
        torch.load(path, weights_only=True)

    def forward(self, x):
        assert x.dtype == torch.uint8
        return x.float().flatten(1)


def test_inception(monkeypatch, tmp_path):
    from torchmetrics.image import fid

    monkeypatch.setattr(fid, "_TORCH_FIDELITY_AVAILABLE", False)
    with refused("pip install torch-fidelity, or set net=vgg"):
        FrechetDistance().load()
    monkeypatch.setattr(fid, "_TORCH_FIDELITY_AVAILABLE", True)
    monkeypatch.setattr(fid, "NoTrainInceptionV3", Network)
    with refused("nowhere.pth does not hold the weights of Inception", "weights-inception-2015-12-05-6726825d.pth"):
        FrechetDistance(backbone="nowhere.pth").load()

    def offline(*args, **kwargs):
        raise OSError("no route to host")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "hub"))
    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    with refused("no route to host", "weights-inception-2015-12-05-6726825d.pth", "frechet=null"):
        FrechetDistance().load()
    torch.save({}, "file.pth")
    levels = torch.arange(256.0)[None, None, None]
    x = (levels / 255 * 2 - 1) * 0.5 + 0.5  # through [-1, 1] and back, which rounds some levels down
    assert torch.equal(Inception("file.pth")(x), levels.flatten(1))


def test_reset_forgets_and_grey_is_three_equal_channels(squeezenet):
    metric = FrechetDistance("squeezenet1_0", backbone="net.pth")
    grey = images(6, 0)[:, :1], images(6, 1)[:, :1]
    values = []
    for x, y in (grey, [batch.expand(-1, 3, -1, -1) for batch in grey], grey):
        metric.update(x, real=True)
        metric.update(y, real=False)
        values.append(metric.compute().item())
        metric.reset()
    assert values[0] == values[1] == values[2] > 0
