"""VQ-GAN checkpoints of taming-transformers (Esser et al. 2021, github.com/CompVis/taming-transformers).

Its networks are a ``ConvEncoder`` and a ``ConvDecoder`` with three separate layers for q, k and v of the attention.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vqlab.data.files import reading
from vqlab.errors import UserError
from vqlab.models import VQGAN, VQVAE, AdversarialSettings
from vqlab.nn import ConvDecoder, ConvEncoder, ImageFormat
from vqlab.quantizers import GumbelQuantizer, Quantizer, VectorQuantizer

CODEBOOK = {"quantizer.codebook": ("quantize.embedding.weight",)}
GUMBEL = {
    "quantizer.codebook": ("quantize.embed.weight",),
    "quantizer.logits.weight": ("quantize.proj.weight",),
    "quantizer.logits.bias": ("quantize.proj.bias",),
}

Keys = dict[str, tuple[str, ...]]  # vqlab's key -> keys of the other library, whose tensors are concatenated

# Layers of a block: vqlab's -> taming's.
INNER = {
    "body.0": ["norm1"],
    "body.2": ["conv1"],
    "body.3": ["norm2"],
    "body.6": ["conv2"],
    "skip": ["nin_shortcut"],
    "qkv": ["q", "k", "v"],
    "proj": ["proj_out"],
}


def load_taming(path: str | Path, **arguments: Any) -> VQGAN:
    """Load a checkpoint of taming's ``VQModel`` or ``GumbelVQ`` as a VQGAN, in eval mode on the CPU.

    Sizes are read from the shapes of the weights, so the YAML file of the checkpoint is not needed. The weights of the
    loss (LPIPS and discriminator) and the training state are left out; no code in the file is run.

    Args:
        path: The ``.ckpt`` file of Lightning (``{"state_dict": ...}``) or a bare state dict.
        **arguments: Further arguments of ``VQGAN``, such as ``images`` (default: size 256), ``adversarial`` and
            ``perceptual_weight`` (default: weight 0) for further training.

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
        rule = "path must be a checkpoint of taming's VQModel or GumbelVQ"
        raise UserError(f"{rule}, {path} contains no VQ-GAN ({error})") from error
    quantizer = GumbelQuantizer(num, dim) if gumbel else loaded_codebook(num, dim)
    model = loaded_vqgan(encoder, decoder, quantizer, 256, arguments)  # the image size of the published models
    load_weights(model, {**taming_keys(model), **(GUMBEL if gumbel else CODEBOOK)}, state, path)
    return model.eval()


def loaded_vqgan(
    encoder: ConvEncoder, decoder: ConvDecoder, quantizer: Quantizer, image_size: int, arguments: dict[str, Any]
) -> VQGAN:
    """Return a VQGAN for loaded weights, without perceptual and adversarial loss by default."""
    defaults = {
        "images": ImageFormat(encoder.in_channels, image_size),
        "perceptual_weight": 0.0,
        "adversarial": AdversarialSettings(disc_weight=0.0),
    }
    return VQGAN(encoder=encoder, decoder=decoder, quantizer=quantizer, **{**defaults, **arguments})


def loaded_codebook(num_embeddings: int, embedding_dim: int) -> VectorQuantizer:
    """Return a quantizer for a loaded codebook, without data-dependent initialisation and dead-code revival."""
    return VectorQuantizer(num_embeddings, embedding_dim, codebook_update="loss", init="uniform", revive_after=None)


class Inert:
    """A replacement for the classes and functions in a pickle, which only the training state needs."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


def read_taming(path: str | Path) -> dict[str, Tensor]:
    """Return the weights of a checkpoint without those of the loss; read with ``weights_only=True``."""
    with reading(path, "is not taming's .ckpt file ({reason}): set path=FILE"):
        # Old Lightning versions used classes as keys of the callback states.
        unknown = torch.serialization.get_unsafe_globals_in_checkpoint(path)
        with torch.serialization.safe_globals([(Inert, name) for name in unknown]):
            content: Any = torch.load(path, map_location="cpu", weights_only=True)
        content = content.get("state_dict", content)
        if not all(isinstance(value, Tensor) for value in content.values()):
            raise ValueError("it contains no state dict")
    return {str(key): value for key, value in content.items() if not str(key).startswith("loss.")}


def _network(state: dict[str, Tensor], net: str, way: str) -> dict[str, Any]:
    """Return the arguments of the encoder or of the decoder."""
    levels = range(_count(state, f"{net}.{way}"))
    widths = [state[f"{net}.{way}.{level}.block.0.conv1.weight"].shape[0] for level in levels]
    return {
        "base_channels": widths[0],
        "channel_multipliers": tuple(width // widths[0] for width in widths),
        "num_res_blocks": _count(state, f"{net}.{way}.0.block") - (way == "up"),
        "attention": f"{net}.mid.attn_1.q.weight" in state,
        "attention_levels": tuple(level for level in levels if f"{net}.{way}.{level}.attn.0.q.weight" in state),
    }


def _count(state: dict[str, Tensor], place: str) -> int:
    """Return the number of modules in the list ``place``."""
    return len({key[len(place) + 1 :].split(".")[0] for key in state if key.startswith(place + ".")})


def taming_keys(model: VQVAE | VQGAN) -> Keys:
    """Return taming's keys for the weights of ``model`` without its quantizer."""
    encoder, decoder = model.encoder, model.decoder
    if not isinstance(encoder, ConvEncoder) or not isinstance(decoder, ConvDecoder):
        names = f"{type(encoder).__name__} and {type(decoder).__name__}"
        raise UserError(f"encoder and decoder must be ConvEncoder and ConvDecoder, got {names}")
    places = {"to_code": "quant_conv", "from_code": "post_quant_conv", "decoder.head.0": "decoder.conv_out"}
    places |= {f"encoder.layers.{i}": f"encoder.{place}" for i, place in enumerate(_places(encoder, "down"))}
    places |= {f"decoder.body.{i}": f"decoder.{place}" for i, place in enumerate(_places(decoder, "up")[:-1])}
    keys: Keys = {}
    for ours, theirs in places.items():
        for key in model.get_submodule(ours).state_dict():
            name, _, kind = key.rpartition(".")
            keys[f"{ours}.{key}"] = tuple(
                ".".join(filter(None, (theirs, inner, kind))) for inner in INNER.get(name, [name])
            )
    return keys


def load_weights(model: VQVAE | VQGAN, keys: Keys, state: dict[str, Tensor], path: str | Path) -> None:
    """Load the tensors of ``state`` under the names in ``keys``; UserError if keys or shapes differ."""
    wanted = {name for names in keys.values() for name in names}
    for problem, names in (("lacks", wanted - state.keys()), ("has unmatched", state.keys() - wanted)):
        if names:
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            raise UserError(f"{path} {problem} {', '.join(sorted(names)[:3])}{more}: vqlab cannot read this model")
    own = model.state_dict()
    for ours, theirs in keys.items():
        part = own[ours].chunk(len(theirs))[0]
        for name in theirs:
            if state[name].squeeze().shape != part.squeeze().shape:  # a 1x1 convolution equals a matrix
                raise UserError(f"{path}: {name} has shape {tuple(state[name].shape)}, expected {tuple(part.shape)}")
        own[ours] = torch.cat([state[name] for name in theirs]).reshape(own[ours].shape)
    model.load_state_dict(own)


def _places(net: ConvEncoder | ConvDecoder, way: str) -> list[str]:
    """Return taming's names of all layers in order, with any name for a layer without weights; ``way``: down or up."""
    made = net.init_args
    stages: list[str] = []
    for level in range(len(made["channel_multipliers"]))[:: 1 if way == "down" else -1]:
        for block in range(made["num_res_blocks"] + (way == "up")):
            stages += [f"{way}.{level}.block.{block}"]
            stages += [f"{way}.{level}.attn.{block}"] if level in made["attention_levels"] else []
        stages.append(f"{way}.{level}.{way}sample")
    del stages[-1]  # the last level is not resampled
    middle = ["mid.block_1", "mid.attn_1", "mid.block_2"] if made["attention"] else ["mid.block_1", "mid.block_2"]
    return ["conv_in", *(stages + middle if way == "down" else middle + stages), "norm_out", "swish", "conv_out"]
