"""What taming-transformers and diffusers call the weights of a ``ConvEncoder`` and a ``ConvDecoder``.

All three build the same network. The others keep the attention's q, k and v as three layers where vqlab has one, and
diffusers keeps them as matrices where the others have 1x1 convolutions.
"""

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from vqlab.errors import UserError
from vqlab.models.vq.vqgan import VQGAN
from vqlab.models.vq.vqvae import VQVAE
from vqlab.nn.autoencoders.conv import ConvDecoder, ConvEncoder, ResBlock, SelfAttention

Keys = dict[str, tuple[str, ...]]  # key of ours -> keys of theirs, whose tensors follow each other in ours

# Layers of a block: vqlab's -> taming's.
RES_BLOCK = {
    "body.0": ["norm1"],
    "body.2": ["conv1"],
    "body.3": ["norm2"],
    "body.6": ["conv2"],
    "skip": ["nin_shortcut"],
}
ATTENTION = {"norm": ["norm"], "qkv": ["q", "k", "v"], "proj": ["proj_out"]}
# taming's -> diffusers', where they differ.
IN_RES_BLOCK = {"nin_shortcut": "conv_shortcut"}
IN_ATTENTION = {"norm": "group_norm", "q": "to_q", "k": "to_k", "v": "to_v", "proj_out": "to_out.0"}
IN_MIDDLE = {"block_1": "resnets.0", "attn_1": "attentions.0", "block_2": "resnets.1"}
IN_LEVEL = {"block": "resnets", "attn": "attentions", "downsample": "downsamplers.0", "upsample": "upsamplers.0"}


def taming_keys(model: VQVAE | VQGAN) -> Keys:
    """Return taming's keys for the weights of ``model`` but its quantizer's.

    Raises:
        UserError: If the networks are no ``ConvEncoder`` and ``ConvDecoder``.

    Example:
        >>> from vqlab.models.vq.vqgan import VQGAN
        >>> keys = taming_keys(VQGAN(perceptual_weight=0.0, disc_weight=0.0))
        >>> keys["encoder.layers.1.body.2.weight"], keys["from_code.bias"]
        (('encoder.down.0.block.0.conv1.weight',), ('post_quant_conv.bias',))
    """
    encoder, decoder = model.encoder, model.decoder
    if not isinstance(encoder, ConvEncoder) or not isinstance(decoder, ConvDecoder):
        names = f"{type(encoder).__name__} and {type(decoder).__name__}"
        raise UserError(f"other libraries have the networks ConvEncoder and ConvDecoder alone, the model has {names}")
    keys = {**_layer(model.to_code, "to_code", "quant_conv"), **_layer(model.from_code, "from_code", "post_quant_conv")}
    for i, (layer, place) in enumerate(zip(encoder.layers, _encoder_places(encoder), strict=True)):
        keys |= _layer(layer, f"encoder.layers.{i}", f"encoder.{place}")
    for i, (layer, place) in enumerate(zip(decoder.body, _decoder_places(decoder), strict=True)):
        keys |= _layer(layer, f"decoder.body.{i}", f"decoder.{place}")
    return keys | _layer(decoder.head[0], "decoder.head.0", "decoder.conv_out")


def diffusers_keys(model: VQVAE | VQGAN) -> Keys:
    """Return diffusers' keys for the weights of ``model`` but its quantizer's.

    Raises:
        UserError: As :func:`taming_keys`.
    """
    return {ours: tuple(_in_diffusers(key, model) for key in theirs) for ours, theirs in taming_keys(model).items()}


def put_in(model: VQVAE | VQGAN, keys: Keys, state: dict[str, Tensor], path: str | Path) -> None:
    """Load the tensors of ``state``, named by ``keys``, into ``model``.

    Raises:
        UserError: If a key is missing or left over, or a shape differs.
    """
    wanted = {name for names in keys.values() for name in names}
    for what, wrong in (("lacks", wanted - state.keys()), ("has unmatched", state.keys() - wanted)):
        if wrong:
            first, more = sorted(wrong)[:3], f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
            raise UserError(f"{path} {what} {', '.join(first)}{more}: its model is not one that vqlab can read")
    own = model.state_dict()
    for ours, names in keys.items():
        old = own[ours]
        expected = _trim((len(old) // len(names), *old.shape[1:]))
        for name in names:
            if _trim(state[name].shape) != expected:
                raise UserError(f"{path}: {name} has shape {tuple(state[name].shape)}, expected {expected}")
        own[ours] = torch.cat([state[name] for name in names]).reshape(old.shape)
    model.load_state_dict(own)


def take_out(model: VQVAE | VQGAN, keys: Keys) -> dict[str, Tensor]:
    """Return the tensors of ``model`` under the names of ``keys``."""
    own = model.state_dict()
    parts = (zip(theirs, own[ours].chunk(len(theirs)), strict=True) for ours, theirs in keys.items())
    return {name: part.detach().cpu().contiguous() for pairs in parts for name, part in pairs}


def _encoder_places(encoder: ConvEncoder) -> Iterator[str]:
    """Yield taming's names of the layers, in order; where there are no weights, any name."""
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


def layout(net: ConvEncoder | ConvDecoder) -> tuple[int, int, bool, tuple[int, ...]]:
    """Return the number of resolutions, ``num_res_blocks``, ``attention`` and ``attention_levels``."""
    made = net.init_args
    levels = tuple(made["attention_levels"])
    return len(made["channel_multipliers"]), made["num_res_blocks"], made["attention"], levels


def _layer(layer: nn.Module, ours: str, theirs: str) -> Keys:
    """Return the keys of one layer, which lies at ``ours`` and ``theirs``."""
    inner = RES_BLOCK if isinstance(layer, ResBlock) else ATTENTION if isinstance(layer, SelfAttention) else {}
    keys = {}
    for key in layer.state_dict():
        name, _, kind = key.rpartition(".")
        keys[f"{ours}.{key}"] = tuple(".".join(filter(None, (theirs, n, kind))) for n in inner.get(name, [name]))
    return keys


def _in_diffusers(key: str, model: VQVAE | VQGAN) -> str:
    """Return diffusers' name of the weight that taming calls ``key``."""
    net, *place, kind = key.split(".")
    if place[:1] == ["mid"]:
        _, block, layer = place
        return f"{net}.mid_block.{IN_MIDDLE[block]}.{_inner(block, layer)}.{kind}"
    if place[:1] in (["down"], ["up"]):
        way, number, part, *rest = place
        if way == "up":  # diffusers counts from the lowest resolution
            number = str(layout(model.decoder)[0] - 1 - int(number))  # type: ignore[arg-type]  # see taming_keys
        inner = ".".join([*rest[:-1], _inner(part, rest[-1])])
        return f"{net}.{way}_blocks.{number}.{IN_LEVEL[part]}.{inner}.{kind}"
    return key.replace(".norm_out.", ".conv_norm_out.")


def _inner(part: str, layer: str) -> str:
    return (IN_ATTENTION if part.startswith("attn") else IN_RES_BLOCK).get(layer, layer)


def _trim(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Drop the ones at the end, by which a 1x1 convolution differs from a matrix."""
    size = len(shape)
    while size and shape[size - 1] == 1:
        size -= 1
    return tuple(shape[:size])
