"""By SqueezeNet 1.0, which has no trained heads, a plain distance of features that is not called LPIPS."""

import lightning
import pytest
import torch
import torchvision
from torch.utils.data import DataLoader

from tests.helpers.bare import BARE
from tests.helpers.models import build
from vqlab.losses.perceptual import Perceptual
from vqlab.models.vq.vqgan import VQGAN
from vqlab.nn.autoencoders.small import SmallDecoder, SmallEncoder
from vqlab.quantizers.fsq import FSQ

MEAN, STD = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])


@pytest.fixture
def model():
    model = torchvision.models.squeezenet1_0(weights=None).eval()
    for layer in model.modules():
        if isinstance(layer, torch.nn.Conv2d):
            torch.nn.init.normal_(layer.bias, std=0.1)
    torch.save(model.state_dict(), "net.pth")
    return model


def pair(channels=3, size=32):
    return torch.rand(2, 3, channels, size, size) * 2 - 1


def plain(model, x, y):
    """Mean over seven layers of the mean squared distance of unit vectors: 2 - 2 cosine."""
    x, y = ((((image + 1) / 2).movedim(1, -1) - MEAN) / STD for image in (x, y))
    x, y, layers = x.movedim(-1, 1), y.movedim(-1, 1), []
    for position, layer in enumerate(model.features):
        x, y = layer(x), layer(y)
        if position in (1, 4, 7, 8, 9, 10, 12):  # conv1 behind its ReLU, fire3, fire5, fire6, fire7, fire8, fire9
            cosine = torch.cosine_similarity(x.double(), y.double(), dim=1)
            empty = (x.abs().sum(1) == 0).double() + (y.abs().sum(1) == 0).double()  # each takes 1 from the distance
            layers.append((2 - 2 * cosine - empty).mean((1, 2)))
    assert len(layers) == 7
    return sum(layers) / 7


def test_squeezenet1_0_is_the_mean_distance_of_unit_features(model):
    distance, (x, y) = Perceptual("squeezenet1_0", "net.pth"), pair()
    torch.testing.assert_close(distance(x, y), plain(model, x, y).float(), rtol=1e-4, atol=1e-6)
    assert torch.equal(distance(x, x), torch.zeros(3))
    torch.testing.assert_close(distance(x, y), distance(y, x))


def test_it_is_not_called_lpips():
    names = {net: Perceptual(net).name for net in ("vgg", "alex", "squeeze", "squeezenet1_0")}
    assert names == {"vgg": "lpips", "alex": "lpips", "squeeze": "lpips", "squeezenet1_0": "perceptual_squeezenet1_0"}


def test_a_model_logs_it_under_that_name(model):
    data = DataLoader([{"image": image} for image in pair()[0]], batch_size=3)
    gan = build(
        VQGAN,
        SmallEncoder(3, 8, 4, 1),
        SmallDecoder(3, 8, 4, 1),
        FSQ([5, 5]),
        perceptual=Perceptual("squeezenet1_0", "net.pth"),
        disc_weight=0.0,
    )
    run = lightning.Trainer(**BARE, max_steps=1, num_sanity_val_steps=0, log_every_n_steps=1)
    run.fit(gan, data, data)
    names = {name for name in run.callback_metrics if "perceptual" in name or "lpips" in name}
    assert names == {"train/perceptual_squeezenet1_0", "val/perceptual_squeezenet1_0"}
    assert not [key for key in gan.state_dict() if "perceptual" in key]
