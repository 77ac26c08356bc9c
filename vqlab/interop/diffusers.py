"""Import and export of diffusers' ``VQModel`` (github.com/huggingface/diffusers), without diffusers itself."""

import json
import re
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn

from vqlab.atomic_io import write_atomic
from vqlab.data.files import reading
from vqlab.errors import UserError
from vqlab.interop.taming import CODEBOOK, Keys, load_weights, loaded_codebook, loaded_vqgan, taming_keys
from vqlab.models import VQGAN, VQVAE
from vqlab.nn import ConvDecoder, ConvEncoder
from vqlab.quantizers import VectorQuantizer

WEIGHTS = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin")
# Defaults of VQModel, for entries that are not in config.json.
DEFAULTS: dict[str, Any] = {
    "_class_name": "VQModel",
    "in_channels": 3,
    "out_channels": 3,
    "down_block_types": ["DownEncoderBlock2D"],
    "up_block_types": ["UpDecoderBlock2D"],
    "block_out_channels": [64],
    "layers_per_block": 1,
    "act_fn": "silu",
    "latent_channels": 3,
    "sample_size": 32,
    "num_vq_embeddings": 256,
    "norm_num_groups": 32,
    "vq_embed_dim": None,
    "norm_type": "group",
    "mid_block_add_attention": True,
    "lookup_from_codebook": False,
}
# Types of blocks with attention after each residual block, and without.
DOWN = {True: "AttnDownEncoderBlock2D", False: "DownEncoderBlock2D"}
UP = {True: "AttnUpDecoderBlock2D", False: "UpDecoderBlock2D"}
# Names of attention layers in older versions.
OLD = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
# Patterns in taming's keys and their replacements, applied in this order.
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


def load_diffusers(folder: str | Path, **arguments: Any) -> VQGAN:
    """Load a ``VQModel`` as a VQGAN, in eval mode on the CPU.

    Args:
        folder: Folder with ``config.json`` and ``diffusion_pytorch_model.safetensors`` or ``.bin``.
        **arguments: Further arguments of ``VQGAN``, such as ``adversarial`` and ``perceptual_weight`` (default: 0).

    Example:
        >>> import tempfile
        >>> folder = tempfile.mkdtemp()
        >>> save_diffusers(VQGAN(perceptual_weight=0.0), folder)
        >>> tuple(load_diffusers(folder).encode(torch.zeros(1, 3, 32, 32)).shape)
        (1, 8, 8)
    """
    config = _read_config(Path(folder) / "config.json")
    widths = config["block_out_channels"]
    kinds = config["down_block_types"], config["up_block_types"][::-1]
    down, up = (tuple(level for level, kind in enumerate(types) if kind.startswith("Attn")) for types in kinds)
    sizes = {
        "base_channels": widths[0],
        "channel_multipliers": tuple(width // widths[0] for width in widths),
        "num_res_blocks": config["layers_per_block"],
        "z_channels": config["latent_channels"],
        "attention": config["mid_block_add_attention"],
    }
    encoder = ConvEncoder(config["in_channels"], attention_levels=down, **sizes)
    decoder = ConvDecoder(config["out_channels"], attention_levels=up, **sizes)
    quantizer = loaded_codebook(config["num_vq_embeddings"], config["vq_embed_dim"] or config["latent_channels"])
    model = loaded_vqgan(encoder, decoder, quantizer, config["sample_size"], arguments)
    _check_groups(model, config["norm_num_groups"])
    load_weights(model, {**diffusers_keys(model), **CODEBOOK}, _read_weights(Path(folder)), folder)
    return model.eval()


def save_diffusers(model: VQVAE | VQGAN, folder: str | Path) -> None:
    """Write ``config.json`` and ``diffusion_pytorch_model.safetensors``, which ``VQModel`` reads, to ``folder``.

    The ``model`` must consist of ``ConvEncoder``, ``ConvDecoder`` and ``VectorQuantizer``. Its training state
    (discriminator, codebook statistics) is left out. For an example see :func:`load_diffusers`.
    """
    keys, own, config, state = diffusers_keys(model), model.state_dict(), _config_of(model), {}
    for ours, theirs in keys.items():
        for name, value in zip(theirs, own[ours].detach().cpu().chunk(len(theirs)), strict=True):
            is_matrix = re.search(r"\.to_(q|k|v|out\.0)\.weight$", name)  # a 1x1 convolution in vqlab
            state[name] = (value[..., 0, 0] if is_matrix else value).contiguous()
    every = torch.arange(model.quantizer.num_embeddings, device=model.to_code.weight.device)
    state["quantize.embedding.weight"] = model.quantizer.lookup(every).detach().cpu()
    with write_atomic(Path(folder) / WEIGHTS[0]) as file:
        file.write(save(state, metadata={"format": "pt"}))  # transformers and diffusers refuse files without it
    with write_atomic(Path(folder) / "config.json") as file:
        file.write((json.dumps(config, indent=2) + "\n").encode())


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


def _config_of(model: VQVAE | VQGAN) -> dict[str, Any]:
    encoder, decoder, quantizer = model.encoder, model.decoder, model.quantizer
    made, up = encoder.init_args, decoder.init_args
    quantizer_name = "VectorQuantizer" if isinstance(quantizer, VectorQuantizer) else type(quantizer).__name__
    checks = {
        **{name: (made[name], up[name]) for name in ("base_channels", "num_res_blocks", "z_channels", "attention")},
        "channel_multipliers": (list(made["channel_multipliers"]), list(up["channel_multipliers"])),
        "quantizer": (quantizer_name, "VectorQuantizer"),
        "out_activation": (up["out_activation"], None),
        "value_range": (model.value_range.kind, "signed"),
    }
    for name, (ours, theirs) in checks.items():
        if ours != theirs:
            raise UserError(f"{name} must be {theirs} for a VQModel, got {ours}")
    groups = next(layer.num_groups for layer in model.modules() if isinstance(layer, nn.GroupNorm))
    _check_groups(model, groups)
    levels = range(len(made["channel_multipliers"]))
    return {
        **DEFAULTS,
        "in_channels": encoder.in_channels,
        "out_channels": decoder.out_channels,
        "down_block_types": [DOWN[level in made["attention_levels"]] for level in levels],
        "up_block_types": [UP[level in up["attention_levels"]] for level in reversed(levels)],
        "block_out_channels": [made["base_channels"] * m for m in made["channel_multipliers"]],
        "layers_per_block": made["num_res_blocks"],
        "latent_channels": made["z_channels"],
        "sample_size": model.images.size,
        "num_vq_embeddings": quantizer.num_embeddings,
        "norm_num_groups": groups,
        "vq_embed_dim": quantizer.embedding_dim,
        "mid_block_add_attention": made["attention"],
    }


def _read_config(path: Path) -> dict[str, Any]:
    with reading(path, "is not the config.json of a VQModel ({reason}): set folder=FOLDER"):
        config = {**DEFAULTS, **json.loads(path.read_text())}
    for name in ("_class_name", "act_fn", "norm_type", "lookup_from_codebook"):
        if config[name] != DEFAULTS[name]:
            raise UserError(f"{name} must be {DEFAULTS[name]}, {path} has {config[name]}")
    widths = config["block_out_channels"]
    if any(width % widths[0] for width in widths):
        raise UserError(f"block_out_channels must be multiples of the first, {path} has {widths}")
    for name, types in (("down_block_types", DOWN), ("up_block_types", UP)):
        if len(config[name]) != len(widths) or not set(config[name]) <= set(types.values()):
            raise UserError(f"{name} must be {len(widths)} of {', '.join(types.values())}, {path} has {config[name]}")
    return config


def _read_weights(folder: Path) -> dict[str, Tensor]:
    path = next((folder / name for name in WEIGHTS if (folder / name).is_file()), None)
    if path is None:
        raise UserError(f"folder must contain {WEIGHTS[0]} or {WEIGHTS[1]}, {folder} has neither")
    with reading(path, "is not a readable file of weights ({reason}): get it again"):
        safe = path.suffix == ".safetensors"
        content = load_file(path) if safe else torch.load(path, map_location="cpu", weights_only=True)
        old = re.compile(rf"\.({'|'.join(OLD)})\.(weight|bias)$")
        return {old.sub(lambda m: f".{OLD[m[1]]}.{m[2]}", key): value for key, value in content.items()}


def _check_groups(model: VQVAE | VQGAN, groups: int) -> None:
    """Raise UserError unless each norm has ``groups`` groups; in vqlab their number depends on the width."""
    for layer in (*model.encoder.modules(), *model.decoder.modules()):
        if isinstance(layer, nn.GroupNorm) and layer.num_groups != groups:
            raise UserError(
                f"norm_num_groups must be the same in all norms of a VQModel, got {groups}, but vqlab uses "
                f"{layer.num_groups} for {layer.num_channels} channels: use multiples of 32"
            )
