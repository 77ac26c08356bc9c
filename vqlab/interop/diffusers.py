"""Weights of diffusers' ``VQModel`` (github.com/huggingface/diffusers), in and out; diffusers itself is not needed."""

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
from vqlab.interop.names import diffusers_keys, load_weights, named_weights
from vqlab.interop.taming import CODEBOOK, loaded_codebook, loaded_vqgan
from vqlab.models.vq.vqgan import VQGAN
from vqlab.models.vq.vqvae import VQVAE
from vqlab.nn.autoencoders.conv import ConvDecoder, ConvEncoder
from vqlab.quantizers.vector import VectorQuantizer

WEIGHTS = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin")
# VQModel's defaults of the entries that a config.json leaves out.
DEFAULTS: dict[str, Any] = {
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
# With attention after each residual block, and without.
DOWN = {True: "AttnDownEncoderBlock2D", False: "DownEncoderBlock2D"}
UP = {True: "AttnUpDecoderBlock2D", False: "UpDecoderBlock2D"}
# Names of attention layers in older versions.
OLD = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


def load_diffusers(folder: str | Path, **arguments: Any) -> VQGAN:
    """Load a ``VQModel`` as a VQGAN, in eval mode on the CPU.

    Args:
        folder: Holds ``config.json`` and ``diffusion_pytorch_model.safetensors`` or ``.bin``.
        **arguments: Further arguments of ``VQGAN``, such as ``adversarial`` and ``perceptual_weight`` (off here) to
            train on.

    Raises:
        UserError: If a file is missing or damaged, or the model is another one or has an option that vqlab lacks.

    Example:
        >>> import tempfile
        >>> folder = tempfile.mkdtemp()
        >>> save_diffusers(VQGAN(perceptual_weight=0.0), folder)
        >>> tuple(load_diffusers(folder).encode(torch.zeros(1, 3, 32, 32)).shape)
        (1, 8, 8)
    """
    folder = Path(folder)
    config = _read_config(folder / "config.json")
    state = _read_weights(folder)
    widths = config["block_out_channels"]
    sizes = {
        "base_channels": widths[0],
        "channel_multipliers": tuple(width // widths[0] for width in widths),
        "num_res_blocks": config["layers_per_block"],
        "z_channels": config["latent_channels"],
        "attention": config["mid_block_add_attention"],
    }
    encoder = ConvEncoder(config["in_channels"], attention_levels=_levels(config["down_block_types"]), **sizes)
    decoder = ConvDecoder(config["out_channels"], attention_levels=_levels(config["up_block_types"][::-1]), **sizes)
    quantizer = loaded_codebook(config["num_vq_embeddings"], config["vq_embed_dim"] or config["latent_channels"])
    model = loaded_vqgan(encoder, decoder, quantizer, config["sample_size"], arguments)
    _check_groups(model, config["norm_num_groups"])
    load_weights(model, {**diffusers_keys(model), **CODEBOOK}, state, folder)
    return model.eval()


def save_diffusers(model: VQVAE | VQGAN, folder: str | Path) -> None:
    """Write ``model`` as ``config.json`` and ``diffusion_pytorch_model.safetensors``, which ``VQModel`` reads.

    Args:
        model: A VQGAN or VQVAE of ``ConvEncoder``, ``ConvDecoder`` and ``VectorQuantizer``. The training state
            (discriminator, statistics of the codebook) is left out.
        folder: Created if it does not exist.

    Raises:
        UserError: If the model has parts that ``VQModel`` lacks, or the folder cannot be written.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> save_diffusers(VQGAN(perceptual_weight=0.0), folder)
        >>> sorted(file.name for file in folder.iterdir())
        ['config.json', 'diffusion_pytorch_model.safetensors']
    """
    keys = diffusers_keys(model)
    config = _config_of(model)
    state = named_weights(model, keys)
    for name, value in state.items():
        if re.search(r"\.to_(q|k|v|out\.0)\.weight$", name):
            state[name] = value[..., 0, 0].contiguous()  # a 1x1 convolution to a matrix
    every = torch.arange(model.quantizer.num_embeddings, device=model.to_code.weight.device)
    state["quantize.embedding.weight"] = model.quantizer.lookup(every).detach().cpu()
    with write_atomic(Path(folder) / WEIGHTS[0]) as file:
        file.write(save(state, metadata={"format": "pt"}))  # transformers and diffusers refuse files without it
    with write_atomic(Path(folder) / "config.json") as file:
        file.write((json.dumps(config, indent=2) + "\n").encode())


def _config_of(model: VQVAE | VQGAN) -> dict[str, Any]:
    encoder, decoder, quantizer = model.encoder, model.decoder, model.quantizer
    made, up = encoder.init_args, decoder.init_args["attention_levels"]
    shared = ("base_channels", "channel_multipliers", "num_res_blocks", "z_channels", "attention")
    both = [
        [list(v) if isinstance(v := n.init_args[name], tuple) else v for name in shared] for n in (encoder, decoder)
    ]
    checks = [(name, ours, theirs) for name, ours, theirs in zip(shared, *both, strict=True)]
    if not isinstance(quantizer, VectorQuantizer):
        checks += [("quantizer", type(quantizer).__name__, "VectorQuantizer")]
    checks += [("out_activation", decoder.init_args["out_activation"], None)]
    checks += [("value_range", model.value_range.kind, "signed")]
    for name, ours, theirs in checks:
        if ours != theirs:
            raise UserError(f"{name} must be {theirs} for a VQModel, got {ours}")
    groups = next(layer.num_groups for layer in model.modules() if isinstance(layer, nn.GroupNorm))
    _check_groups(model, groups)
    levels = range(len(made["channel_multipliers"]))
    return {
        "_class_name": "VQModel",
        **DEFAULTS,
        "in_channels": encoder.in_channels,
        "out_channels": decoder.out_channels,
        "down_block_types": [DOWN[level in made["attention_levels"]] for level in levels],
        "up_block_types": [UP[level in up] for level in reversed(levels)],
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
    if config.get("_class_name", "VQModel") != "VQModel":
        raise UserError(f"folder must hold a VQModel, {path} describes a {config['_class_name']}")
    for name in ("act_fn", "norm_type", "lookup_from_codebook"):
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
        raise UserError(f"folder must hold {WEIGHTS[0]} or {WEIGHTS[1]}, {folder} holds neither")
    with reading(path, "is not a readable file of weights ({reason}): get it again"):
        safe = path.suffix == ".safetensors"
        content = load_file(path) if safe else torch.load(path, map_location="cpu", weights_only=True)
        old = re.compile(rf"\.({'|'.join(OLD)})\.(weight|bias)$")
        return {old.sub(lambda m: f".{OLD[m[1]]}.{m[2]}", key): value for key, value in content.items()}


def _levels(types: list[str]) -> tuple[int, ...]:
    return tuple(level for level, name in enumerate(types) if name.startswith("Attn"))


def _check_groups(model: VQVAE | VQGAN, groups: int) -> None:
    """Raise UserError unless each norm of the model has ``groups`` groups; vqlab's depend on the width."""
    for layer in (*model.encoder.modules(), *model.decoder.modules()):
        if isinstance(layer, nn.GroupNorm) and layer.num_groups != groups:
            raise UserError(
                f"norm_num_groups must be the same in all norms of a VQModel, got {groups}, and vqlab has "
                f"{layer.num_groups} at {layer.num_channels} channels: use multiples of 32"
            )
