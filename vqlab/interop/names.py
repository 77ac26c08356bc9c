"""Names of the weights of a ``ConvEncoder`` and a ``ConvDecoder`` in taming-transformers and diffusers.

All three build the same network. The others keep the attention's q, k and v as three layers where vqlab has one, and
diffusers keeps them as matrices where the others have 1x1 convolutions.
"""

import re
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from vqlab.errors import UserError
from vqlab.models.vq.vqgan import VQGAN
from vqlab.models.vq.vqvae import VQVAE
from vqlab.nn.autoencoders.conv import ConvDecoder, ConvEncoder

Keys = dict[str, tuple[str, ...]]  # vqlab's key -> their keys, whose tensors are concatenated in vqlab's

# Layers of a block: vqlab's -> taming's.
INNER = {
    "body.0": ["norm1"],
    "body.2": ["conv1"],
    "body.3": ["norm2"],
    "body.6": ["conv2"],
    "skip": ["nin_shortcut"],
    "norm": ["norm"],
    "qkv": ["q", "k", "v"],
    "proj": ["proj_out"],
}
# Patterns in taming's keys -> diffusers' names, applied in this order.
TO_DIFFUSERS = [
    (r"\.(down|up)\.(\d+)\.", r".\1_blocks.\2."),
    (r"\.mid\.attn_1\.", ".mid_block.attentions.0."),
    (r"\.mid\.block_1\.", ".mid_block.resnets.0."),
    (r"\.mid\.block_2\.", ".mid_block.resnets.1."),
    (r"\.block\.", ".resnets."),
    (r"\.attn\.", ".attentions."),
    (r"\.(down|up)sample\.", r".\1samplers.0."),
    (r"\.nin_shortcut\.", ".conv_shortcut."),
    (r"(\.attentions\.\d+)\.norm\.", r"\1.group_norm."),
    (r"(\.attentions\.\d+)\.([qkv])\.", r"\1.to_\2."),
    (r"\.proj_out\.", ".to_out.0."),
    (r"\.norm_out\.", ".conv_norm_out."),
]


# The blocks at the lowest resolution, with attention and without.
MIDDLE = {True: ("mid.block_1", "mid.attn_1", "mid.block_2"), False: ("mid.block_1", "mid.block_2")}


def taming_keys(model: VQVAE | VQGAN) -> Keys:
    """Return taming's keys for the weights of ``model`` without its quantizer."""
    encoder, decoder = model.encoder, model.decoder
    if not isinstance(encoder, ConvEncoder) or not isinstance(decoder, ConvDecoder):
        names = f"{type(encoder).__name__} and {type(decoder).__name__}"
        raise UserError(f"encoder and decoder must be ConvEncoder and ConvDecoder, got {names}")
    places = {"to_code": "quant_conv", "from_code": "post_quant_conv", "decoder.head.0": "decoder.conv_out"}
    places |= {f"encoder.layers.{i}": f"encoder.{place}" for i, place in enumerate(_encoder_places(encoder))}
    places |= {f"decoder.body.{i}": f"decoder.{place}" for i, place in enumerate(_decoder_places(decoder))}
    keys: Keys = {}
    for ours, theirs in places.items():
        for key in model.get_submodule(ours).state_dict():
            name, _, kind = key.rpartition(".")
            keys[f"{ours}.{key}"] = tuple(
                ".".join(filter(None, (theirs, inner, kind))) for inner in INNER.get(name, [name])
            )
    return keys


def diffusers_keys(model: VQVAE | VQGAN) -> Keys:
    """Return diffusers' keys for the weights of ``model`` without its quantizer."""
    keys = taming_keys(model)
    top = len(model.decoder.init_args["channel_multipliers"]) - 1

    def renamed(key: str) -> str:
        key = re.sub(r"(?<=\.up\.)\d+", lambda level: str(top - int(level[0])), key)  # diffusers counts from the bottom
        for pattern, name in TO_DIFFUSERS:
            key = re.sub(pattern, name, key)
        return key

    return {ours: tuple(map(renamed, theirs)) for ours, theirs in keys.items()}


def load_weights(model: VQVAE | VQGAN, keys: Keys, state: dict[str, Tensor], path: str | Path) -> None:
    """Load the tensors of ``state``, named by ``keys``; UserError if keys or shapes differ."""
    wanted = {name for names in keys.values() for name in names}
    for problem, names in (("lacks", wanted - state.keys()), ("has unmatched", state.keys() - wanted)):
        if names:
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            raise UserError(f"{path} {problem} {', '.join(sorted(names)[:3])}{more}: vqlab cannot read this model")
    own = model.state_dict()
    for ours, theirs in keys.items():
        old = own[ours]
        expected = _squeezed((len(old) // len(theirs), *old.shape[1:]))
        for name in theirs:
            if _squeezed(state[name].shape) != expected:
                raise UserError(f"{path}: {name} has shape {tuple(state[name].shape)}, expected {expected}")
        own[ours] = torch.cat([state[name] for name in theirs]).reshape(old.shape)
    model.load_state_dict(own)


def named_weights(model: VQVAE | VQGAN, keys: Keys) -> dict[str, Tensor]:
    """Return the tensors of ``model`` under the names of ``keys``."""
    own = model.state_dict()
    parts = (zip(theirs, own[ours].chunk(len(theirs)), strict=True) for ours, theirs in keys.items())
    return {name: part.detach().cpu().contiguous() for pairs in parts for name, part in pairs}


def _encoder_places(encoder: ConvEncoder) -> Iterator[str]:
    """Yield taming's names of the layers in order, with any name for a layer without weights."""
    made = encoder.init_args
    yield "conv_in"
    for level in range(len(made["channel_multipliers"])):
        if level > 0:
            yield f"down.{level - 1}.downsample"
        yield from _level("down", level, made["num_res_blocks"], made["attention_levels"])
    yield from MIDDLE[made["attention"]]
    yield from ("norm_out", "swish", "conv_out")


def _decoder_places(decoder: ConvDecoder) -> Iterator[str]:
    made = decoder.init_args
    levels = len(made["channel_multipliers"])
    yield "conv_in"
    yield from MIDDLE[made["attention"]]
    for level in reversed(range(levels)):
        if level < levels - 1:
            yield f"up.{level + 1}.upsample"
        yield from _level("up", level, made["num_res_blocks"] + 1, made["attention_levels"])
    yield from ("norm_out", "swish")


def _level(way: str, level: int, blocks: int, attention_levels: tuple[int, ...]) -> Iterator[str]:
    for block in range(blocks):
        yield f"{way}.{level}.block.{block}"
        if level in attention_levels:
            yield f"{way}.{level}.attn.{block}"


def _squeezed(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Drop trailing ones, by which a 1x1 convolution differs from a matrix."""
    size = len(shape)
    while size and shape[size - 1] == 1:
        size -= 1
    return tuple(shape[:size])
