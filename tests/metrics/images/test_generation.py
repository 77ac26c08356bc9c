"""The metrics of drawn images against torchmetrics, torch-fidelity and their definitions in float64."""

import pytest
import torch
from torch import nn
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.metric_kid import kid_features_to_metric
from torch_fidelity.metric_prc import prc_features_to_metric
from torchmetrics.image import fid, kid

from tests.helpers.family import rand64 as rand
from vqlab.metrics import FrechetDistance, GenerationMetrics
from vqlab.metrics.images.generation import kernel_distances, neighbour_metrics, squared_mmd
from vqlab.nn.frozen import Frozen


class Pixels(nn.Module):
    """12 features of images (B, 3, 2, 2): their values, not in [0, 1]."""

    num_features = 12

    def forward(self, x):
        return x.flatten(1).double()


def sets(count, others, dim=12, seed=0):
    """Return features of two overlapping distributions."""
    mix = rand(dim, dim, seed=seed + 1)
    return rand(count, dim, seed=seed + 2) @ mix, rand(others, dim, seed=seed + 3) @ mix * 0.8 + 0.3


def metrics_of(real, fake, monkeypatch, cls=GenerationMetrics, **arguments):
    """Return a metric that has seen these features."""
    monkeypatch.setattr("vqlab.metrics.images.frechet.channels_of", lambda net: real.shape[1])
    metric = cls("vgg", **arguments)
    for kind, features in (("real", real), ("fake", fake)):
        for part in features.split(70):
            metric.add_features(part, kind)
    metric._update_count = 1
    return metric


def test_frechet_distance_equals_torchmetrics_and_torch_fidelity(monkeypatch):
    real, fake = sets(300, 250)
    value = metrics_of(real, fake, monkeypatch).compute()["fd_vgg"].item()
    peer = fid.FrechetInceptionDistance(feature=Pixels(), input_img_size=(3, 2, 2), normalize=True).set_dtype(
        torch.float64
    )
    peer.update(real.view(-1, 3, 2, 2), real=True)
    peer.update(fake.view(-1, 3, 2, 2), real=False)
    assert value == pytest.approx(peer.compute().item(), rel=1e-6)
    statistics = [fid_features_to_statistics(features) for features in (real, fake)]
    peer = fid_statistics_to_metric(*statistics, verbose=False)["frechet_inception_distance"]
    assert value == pytest.approx(peer, rel=1e-6)
    assert value == metrics_of(real, fake, monkeypatch, FrechetDistance).compute().item()


@pytest.mark.parametrize("seed", [0, 7])
def test_kernel_distance_equals_torchmetrics_with_the_same_subsets(seed):
    real, fake = sets(300, 250)
    peer = kid.KernelInceptionDistance(feature=Pixels(), subsets=20, subset_size=60, normalize=True)
    peer.real_features, peer.fake_features, peer._update_count = [real], [fake], 1
    torch.manual_seed(seed)
    mean, std = peer.compute()
    values = kernel_distances(real, fake, 20, 60, torch.Generator().manual_seed(seed))
    assert values.mean().item() == pytest.approx(mean.item(), rel=1e-6)
    assert values.std(correction=0).item() == pytest.approx(std.item(), rel=1e-6)


def test_kernel_distance_equals_torch_fidelity_with_all_images(monkeypatch):
    real, fake = (features.float() for features in sets(200, 200))
    arguments = {"kid_subsets": 1, "kid_subset_size": 200, "verbose": False}
    peer = kid_features_to_metric(real.double(), fake.double(), **arguments)["kernel_inception_distance_mean"]
    values = metrics_of(real, fake, monkeypatch).compute()
    assert values["kd_vgg"].item() == pytest.approx(peer, rel=1e-6)
    assert values["kd_std_vgg"].item() == pytest.approx(0, abs=1e-9 * peer)


def test_squared_mmd_is_unbiased():
    """The mean over many pairs of samples of one distribution is 0 within three standard errors."""
    values = torch.stack([squared_mmd(rand(20, 3, seed=2 * i), rand(20, 3, seed=2 * i + 1)) for i in range(400)])
    assert abs(values.mean()) < 3 * values.std() / 20
    assert values.std() / 20 < 0.05


def by_definition(real, fake):
    """The equations of the two papers, an image at a time, in float64."""

    def to(points, centre):
        return (points.double() - centre.double()).square().sum(1).sqrt()

    def balls(points, k):
        return [to(points, centre).sort().values[k] for centre in points]  # position 0 is the centre itself

    def inside(points, centres, radii):
        return torch.stack([to(points, centre) <= radius for centre, radius in zip(centres, radii, strict=True)])

    precise = inside(fake, real, balls(real, 3))  # (N, M)
    recalled, wide = inside(real, fake, balls(fake, 3)), inside(fake, real, balls(real, 5))
    return {
        "precision": precise.any(0).double().mean().item(),
        "recall": recalled.any(0).double().mean().item(),
        "density": wide.sum(0).double().mean().item() / 5,
        "coverage": wide.any(1).double().mean().item(),
    }


@pytest.mark.parametrize(("count", "others", "dim"), [(6, 9, 2), (150, 220, 3), (220, 150, 12)])
@pytest.mark.parametrize("offset", [0, 100])
def test_neighbour_metrics_equal_their_definition(count, others, dim, offset):
    real, fake = (features + offset for features in sets(count, others, dim))
    found = {name: value.item() for name, value in neighbour_metrics(real, fake).items()}
    assert found == pytest.approx(by_definition(real, fake), rel=1e-12)
    assert found["density"] > 0


def test_precision_and_recall_equal_torch_fidelity_in_several_parts(monkeypatch):
    monkeypatch.setattr("vqlab.metrics.images.generation.ROWS", 40)
    monkeypatch.setattr("vqlab.metrics.images.generation.COLUMNS", 64)
    real, fake = sets(300, 250)
    found = neighbour_metrics(real, fake)
    peer = prc_features_to_metric(fake, real, save_cpu_ram=True, verbose=False)
    assert found["precision"].item() == pytest.approx(peer["precision"], rel=1e-6)
    assert found["recall"].item() == pytest.approx(peer["recall"], rel=1e-6)
    assert {n: v.item() for n, v in found.items()} == pytest.approx(by_definition(real, fake), rel=1e-12)


def test_dropped_modes_lower_recall_and_coverage_and_outliers_lower_precision():
    centres = 40 * rand(10, 8, seed=1)
    real, fake = (centres.repeat_interleave(30, 0) + rand(300, 8, seed=seed) for seed in (2, 3))
    whole, half = neighbour_metrics(real, fake), neighbour_metrics(real, fake[:150])
    assert whole["recall"] > 0.8 > 0.6 > half["recall"]
    assert whole["coverage"] > 0.8 > 0.6 > half["coverage"]
    assert half["precision"] > 0.8
    noisy = neighbour_metrics(real, torch.cat([fake[:150], 200 * rand(150, 8, seed=4)]))
    assert noisy["precision"] < 0.55
    assert noisy["density"] < 0.6 * half["density"]


def test_values_do_not_depend_on_the_order_and_repeat_by_seed(monkeypatch):
    real, fake = sets(1100, 1050)
    values = metrics_of(real, fake, monkeypatch).compute()
    mixed = metrics_of(real.flip(0), fake[torch.randperm(1050)], monkeypatch).compute()
    assert {n: v.item() for n, v in mixed.items()} == pytest.approx({n: v.item() for n, v in values.items()}, rel=1e-9)
    other = metrics_of(real, fake, monkeypatch, seed=1).compute()
    assert other["kd_vgg"] != values["kd_vgg"]
    assert other["kd_vgg"].item() == pytest.approx(values["kd_vgg"].item(), rel=0.1)
    assert [n for n in values if other[n] != values[n]] == ["kd_vgg", "kd_std_vgg"]


def test_images_are_counted_from_update_to_reset():
    metric, images = GenerationMetrics("vgg"), torch.rand(2, 20, 1, 16, 16)
    metric._loaded.append(Frozen(nn.Sequential(nn.Flatten(), nn.AdaptiveAvgPool1d(512))))
    values = []
    for _ in range(2):
        for x in images.unbind(0):
            for part in x.split(7):
                metric.update(part, real=x is images[0])
            metric.update(x, real=True)
        values.append(metric.compute())
        metric.reset()
    assert metric.real_features == []
    assert values[0] == values[1]
