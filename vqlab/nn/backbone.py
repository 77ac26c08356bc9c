"""torchvision's ImageNet classifiers as feature extractors: their layers, their weights, and the download."""

import socket
from http.client import HTTPException
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from vqlab.errors import UserError, read_error

TIMEOUT = 10.0  # seconds without an answer
HOST = "https://download.pytorch.org/models/"


class Backbone(NamedTuple):
    """A classifier of torchvision."""

    model: str  # its name in torchvision.models
    url: str  # its ImageNet weights
    taps: tuple[int, ...]  # positions in ``features`` whose outputs LPIPS compares; nothing beyond the last is built
    channels: int  # at the last of them
    smallest: int  # height and width that the pooling layers allow


BACKBONES = {
    "vgg": Backbone("vgg16", HOST + "vgg16-397923af.pth", (3, 8, 15, 22, 29), 512, 16),
    "alex": Backbone("alexnet", HOST + "alexnet-owt-7be5be79.pth", (1, 4, 7, 9, 11), 256, 31),
    "squeeze": Backbone("squeezenet1_1", HOST + "squeezenet1_1-b8a52dc0.pth", (1, 4, 7, 9, 10, 11, 12), 512, 17),
    # The layers of the same names as in 1.1: conv1, fire3 and fire5 to fire9.
    "squeezenet1_0": Backbone("squeezenet1_0", HOST + "squeezenet1_0-b66bff10.pth", (1, 4, 7, 8, 9, 10, 12), 512, 21),
}


class Owner(NamedTuple):
    """What a message calls the network and its settings."""

    what: str  # the quantity that needs the network
    setting: str  # the argument whose object has the arguments ``net`` and ``backbone``
    without: str  # the setting that switches the quantity off


def load_features(net: str, backbone: str | None, owner: Owner) -> nn.Sequential:
    """Return the layers of ``net`` up to its last tap, with weights from the file ``backbone`` or torch hub's cache.

    The input is RGB, normalised with ImageNet's mean and standard deviation.

    Raises:
        UserError: If the weights can be neither found nor downloaded, or the file is damaged or of another network.
    """
    import torchvision  # takes a second, which a model without such a network need not wait for

    model, url, taps, _, _ = BACKBONES[net]
    path = Path(backbone).expanduser() if backbone is not None else cached(url, owner)
    with torch.device("meta"):  # neither memory nor random numbers for weights that are about to be replaced
        features = getattr(torchvision.models, model)(weights=None).features[: taps[-1] + 1]
    state = read_features(path, owner, is_cache=backbone is None)
    try:
        features.load_state_dict(state, assign=True)
    except RuntimeError as error:
        raise UserError(
            f"{path} does not hold the weights of torchvision's {model}: get {url}, or set {owner.setting}.net to the "
            "network of the file"
        ) from error
    return features


def cached(url: str, owner: Owner) -> Path:
    """Return the file of ``url`` in torch hub's cache; download it, checked by its hash, if it is missing."""
    path = Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]
    if path.exists():
        return path
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(TIMEOUT)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(path), hash_prefix=path.stem.rpartition("-")[2])
    # URLError and timeouts are OSErrors; a wrong hash is a RuntimeError
    except (OSError, RuntimeError, HTTPException) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(
            f"{owner.what} needs {url}, which could not be downloaded ({reason}): put it at {path} by hand, or set "
            f"{owner.setting}.backbone=FILE, another {owner.setting}.net, or {owner.without}"
        ) from error
    finally:
        socket.setdefaulttimeout(before)
    return path


def read_features(path: Path, owner: Owner, is_cache: bool) -> dict[str, Tensor]:
    """Return the state dict of ``features`` from the file of a whole model or of ``features`` alone, in float32."""
    hint = (
        "delete it to download it again" if is_cache else f"set {owner.setting}.backbone=FILE, or null to download it"
    )
    try:
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
        content = {name: value.float() for name, value in content.items()}
    except FileNotFoundError as error:
        raise UserError(f"{owner.what} finds no weights at {path}: {hint}") from error
    except Exception as error:  # damaged files make the reader raise errors of a dozen kinds
        message = f"{path} is no readable file of weights ({type(error).__name__}): {hint}"
        raise read_error(path, error, message) from error
    whole = {name.removeprefix("features."): v for name, v in content.items() if name.startswith("features.")}
    return whole or content
