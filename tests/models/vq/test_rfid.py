"""The Frechet distance of reconstructions in a model's evaluation."""

import lightning
import pytest
import torch
import torchvision
from torch.utils.data import DataLoader

import vqlab
from tests.helpers.bare import BARE
from tests.helpers.models import build
from tests.helpers.refusal import refused
from vqlab.metrics.images.frechet import FrechetDistance
from vqlab.models.vq.vqgan import VQGAN
from vqlab.models.vq.vqvae import VQVAE
from vqlab.nn.autoencoders.small import SmallDecoder, SmallEncoder
from vqlab.quantizers.fsq import FSQ


@pytest.fixture(autouse=True)
def _weights():
    torch.save(torchvision.models.squeezenet1_0(weights=None).state_dict(), "net.pth")


def frechet():
    return FrechetDistance("squeezenet1_0", backbone="net.pth")


def model(cls, **arguments):
    nets = SmallEncoder(3, 8, 4, 1), SmallDecoder(3, 8, 4, 1), FSQ([5, 5])
    extra = {"disc_weight": 0.0, "perceptual_weight": 0.0} if cls is VQGAN else {}
    return build(cls, *nets, image_size=24, frechet=frechet(), **extra, **arguments)


def images(count):
    return torch.rand(count, 3, 24, 24, generator=torch.Generator().manual_seed(1)) * 2 - 1


def loader(count=20):
    return DataLoader([{"image": image} for image in images(count)], batch_size=8)


def trainer(**settings):
    return lightning.Trainer(**BARE, max_steps=2, val_check_interval=1, num_sanity_val_steps=2, **settings)


@pytest.mark.parametrize("cls", [VQVAE, VQGAN])
def test_the_figure_of_the_whole_set_is_logged(cls):
    part = model(cls)
    reference = frechet()
    with torch.no_grad():
        x_hat = torch.cat([part.eval().reconstruct(x) for x in images(20).split(8)])
    reference.update(images(20) / 2 + 0.5, real=True)
    reference.update(part.value_range.decode(x_hat), real=False)
    expected = reference.compute().item()
    assert expected > 0
    for stage, verb in (("val", "validate"), ("test", "test"), ("val", "validate")):  # each epoch starts afresh
        (figures,) = getattr(trainer(), verb)(part, loader(), verbose=False)
        assert figures[f"{stage}/rfid_squeezenet1_0"] == pytest.approx(expected, rel=1e-4)


def test_a_checkpoint_remembers_the_setting_but_not_the_network():
    part, run = model(VQVAE), trainer()
    run.fit(part, loader(), loader())
    assert "val/rfid_squeezenet1_0" in run.logged_metrics
    run.save_checkpoint("a.ckpt")
    state = torch.load("a.ckpt", weights_only=True)["state_dict"]
    assert not [key for key in state if "frechet" in key]
    again = vqlab.load("a.ckpt")
    assert again.metrics.frechet.net == "squeezenet1_0"
    assert again.metrics.frechet.backbone == "net.pth"


def test_missing_weights_stop_a_run_before_it_begins():
    part = model(VQVAE)
    part.metrics.frechet = FrechetDistance("squeezenet1_0", backbone="nowhere.pth")
    with refused("nowhere.pth", "frechet.backbone=FILE"):
        trainer().fit(part, loader(), loader())
    assert part.global_step == 0


@pytest.mark.parametrize(("arguments", "words"), [({"image_size": 16}, "16x16"), ({"channels": 2}, "channels must")])
def test_images_that_do_not_fit_are_refused_at_once(arguments, words):
    channels = arguments.get("channels", 3)
    with refused(words, "frechet=null"):
        build(VQVAE, SmallEncoder(channels), SmallDecoder(channels), frechet=frechet(), **arguments)
