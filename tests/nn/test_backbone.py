"""The layers of torchvision's classifiers; tests/losses/test_perceptual.py tests the files of weights."""

import pytest
import torch
import torchvision

from vqlab.nn.backbone import BACKBONES, Owner, load_features

OWNER = Owner("the distance", "distance", "distance=null")


@pytest.mark.parametrize("part", [lambda model: model, lambda model: model.features], ids=["model", "features"])
@pytest.mark.parametrize("net", ["alex", "squeeze", "squeezenet1_0"])
def test_features_are_those_of_torchvision_up_to_the_last_tap(net, part):
    model = getattr(torchvision.models, BACKBONES[net].model)(weights=None).eval()
    torch.save(part(model).state_dict(), "net.pth")
    size = BACKBONES[net].smallest
    features, x = load_features(net, "net.pth", OWNER), torch.randn(2, 3, size, size + 5)
    expected = x
    for layer in model.features[: BACKBONES[net].taps[-1] + 1]:
        expected = layer(expected)
    assert torch.equal(features(x), expected)
    assert features(x).shape[1] == BACKBONES[net].channels
    with pytest.raises(RuntimeError):
        features(torch.randn(1, 3, size - 1, size - 1))


def test_taps_of_both_squeezenets_have_the_same_names():
    """Both have conv1, fire2 to fire9 and three poolings, in different order."""
    names = []
    for net in (BACKBONES["squeeze"], BACKBONES["squeezenet1_0"]):
        layers = getattr(torchvision.models, net.model)(weights=None).features
        numbers = torch.tensor([type(layer).__name__ == "Fire" for layer in layers]).cumsum(0)
        names.append([(type(layers[tap]).__name__, int(numbers[tap])) for tap in net.taps])
    assert names[0] == names[1]
