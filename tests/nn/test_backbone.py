"""torchvision's classifiers: the layers that are used; tests/losses/test_perceptual_weights.py has the files."""

import pytest
import torch
import torchvision

from vqlab.nn.backbone import BACKBONES, Owner, load_features

OWNER = Owner("the distance", "distance", "distance=null")


@pytest.mark.parametrize("part", [lambda model: model, lambda model: model.features], ids=["model", "features"])
@pytest.mark.parametrize("net", ["alex", "squeeze", "squeezenet1_0"])
def test_the_layers_are_torchvisions_up_to_the_last_tap(net, part):
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
