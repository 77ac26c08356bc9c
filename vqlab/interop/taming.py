"""VQ-GAN checkpoints of taming-transformers (Esser et al. 2021, github.com/CompVis/taming-transformers)."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vqlab.data.files import reading
from vqlab.errors import UserError
from vqlab.interop.names import load_weights, taming_keys
from vqlab.models.adversarial import AdversarialSettings
from vqlab.models.vq.vqgan import VQGAN
from vqlab.nn.autoencoders.conv import ConvDecoder, ConvEncoder
from vqlab.nn.image_format import ImageFormat
from vqlab.quantizers.base import Quantizer
from vqlab.quantizers.gumbel import GumbelQuantizer
from vqlab.quantizers.vector import VectorQuantizer

IMAGE_SIZE = 256  # that of the published models
CODEBOOK = {"quantizer.codebook": ("quantize.embedding.weight",)}
GUMBEL = {
    "quantizer.codebook": ("quantize.embed.weight",),
    "quantizer.logits.weight": ("quantize.proj.weight",),
    "quantizer.logits.bias": ("quantize.proj.bias",),
}


def load_taming(path: str | Path, **arguments: Any) -> VQGAN:
    """Load a checkpoint of taming's ``VQModel`` or ``GumbelVQ`` as a VQGAN, in eval mode on the CPU.

    Sizes are read from the shapes of the weights, so the YAML file beside the checkpoint is not needed. The weights of
    the loss (LPIPS and discriminator) and the training state are left out; no code in the file is run.

    Args:
        path: The ``.ckpt`` file, Lightning's (``{"state_dict": ...}``) or a bare state dict.
        **arguments: Further arguments of ``VQGAN``, such as ``images`` (of size 256 here), ``adversarial`` and
            ``perceptual_weight`` (both 0 here) to train on.

    Raises:
        UserError: If the file is missing, damaged or of another model; keys that do not match are named.

    Example:
        >>> model = load_taming("vqgan_imagenet_f16_16384/last.ckpt")  # doctest: +SKIP
        >>> codes = model.encode(torch.rand(1, 3, 256, 256) * 2 - 1)  # doctest: +SKIP
    """
    state = read_taming(path)
    try:
        channels, z_channels = (state[f"encoder.conv_{end}.weight"].shape for end in ("in", "out"))
        encoder = ConvEncoder(channels[1], z_channels=z_channels[0], **_network(state, "encoder", "down"))
        out_channels, z_channels = (state[f"decoder.conv_{end}.weight"].shape for end in ("out", "in"))
        decoder = ConvDecoder(out_channels[0], z_channels=z_channels[1], **_network(state, "decoder", "up"))
        gumbel = "quantize.embed.weight" in state
        num, dim = state["quantize.embed.weight" if gumbel else "quantize.embedding.weight"].shape
    except (KeyError, ValueError, IndexError) as error:
        raise UserError(
            f"path must be a checkpoint of taming's VQModel or GumbelVQ, {path} holds no VQ-GAN ({error})"
        ) from error
    quantizer = GumbelQuantizer(num, dim) if gumbel else loaded_codebook(num, dim)
    model = loaded_vqgan(encoder, decoder, quantizer, IMAGE_SIZE, arguments)
    load_weights(model, {**taming_keys(model), **(GUMBEL if gumbel else CODEBOOK)}, state, path)
    return model.eval()


def loaded_vqgan(
    encoder: ConvEncoder, decoder: ConvDecoder, quantizer: Quantizer, image_size: int, arguments: dict[str, Any]
) -> VQGAN:
    """Return a VQGAN whose weights are about to be loaded; it needs no losses unless it is trained on."""
    defaults = {
        "images": ImageFormat(encoder.in_channels, image_size),
        "perceptual_weight": 0.0,
        "adversarial": AdversarialSettings(disc_weight=0.0),
    }
    return VQGAN(encoder=encoder, decoder=decoder, quantizer=quantizer, **{**defaults, **arguments})


def loaded_codebook(num_embeddings: int, embedding_dim: int) -> VectorQuantizer:
    """Return a quantizer whose codebook is about to be loaded: without data-dependent initialisation and revival."""
    return VectorQuantizer(num_embeddings, embedding_dim, codebook_update="loss", init="uniform", revive_after=None)


class Inert:
    """Stands in for a class or function that a pickle names: only the training state needs one."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


def read_taming(path: str | Path) -> dict[str, Tensor]:
    """Return the weights of the checkpoint, without the loss's; read with ``weights_only=True``."""
    with reading(path, "is not taming's .ckpt file ({reason}): set path=FILE"):
        # Old Lightning used classes as keys of its callbacks' states.
        unknown = torch.serialization.get_unsafe_globals_in_checkpoint(path)
        with torch.serialization.safe_globals([(Inert, name) for name in unknown]):
            content: Any = torch.load(path, map_location="cpu", weights_only=True)
    if isinstance(content, dict):
        content = content.get("state_dict", content)
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise UserError(f"path must be taming's .ckpt file, {path} holds no state dict")
    return {str(key): value for key, value in content.items() if not str(key).startswith("loss.")}


def _network(state: dict[str, Tensor], net: str, way: str) -> dict[str, Any]:
    """Return the arguments of the encoder or of the decoder."""
    levels = range(_count(state, f"{net}.{way}"))
    widths = [state[f"{net}.{way}.{level}.block.0.conv1.weight"].shape[0] for level in levels]
    if any(width % widths[0] for width in widths):
        raise ValueError(f"the widths {widths} of {net} are not multiples of the first")
    return {
        "base_channels": widths[0],
        "channel_multipliers": tuple(width // widths[0] for width in widths),
        "num_res_blocks": _count(state, f"{net}.{way}.0.block") - (way == "up"),
        "attention": f"{net}.mid.attn_1.q.weight" in state,
        "attention_levels": tuple(level for level in levels if f"{net}.{way}.{level}.attn.0.q.weight" in state),
    }


def _count(state: dict[str, Tensor], place: str) -> int:
    """Return the number of modules in the list ``place``."""
    numbers = {key[len(place) + 1 :].split(".")[0] for key in state if key.startswith(place + ".")}
    if not numbers:
        raise KeyError(f"{place}.0")
    return len(numbers)
