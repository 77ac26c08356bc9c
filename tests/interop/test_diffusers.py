"""Import and export of diffusers' VQModel, against a reimplementation of its networks."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.helpers.models import build
from tests.helpers.other_libraries import Diffusers, assert_same
from tests.helpers.refusal import refused
from vqlab.interop import load_diffusers, save_diffusers
from vqlab.models import VQGAN, VQVAE
from vqlab.nn import ConvDecoder, ConvEncoder
from vqlab.quantizers import FSQ, VectorQuantizer

PLAIN = {"_class_name": "VQModel", "_diffusers_version": "0.30.0", "act_fn": "silu", "norm_type": "group"}
PLAIN |= {"in_channels": 3, "out_channels": 3, "latent_channels": 6, "layers_per_block": 1, "norm_num_groups": 32}
PLAIN |= {"mid_block_add_attention": True, "num_vq_embeddings": 20, "sample_size": 16, "vq_embed_dim": 4}
PLAIN |= {"block_out_channels": [32, 64], "down_block_types": ["DownEncoderBlock2D", "AttnDownEncoderBlock2D"]}
PLAIN |= {"up_block_types": ["UpDecoderBlock2D", "AttnUpDecoderBlock2D"]}  # other levels than those of the encoder
CONFIGS = [
    {},
    {"layers_per_block": 2, "mid_block_add_attention": False, "vq_embed_dim": None},
    {
        "block_out_channels": [32, 32, 96],
        "down_block_types": ["AttnDownEncoderBlock2D", "DownEncoderBlock2D", "DownEncoderBlock2D"],
        "up_block_types": ["UpDecoderBlock2D", "AttnUpDecoderBlock2D", "UpDecoderBlock2D"],
    },
    {"norm_num_groups": 8, "block_out_channels": [8, 24]},
]
WEIGHTS = "diffusion_pytorch_model.safetensors"


def folder(changes=(), name="theirs", seed=0):
    config, path = {**PLAIN, **dict(changes)}, Path(name)
    path.mkdir(exist_ok=True)
    (path / "config.json").write_text(json.dumps(config))
    reference = Diffusers(config, seed)
    save_file(reference.state_dict(), path / WEIGHTS)
    return path, reference


def images(size=16):
    return torch.rand(2, 3, size, size) * 2 - 1


@pytest.mark.parametrize("changes", CONFIGS, ids=str)
def test_import_computes_the_same_as_diffusers_and_export_gives_the_same_file(changes):
    path, reference = folder(changes, seed=len(str(changes)))
    model = load_diffusers(path)
    assert not model.training
    for size in (16, 32):
        assert_same(model, reference, images(size))
    save_diffusers(model, "ours")
    theirs, ours = load_file(path / WEIGHTS), load_file(Path("ours") / WEIGHTS)
    assert theirs.keys() == ours.keys()
    assert all(torch.equal(value, ours[name]) for name, value in theirs.items())
    written, config = json.loads(Path("ours/config.json").read_text()), {**PLAIN, **changes}
    config["vq_embed_dim"] = config["vq_embed_dim"] or config["latent_channels"]
    assert {name: written[name] for name in config if name != "_diffusers_version"} == {
        name: value for name, value in config.items() if name != "_diffusers_version"
    }


def test_bin_files_and_old_names_of_attention_layers_are_read():
    path, reference = folder()
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    state = load_file(path / WEIGHTS)
    for new, name in old.items():
        state = {key.replace(f".{new}.", f".{name}."): value for key, value in state.items()}
    assert any("proj_attn" in key for key in state)
    (path / WEIGHTS).unlink()
    torch.save(state, path / "diffusion_pytorch_model.bin")
    assert_same(load_diffusers(path), reference, images())
    torch.save({name: value.half() for name, value in state.items()}, path / "diffusion_pytorch_model.bin")
    assert load_diffusers(path).reconstruct(images()).dtype == torch.float32


def own(**arguments):
    """A model of vqlab with random weights."""
    sizes = {"base_channels": 32, "channel_multipliers": (1, 2), "num_res_blocks": 1, "z_channels": 6}
    torch.manual_seed(3)
    parts = {"encoder": ConvEncoder(**sizes, attention_levels=(0,)), "decoder": ConvDecoder(**sizes)}
    parts |= {"quantizer": VectorQuantizer(30, 5, init="uniform"), "image_size": 16}
    return build(VQGAN, **{**parts, "perceptual_weight": 0.0, "disc_weight": 0.0, **arguments}).eval()


@pytest.mark.parametrize("distance", ["euclidean", "cosine"])
def test_export_and_import_of_a_vqlab_model_give_the_same_model(distance):
    model = own(quantizer=VectorQuantizer(30, 5, init="uniform", distance=distance))
    save_diffusers(model, "a")
    again, x = load_diffusers("a"), images()
    assert torch.equal(again.encode(x), model.encode(x))
    assert torch.equal(again.reconstruct(x), model.reconstruct(x))
    reference = Diffusers(json.loads(Path("a/config.json").read_text()))
    reference.load_state_dict(load_file(Path("a") / WEIGHTS))
    assert_same(again, reference, x)
    save_diffusers(again, "b")
    for name in (WEIGHTS, "config.json"):
        assert (Path("a") / name).read_bytes() == (Path("b") / name).read_bytes()


REMOVED = "decoder.up_blocks.1.attentions.0.to_k.bias"
CONFIG = "config.json"


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        (CONFIG, {"_class_name": "AutoencoderKL"}, "_class_name must be VQModel"),
        (CONFIG, {"norm_type": "spatial"}, "norm_type must be group"),
        (CONFIG, {"down_block_types": ["DownEncoderBlock2D", "CrossAttnDownBlock2D"]}, "CrossAttnDownBlock2D"),
        (CONFIG, {"block_out_channels": [32, 48]}, "multiples of the first"),
        (CONFIG, {"norm_num_groups": 16}, "norm_num_groups must be the same in all norms of a VQModel, got 16"),
        (CONFIG, b"{", "config.json is not the config.json of a VQModel"),
        (CONFIG, None, "config.json is not the config.json of a VQModel ([Errno 2] No such file"),
        (WEIGHTS, b"half a file", f"{WEIGHTS} is not a readable file of weights"),
        (WEIGHTS, None, f"folder must contain {WEIGHTS} or "),
        (WEIGHTS, {REMOVED: None}, f"lacks {REMOVED}"),
        (WEIGHTS, {"extra.weight": torch.zeros(1)}, "unmatched extra.weight"),
    ],
)
def test_unsupported_and_damaged_folders_are_refused(file, content, words):
    path, _ = folder()
    if content is None:
        (path / file).unlink()
    elif isinstance(content, bytes):
        (path / file).write_bytes(content)
    elif file == CONFIG:
        (path / file).write_text(json.dumps({**PLAIN, **content}))
    else:
        state = {**load_file(path / WEIGHTS), **content}
        save_file({key: value for key, value in state.items() if value is not None}, path / WEIGHTS)
    with refused(words):
        load_diffusers(path)


NARROW = (3, 8, (1, 2), 1, 6)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda: build(VQVAE, image_size=16), "SmallEncoder"),
        (lambda: own(quantizer=FSQ([5, 5])), "FSQ"),
        (lambda: own(value_range="unit"), "unit"),
        (lambda: own(decoder=ConvDecoder(3, 32, (1, 2), 1, 6, out_activation="tanh")), "out_activation"),
        (lambda: own(decoder=ConvDecoder(3, 32, (1, 2), 2, 6)), "num_res_blocks"),
        (lambda: own(encoder=ConvEncoder(*NARROW), decoder=ConvDecoder(*NARROW)), "norm_num_groups"),
    ],
)
def test_models_that_diffusers_cannot_represent_are_refused(change, words):
    with refused(words):
        save_diffusers(change(), "out")
    assert not Path("out").exists()
