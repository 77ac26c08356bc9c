"""ImageNet classifiers of torchvision as feature extractors: layers, weights and download."""

import socket
from http.client import HTTPException
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from vqlab.errors import UserError, read_error

TIMEOUT = 10.0  # seconds without a response


class Backbone(NamedTuple):
    """A classifier of torchvision."""

    model: str  # its name in torchvision.models
    taps: tuple[int, ...]  # positions in ``features`` whose outputs LPIPS compares; later layers are not built
    channels: int  # at the last tap
    smallest: int  # minimal height and width of an image


BACKBONES = {
    "vgg": Backbone("vgg16", (3, 8, 15, 22, 29), 512, 16),
    "alex": Backbone("alexnet", (1, 4, 7, 9, 11), 256, 31),
    "squeeze": Backbone("squeezenet1_1", (1, 4, 7, 9, 10, 11, 12), 512, 17),
    # as in 1.1: conv1, fire3 and fire5 to fire9
    "squeezenet1_0": Backbone("squeezenet1_0", (1, 4, 7, 8, 9, 10, 12), 512, 21),
}


class Owner(NamedTuple):
    """Names for messages: the quantity that needs the network, and its settings."""

    what: str
    setting: str  # the argument whose object has the arguments ``net`` and ``backbone``
    without: str  # the setting that switches the quantity off


def load_features(net: str, backbone: str | None, owner: Owner) -> nn.Sequential:
    """Return the layers of ``net`` up to its last tap, in float32.

    The weights come from ``backbone``, a file of the model or of its ``features`` alone, or from torch hub's cache.
    """
    import torchvision  # takes a second, so only where it is needed

    model, taps, _, _ = BACKBONES[net]
    url = torchvision.models.get_model_weights(model).IMAGENET1K_V1.url
    path = Path(backbone).expanduser() if backbone is not None else cached(url, owner)
    hint = f"set {owner.setting}.backbone=FILE, or null to download" if backbone else "delete it to download it again"
    try:
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
        content = {name: value.float() for name, value in content.items()}
    except Exception as error:  # a damaged file raises one of a dozen kinds of errors
        message = f"cannot read weights for {owner.what} from {path} ({type(error).__name__}): {hint}"
        raise read_error(path, error, message) from error
    whole = {name.removeprefix("features."): v for name, v in content.items() if name.startswith("features.")}
    with torch.device("meta"):  # no memory and no random numbers for weights that are replaced
        features = getattr(torchvision.models, model)(weights=None).features[: taps[-1] + 1]
    try:
        features.load_state_dict(whole or content, assign=True)
    except RuntimeError as error:
        hint = f"download {url}, or set {owner.setting}.net to the network of the file"
        raise UserError(f"{path} does not contain the weights of torchvision's {model}: {hint}") from error
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
    except (OSError, RuntimeError, HTTPException) as error:  # a wrong hash is a RuntimeError
        reason = " ".join(str(error).split()) or type(error).__name__
        others = f"{owner.setting}.backbone=FILE, another {owner.setting}.net, or {owner.without}"
        found = f"{owner.what} needs {url}, and the download failed ({reason})"
        raise UserError(f"{found}: save the file as {path}, or set {others}") from error
    finally:
        socket.setdefaulttimeout(before)
    return path
