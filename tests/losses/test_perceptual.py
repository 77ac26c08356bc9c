"""LPIPS against its definition in float64; it adds nothing to its model.

No trained weights come with the tests: ``weights.py`` makes random ones.
"""

import copy
from importlib import resources

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.optim.swa_utils import AveragedModel

from tests.helpers.refusal import refused
from tests.helpers.weights import NETS, images, random_features, save_all
from vqlab.losses.perceptual import BACKBONES, Perceptual
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
        unit = pair / pair.pow(2).sum(1, keepdim=True).sqrt().clamp_min(1e-12)
        first, second = unit.chunk(2)
        weights = heads[f"lin{layer}.model.1.weight"].double().view(-1)
        total = total + torch.einsum("bchw,c->bhw", (first - second).pow(2), weights).flatten(1).mean(1)
    return total


@pytest.mark.parametrize("net", NETS)
def test_it_and_its_gradient_equal_the_definition(net, files):
    x_hat, x = images().requires_grad_(), images()
    distance, expected = Perceptual(net, files[net])(x_hat, x), distance_by_definition(net, x_hat, x)
    assert distance.shape == (2,)
    assert distance.dtype == torch.float32
    torch.testing.assert_close(distance.double(), expected, rtol=1e-5, atol=1e-7)
    gradients = [torch.autograd.grad(d.sum(), x_hat)[0] for d in (distance, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-7)


def test_grey_images_are_repeated_to_three_channels(files):
    distance, x_hat, x = Perceptual("squeeze", files["squeeze"]), images(channels=1), images(channels=1)
    torch.testing.assert_close(distance(x_hat, x), distance(x_hat.repeat(1, 3, 1, 1), x.repeat(1, 3, 1, 1)))


def test_equal_images_are_at_distance_zero_and_the_order_does_not_matter(files):
    distance, x_hat, x = Perceptual("squeeze", files["squeeze"]), images(), images()
    assert distance(x, x).tolist() == [0, 0]
    assert torch.equal(distance(x_hat, x), distance(x, x_hat))
    torch.testing.assert_close(distance(x_hat, x)[1:], distance(x_hat[1:], x[1:]))


@pytest.mark.parametrize("bias", [0.0, -1.0])
def test_gradient_where_all_features_vanish_is_no_nan(tmp_path, bias):
    features = random_features("squeeze")
    for name, parameter in features.named_parameters():
        if name.endswith("bias"):
            parameter.fill_(-1e3 if name == "0.bias" else bias)  # nothing passes the first layer
    torch.save(features.state_dict(), tmp_path / "dead.pth")
    x_hat = images().requires_grad_()
    Perceptual("squeeze", str(tmp_path / "dead.pth"))(x_hat, images()).sum().backward()
    assert x_hat.grad.isfinite().all()


@pytest.mark.parametrize("net", NETS)
def test_the_smallest_image(net, files):
    distance, smallest = Perceptual(net, files[net]), BACKBONES[net].smallest
    assert distance(images(size=smallest), images(size=smallest)).isfinite().all()
    with refused(f"{smallest - 1}x{smallest - 1}", f"image_size={smallest}", "perceptual_weight=0"):
        distance(images(size=smallest - 1), images(size=smallest - 1))
    with pytest.raises(RuntimeError):  # it is the network's limit, not a stricter one
        distance.load()(images(size=smallest - 1), images(size=smallest - 1))


def test_nothing_is_read_before_the_first_use_and_nothing_drawn_then(files):
    before = torch.get_rng_state()
    from_config(to_config(Perceptual(backbone="none.pth")))  # as where a checkpoint is loaded without the weights
    distance = Perceptual("squeeze", files["squeeze"])
    distance.load()
    assert torch.equal(before, torch.get_rng_state())
    assert from_config(to_config(distance)).init_args == {"net": "squeeze", "backbone": files["squeeze"]}


def test_weights_are_read_once_and_copies_have_their_own(files):
    distance, x = Perceptual("squeeze", files["squeeze"]), images()
    assert distance.load() is distance.load()
    other = copy.deepcopy(distance)
    assert other.load() is not distance.load()
    assert torch.equal(other(x, x.flip(0)), distance(x, x.flip(0)))


def test_it_adds_nothing_to_its_model_before_or_after_the_first_use(files):
    model = nn.ModuleDict({"loss": Perceptual("squeeze", files["squeeze"]), "net": nn.Conv2d(3, 3, 1)})
    names = ["net.weight", "net.bias"]
    for _ in range(2):
        assert list(model.state_dict()) == [name for name, _ in model.named_parameters()] == names
        assert not list(model.buffers())
        x = images()
        model["loss"](model["net"](x), x).sum().backward()
    net = model.train()["loss"].load()
    assert not any(part.training for part in net.net.modules())
    assert not any(p.requires_grad for p in net.parameters())
    assert model["net"].weight.grad.abs().sum() > 0


def test_an_average_that_was_copied_before_the_first_use_fits_after_it(files):
    model = nn.Sequential(Perceptual("squeeze", files["squeeze"]), nn.Linear(2, 2))
    average = AveragedModel(model)
    model[0].load()
    average.update_parameters(model)
    assert torch.equal(average.module[1].weight, model[1].weight)


def test_it_trains_after_a_first_use_in_inference_mode(files):
    distance, x, x_hat = Perceptual("squeeze", files["squeeze"]), images(), images().requires_grad_()
    with torch.inference_mode():
        first = distance(x_hat, x)
    second = distance(x_hat, x)
    second.sum().backward()
    assert torch.equal(first, second.detach())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_under_autocast_a_loss_is_near_the_exact_value_and_a_reported_distance_is_exact(files, dtype):
    distance, x, noise = Perceptual("vgg", files["vgg"]), images(4), images(4)
    for size in (0.1, 1.0):
        x_hat = (x + size * noise).requires_grad_()
        exact = distance(x_hat, x)
        with torch.autocast("cpu", dtype):
            rough, reported = distance(x_hat, x), distance(x_hat.detach().to(dtype), x)
            with torch.no_grad():
                assert torch.equal(distance(x_hat, x), exact)
        assert rough.dtype == reported.dtype == torch.float32
        assert not torch.equal(rough, exact), "training does use the faster convolutions"
        torch.testing.assert_close(rough, exact, rtol=0.02, atol=0)
        gradients = [torch.autograd.grad(d.sum(), x_hat)[0].flatten() for d in (exact, rough)]
        assert F.cosine_similarity(*gradients, dim=0) > 0.97


@pytest.mark.gpu
def test_it_follows_the_images_to_the_gpu_and_back(files):
    distance, x_hat, x = Perceptual("squeeze", files["squeeze"]), images(), images()
    expected = distance(x_hat, x)
    torch.testing.assert_close(distance(x_hat.cuda(), x.cuda()).cpu(), expected, rtol=1e-2, atol=1e-4)
    assert torch.equal(distance(x_hat, x), expected)
