"""Names of the weights of a ``ConvEncoder`` and a ``ConvDecoder`` in taming-transformers and diffusers.

All three build the same network. The others keep the attention's q, k and v as three layers where vqlab has one, and
diffusers keeps them as matrices where the others have 1x1 convolutions.
"""

import re
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from vqlab.errors import UserError
from vqlab.models.vq.vqgan import VQGAN
from vqlab.models.vq.vqvae import VQVAE
from vqlab.nn.autoencoders.conv import ConvDecoder, ConvEncoder, ResBlock, SelfAttention

Keys = dict[str, tuple[str, ...]]  # vqlab's key -> their keys, whose tensors are concatenated in vqlab's

# Layers of a block: vqlab's -> taming's.
RES_BLOCK = {
    "body.0": ["norm1"],
    "body.2": ["conv1"],
    "body.3": ["norm2"],
    "body.6": ["conv2"],
    "skip": ["nin_shortcut"],
}
ATTENTION = {"norm": ["norm"], "qkv": ["q", "k", "v"], "proj": ["proj_out"]}
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


def taming_keys(model: VQVAE | VQGAN) -> Keys:
    """Return taming's keys for the weights of ``model`` without its quantizer.

    Raises:
        UserError: If the networks are not a ``ConvEncoder`` and a ``ConvDecoder``.
    """
    encoder, decoder = model.encoder, model.decoder
    if not isinstance(encoder, ConvEncoder) or not isinstance(decoder, ConvDecoder):
        names = f"{type(encoder).__name__} and {type(decoder).__name__}"
        raise UserError(f"encoder and decoder must be ConvEncoder and ConvDecoder, got {names}")
    keys = {**_layer(model.to_code, "to_code", "quant_conv"), **_layer(model.from_code, "from_code", "post_quant_conv")}
    for i, (layer, place) in enumerate(zip(encoder.layers, _encoder_places(encoder), strict=True)):
        keys |= _layer(layer, f"encoder.layers.{i}", f"encoder.{place}")
    for i, (layer, place) in enumerate(zip(decoder.body, _decoder_places(decoder), strict=True)):
        keys |= _layer(layer, f"decoder.body.{i}", f"decoder.{place}")
    return keys | _layer(decoder.head[0], "decoder.head.0", "decoder.conv_out")


def diffusers_keys(model: VQVAE | VQGAN) -> Keys:
    """Return diffusers' keys for the weights of ``model`` without its quantizer; see :func:`taming_keys`."""
    return {ours: tuple(_in_diffusers(key, model) for key in theirs) for ours, theirs in taming_keys(model).items()}


def load_weights(model: VQVAE | VQGAN, keys: Keys, state: dict[str, Tensor], path: str | Path) -> None:
    """Load the tensors of ``state``, named by ``keys``, into ``model``.

    Raises:
        UserError: If a key is missing or unmatched, or a shape differs.
    """
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


def layout(net: ConvEncoder | ConvDecoder) -> tuple[int, int, bool, tuple[int, ...]]:
    """Return the number of resolutions, ``num_res_blocks``, ``attention`` and ``attention_levels``."""
    made = net.init_args
    levels = tuple(made["attention_levels"])
    return len(made["channel_multipliers"]), made["num_res_blocks"], made["attention"], levels


def _encoder_places(encoder: ConvEncoder) -> Iterator[str]:
    """Yield taming's names of the layers in order, with any name for a layer without weights."""
    levels, blocks, attention, attention_levels = layout(encoder)
    yield "conv_in"
    for level in range(levels):
        if level > 0:
            yield f"down.{level - 1}.downsample"
        for block in range(blocks):
            yield f"down.{level}.block.{block}"
            if level in attention_levels:
                yield f"down.{level}.attn.{block}"
    yield from ("mid.block_1", "mid.attn_1", "mid.block_2") if attention else ("mid.block_1", "mid.block_2")
    yield from ("norm_out", "swish", "conv_out")


def _decoder_places(decoder: ConvDecoder) -> Iterator[str]:
    levels, blocks, attention, attention_levels = layout(decoder)
    yield "conv_in"
    yield from ("mid.block_1", "mid.attn_1", "mid.block_2") if attention else ("mid.block_1", "mid.block_2")
    for level in reversed(range(levels)):
        if level < levels - 1:
            yield f"up.{level + 1}.upsample"
        for block in range(blocks + 1):
            yield f"up.{level}.block.{block}"
            if level in attention_levels:
                yield f"up.{level}.attn.{block}"
    yield from ("norm_out", "swish")


def _layer(layer: nn.Module, ours: str, theirs: str) -> Keys:
    """Return the keys of one layer, which is at ``ours`` in vqlab and at ``theirs`` in taming."""
    inner = RES_BLOCK if isinstance(layer, ResBlock) else ATTENTION if isinstance(layer, SelfAttention) else {}
    keys = {}
    for key in layer.state_dict():
        name, _, kind = key.rpartition(".")
        keys[f"{ours}.{key}"] = tuple(".".join(filter(None, (theirs, n, kind))) for n in inner.get(name, [name]))
    return keys


def _in_diffusers(key: str, model: VQVAE | VQGAN) -> str:
    """Return diffusers' name of the weight that taming calls ``key``."""
    top = layout(model.decoder)[0] - 1  # type: ignore[arg-type]  # see taming_keys
    key = re.sub(r"(?<=\.up\.)\d+", lambda level: str(top - int(level[0])), key)  # diffusers counts from the bottom
    for pattern, name in TO_DIFFUSERS:
        key = re.sub(pattern, name, key)
    return key


def _squeezed(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Drop trailing ones, by which a 1x1 convolution differs from a matrix."""
    size = len(shape)
    while size and shape[size - 1] == 1:
        size -= 1
    return tuple(shape[:size])
