"""vqlab.load gives a model back, and nothing else."""

import math
import os
import pickle

import lightning
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

import vqlab
from tests.e2e.tiny import fails
from tests.helpers.bare import BARE
from tests.helpers.models import build
from vqlab.errors import UserError
from vqlab.models.prior.tokenizer import find_tokenizer
from vqlab.models.vq.vqvae import VQVAE
from vqlab.nn.autoencoders.conv import ConvDecoder, ConvEncoder
from vqlab.nn.autoencoders.small import SmallDecoder, SmallEncoder
from vqlab.nn.image_format import ImageFormat
from vqlab.nn.value_range import ValueRange
from vqlab.quantizers.fsq import FSQ
from vqlab.quantizers.vector import VectorQuantizer
from vqlab.serialization import ConfigMixin
from vqlab.training.checkpoint import check_resumable, read_checkpoint, refusing_damage
from vqlab.training.schedules import Schedule


class Own(nn.Module):
    """A network as a user writes it, who knows nothing of vqlab."""

    def __init__(self, width):
        super().__init__()
        self.out_channels, self.downsampling = width, 4
        self.conv = nn.Conv2d(1, width, 4, stride=4)

    def forward(self, x):
        return self.conv(x)


class OwnRebuildable(ConfigMixin, Own):
    def __init__(self, width):
        super().__init__(width)


def small(**arguments):
    nets = {
        "encoder": SmallEncoder(1, 4, 2, 0),
        "decoder": SmallDecoder(1, 4, 2, 0),
        "quantizer": VectorQuantizer(8, 2),
    }
    return build(VQVAE, **{**nets, **arguments}, channels=1, image_size=8)


def images(channels=1):
    return DataLoader([{"image": torch.rand(channels, 8, 8)} for _ in range(8)], batch_size=4)


def fit(model, path="model.ckpt", channels=1):
    """Train two steps and save, in a notebook's way."""
    loader = images(channels)
    trainer = lightning.Trainer(
        max_steps=2,
        **BARE,
    )
    trainer.fit(model, loader)
    trainer.save_checkpoint(path)
    return model.eval()


@pytest.fixture
def checkpoint():
    """What a notebook's checkpoint holds, to be spoilt."""
    fit(small())
    return torch.load("model.ckpt", weights_only=True)


def assert_refused(match, path="spoilt.ckpt", **parts):
    with pytest.raises(UserError, match=match) as error:
        vqlab.load(path, **parts)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 400
    return str(error.value)


def test_a_notebooks_model_comes_back_by_either_way():
    model = build(
        VQVAE,
        encoder=ConvEncoder(base_channels=8, channel_multipliers=(1, 1), num_res_blocks=1, z_channels=8, dropout=0.5),
        decoder=ConvDecoder(base_channels=8, channel_multipliers=(1, 1), num_res_blocks=1, z_channels=8),
        quantizer=FSQ(levels=[5, 3, 3]),
        schedule=Schedule("cosine", warmup_steps=1),
        value_range=ValueRange("standardized", (0.5, 0.4, 0.3), (0.2, 0.2, 0.1)),
        betas=(0.5, 0.9),
        base_lr=1e-6,
        image_size=8,
    )
    fit(model, channels=3)
    x = torch.randn(3, 3, 8, 8)
    loaded = vqlab.load("model.ckpt")
    assert not any(part.training for part in loaded.modules())
    assert type(loaded) is VQVAE
    by_lightning = VQVAE.load_from_checkpoint("model.ckpt").eval()
    for again in (loaded, by_lightning):
        assert torch.equal(again.encode(x), model.encode(x))
        assert torch.equal(again.reconstruct(x), model.reconstruct(x))
        assert again.value_range == model.value_range
        assert again.optimization == model.optimization
        assert (again.optimization.betas, again.lr, again.base_lr) == ((0.5, 0.9), None, 1e-6)
        assert again.quantizer.levels.tolist() == [5, 3, 3]
        assert dict(again.hparams) == dict(model.hparams)


def test_a_loaded_model_can_be_trained_and_saved_again():
    model = fit(small())
    loaded = vqlab.load("model.ckpt")
    assert loaded.quantizer.steps == model.quantizer.steps == 2
    fit(loaded.train(), "again.ckpt")
    assert loaded.quantizer.steps == 4
    x = torch.rand(2, 1, 8, 8)
    assert torch.equal(vqlab.load("again.ckpt").reconstruct(x), loaded.reconstruct(x))


def test_loading_twice_gives_the_same_weights():
    fit(small())
    first, second = vqlab.load("model.ckpt").state_dict(), vqlab.load("model.ckpt").state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_pickled_object_with_code_is_refused(checkpoint, tmp_path):
    class Bomb:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path}/exploded",)

    for spoilt in (
        {**checkpoint, "extra": Bomb()},
        {**checkpoint, "hyper_parameters": {**checkpoint["hyper_parameters"], "encoder": Bomb()}},
    ):
        torch.save(spoilt, "spoilt.ckpt")
        assert_refused(r"spoilt\.ckpt.*refuses to unpickle")
    with open("spoilt.ckpt", "wb") as file:  # a bare pickle, as old versions of torch wrote
        pickle.dump(Bomb(), file)
    assert_refused(r"spoilt\.ckpt")
    assert not (tmp_path / "exploded").exists()


def test_files_that_are_no_checkpoint(checkpoint, tmp_path):
    whole = (tmp_path / "model.ckpt").read_bytes()
    for content in (b"", b"no checkpoint\n", whole[:-1000], whole[: len(whole) // 2], whole[:100]):
        (tmp_path / "spoilt.ckpt").write_bytes(content)
        assert_refused(r"spoilt\.ckpt")
    assert "does not exist" in assert_refused(r"missing\.ckpt", "missing.ckpt")
    assert_refused(r"is a folder: give .*model\.ckpt", str(tmp_path))
    for other in (checkpoint["state_dict"], [1, 2], torch.zeros(3)):
        torch.save(other, "spoilt.ckpt")
        assert_refused("not a Lightning checkpoint")


def test_damaged_bytes_give_a_user_error_or_the_model(checkpoint, tmp_path):
    """Whatever torch's unpickler makes of a damaged file, the user sees one line."""
    whole = (tmp_path / "model.ckpt").read_bytes()
    generator = torch.Generator().manual_seed(0)
    refused = 0
    for trial in range(60):
        damaged = bytearray(whole)
        for place in torch.randint(0, 6000, (1 + trial,), generator=generator).tolist():
            damaged[place] ^= 1 << (trial % 8)
        (tmp_path / "spoilt.ckpt").write_bytes(damaged)
        try:
            read_checkpoint("spoilt.ckpt")
        except UserError as error:
            refused += "\n" not in str(error)
    assert refused > 30


@pytest.mark.parametrize("error", [AttributeError("dtype"), TypeError("takes 6"), RuntimeError(), IndexError("pop")])
def test_any_error_of_the_unpickler_is_a_damaged_file(checkpoint, monkeypatch, error):
    def load(*args, **kwargs):
        raise error

    monkeypatch.setattr(torch, "load", load)
    assert_refused(r"model\.ckpt is damaged", "model.ckpt")


@pytest.mark.parametrize(
    "class_path",
    [
        "os.system",
        "subprocess.Popen",
        "no_such_module.Model",
        "builtins.eval",
        "torch.nn.modules.linear.Identity",
        "torchmetrics.functional.image.lpips._LPIPS",
        "Model",
        "",
        7,
        None,
    ],
)
@pytest.mark.parametrize("part", [None, "encoder"])
def test_a_class_from_outside_is_refused(checkpoint, class_path, part):
    hyper = checkpoint["hyper_parameters"]
    if part:
        hyper[part] = {"class_path": class_path, "init_args": {"args": "touch exploded"}}
    else:
        hyper.clear()
        hyper.update({"_class_path": class_path, "args": "touch exploded"})
    torch.save(checkpoint, "spoilt.ckpt")
    assert_refused("refused|import its module|not made by a vqlab model")
    assert not os.path.exists("exploded")


def test_a_module_that_is_no_model_is_refused(checkpoint):
    checkpoint["hyper_parameters"] = {"_class_path": "vqlab.quantizers.fsq.FSQ"}
    torch.save(checkpoint, "spoilt.ckpt")
    assert_refused("no LightningModule")


def test_arguments_that_the_class_does_not_have(checkpoint):
    checkpoint["hyper_parameters"]["from_a_later_version"] = 1
    torch.save(checkpoint, "spoilt.ckpt")
    assert_refused("from_a_later_version")
    del checkpoint["hyper_parameters"]["from_a_later_version"]
    checkpoint["hyper_parameters"]["quantizer"]["init_args"]["novel"] = 1
    torch.save(checkpoint, "spoilt.ckpt")
    assert_refused("novel")


@pytest.mark.parametrize("wrong", [None, "abc", [], 3, True])
@pytest.mark.parametrize("key", ["state_dict", "hyper_parameters"])
def test_entries_of_the_wrong_kind(checkpoint, key, wrong):
    checkpoint[key] = wrong
    torch.save(checkpoint, "spoilt.ckpt")
    assert_refused("not a Lightning checkpoint|not made by a vqlab model")


@pytest.mark.parametrize("wrong", ["abc", -1, math.nan, [None], torch.zeros(3)])
def test_arguments_of_the_wrong_kind(checkpoint, wrong):
    checkpoint["hyper_parameters"]["encoder"] = wrong
    torch.save(checkpoint, "spoilt.ckpt")
    assert_refused("cannot build")


@pytest.mark.parametrize(
    ("key", "wrong"),
    [
        *[("global_step", value) for value in (None, -1, 0.5, True, "3", 10**30, torch.zeros(3))],
        ("epoch", "first"),
        ("pytorch-lightning_version", [2]),
        ("loops", None),
        ("callbacks", []),
        ("optimizer_states", {}),
        ("lr_schedulers", 7),
    ],
)
def test_what_a_run_cannot_go_on_from(checkpoint, key, wrong):
    check_resumable(checkpoint, "model.ckpt")
    for spoilt in ({**checkpoint, key: wrong}, {k: v for k, v in checkpoint.items() if k != key}):
        with pytest.raises(UserError, match=rf"model.ckpt holds no {key} to go on from"):
            check_resumable(spoilt, "model.ckpt")


def test_only_errors_of_restoring_are_laid_to_the_checkpoint(checkpoint):
    checkpoint["optimizer_states"] = [{"state": 3}]
    torch.save(checkpoint, "spoilt.ckpt")
    with pytest.raises(UserError, match=r"spoilt.ckpt cannot be resumed \("), refusing_damage("spoilt.ckpt"):
        lightning.Trainer(max_steps=4, **BARE).fit(small(), images(), ckpt_path="spoilt.ckpt")
    with pytest.raises(KeyError), refusing_damage("model.ckpt"):
        raise KeyError("a mistake of ours")


def test_weights_that_do_not_fit(checkpoint):
    checkpoint["hyper_parameters"]["quantizer"]["init_args"]["num_embeddings"] = 9
    torch.save(checkpoint, "spoilt.ckpt")
    assert_refused(r"does not fit this VQVAE.*quantizer\.(codebook|ema_sums).*\(and \d more\)")
    checkpoint["hyper_parameters"]["quantizer"]["init_args"]["num_embeddings"] = 8
    del checkpoint["state_dict"]["to_code.bias"]
    torch.save(checkpoint, "spoilt.ckpt")
    assert_refused(r"does not fit this VQVAE.*to_code\.bias")


def test_a_network_that_does_not_record_its_arguments():
    encoder = Own(6)
    model = fit(small(encoder=encoder))
    message = assert_refused("Own", "model.ckpt")
    assert "ConfigMixin" in message
    assert "encoder=" in message
    fresh = Own(6)
    loaded = vqlab.load("model.ckpt", encoder=fresh)
    x = torch.rand(2, 1, 8, 8)
    assert loaded.encoder is fresh
    assert torch.equal(loaded.reconstruct(x), model.reconstruct(x))
    assert torch.equal(fresh.conv.weight, encoder.conv.weight)


def test_a_network_that_records_its_arguments():
    model = fit(small(encoder=OwnRebuildable(6)))
    x = torch.rand(2, 1, 8, 8)
    loaded = vqlab.load("model.ckpt")
    assert type(loaded.encoder) is OwnRebuildable
    assert torch.equal(loaded.reconstruct(x), model.reconstruct(x))


def test_a_subclass_of_a_model():
    class Mine(VQVAE):
        pass

    globals()["Mine"] = Mine  # as one that is defined in a notebook's cell
    Mine.__qualname__ = "Mine"
    fit(Mine(SmallEncoder(1, 4, 2, 0), SmallDecoder(1, 4, 2, 0), VectorQuantizer(8, 2), images=ImageFormat(1, 8)))
    assert type(vqlab.load("model.ckpt")) is Mine


def test_a_checkpoint_holds_plain_data_alone(checkpoint):
    """torch.load with weights_only=True has read it; what it read is of plain types."""

    def kinds(value):
        if isinstance(value, dict):
            return {type(value).__name__}.union(*(kinds(v) for v in value.values()), *(kinds(k) for k in value))
        if isinstance(value, (list, tuple)):
            return {type(value).__name__}.union(*(kinds(v) for v in value))
        return {type(value).__name__}

    plain = {"dict", "OrderedDict", "defaultdict", "list", "tuple", "str", "int", "float", "bool", "NoneType", "Tensor"}
    assert kinds(checkpoint) <= plain
    assert checkpoint["hyper_parameters"]["_class_path"] == "vqlab.VQVAE"


@pytest.mark.parametrize(
    ("folder", "give"),
    [
        ("run", "run/checkpoints/best.ckpt"),
        ("run/checkpoints", "run/checkpoints/best.ckpt"),
        (".", "run/checkpoints/best.ckpt"),
        ("run/samples", "runs/<model>/<name>/checkpoints/best.ckpt"),
    ],
)
def test_a_folder_in_place_of_a_checkpoint_names_the_one_in_it(checkpoint, folder, give, capsys):
    os.makedirs("run/checkpoints")
    os.makedirs("run/samples")
    for name in ("best", "last", "other"):
        torch.save(checkpoint, f"run/checkpoints/{name}.ckpt")
    words = f"{folder} is a folder: give {give}"
    assert assert_refused("is a folder", folder) == words
    with pytest.raises(UserError) as error:
        find_tokenizer(folder)
    assert str(error.value) == words
    for command in (["info"], ["sample"], ["test", "--ckpt_path"], ["fit", "--ckpt_path"]):
        assert fails(capsys, [*command, folder]) == f"vqlab: error: {words}"
