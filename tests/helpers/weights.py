"""Files of random weights for LPIPS, in torchvision's format."""

import torch
import torchvision

# Torchvision's name, and the ends of the stages whose outputs LPIPS compares
NETS = {
    "vgg": ("vgg16", [4, 9, 16, 23, 30]),
    "alex": ("alexnet", [2, 5, 8, 10, 12]),
    "squeeze": ("squeezenet1_1", [2, 5, 8, 10, 11, 12, 13]),
}


def random_features(net):
    """Return torchvision's ``features`` with random weights that preserve the scale; the same at each call."""
    name, ends = NETS[net]
    with torch.device("meta"):
        features = getattr(torchvision.models, name)().features[: ends[-1]]
    features = features.to_empty(device="cpu").eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(0)
    for parameter in features.parameters():
        fan_in = parameter[0].numel() if parameter.ndim == 4 else 100
        parameter.normal_(0, (2 / fan_in) ** 0.5, generator=generator)
    return features


def save_all(folder):
    """Write one file for each network; returns network -> path."""
    for net in NETS:
        state = {f"features.{name}": value for name, value in random_features(net).state_dict().items()}
        torch.save(state, folder / f"{net}.pth")
    return {net: str(folder / f"{net}.pth") for net in NETS}


def images(batch=2, channels=3, size=33):
    """Uniform noise in [-1, 1]."""
    return torch.rand(batch, channels, size, size) * 2 - 1
