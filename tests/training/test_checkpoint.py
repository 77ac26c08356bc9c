"""vqlab.load restores models, and refuses damaged and hostile checkpoints."""

import os

import lightning
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

import vqlab
from tests.helpers.bare import BARE
from tests.helpers.models import build
from tests.helpers.refusal import refused
from vqlab.models import VQVAE
from vqlab.nn import ConvDecoder, ConvEncoder, ImageFormat, SmallDecoder, SmallEncoder, ValueRange
from vqlab.quantizers import FSQ, VectorQuantizer
from vqlab.serialization import ConfigMixin
from vqlab.training import Schedule
from vqlab.training.checkpoint import check_resumable, read_checkpoint, refusing_damage


class Own(nn.Module):
    """A user's network that does not record its arguments."""

    def __init__(self, width):
        super().__init__()
        self.out_channels, self.downsampling = width, 4
        self.conv = nn.Conv2d(1, width, 4, stride=4)

    def forward(self, x):
        return self.conv(x)


class OwnRecorded(ConfigMixin, Own):
    def __init__(self, width):
        super().__init__(width)


class Mine(VQVAE):
    """A subclass of a model."""


NETS = {"encoder": SmallEncoder(1, 4, 2, 0), "decoder": SmallDecoder(1, 4, 2, 0), "quantizer": VectorQuantizer(8, 2)}


def small(cls=VQVAE, **nets):
    nets = {name: type(net)(**net.init_args) for name, net in NETS.items() if name not in nets} | nets
    return cls(**nets, images=ImageFormat(channels=1, size=8))


def images(channels=1):
    return DataLoader([{"image": torch.rand(channels, 8, 8)} for _ in range(8)], batch_size=4)


def fit(model, path="model.ckpt", channels=1):
    """Train two steps and save, as in a notebook."""
    trainer = lightning.Trainer(max_steps=2, **BARE)
    trainer.fit(model, images(channels))
    trainer.save_checkpoint(path)
    return model.eval()


@pytest.fixture
def checkpoint():
    """The content of a valid checkpoint."""
    fit(small())
    return torch.load("model.ckpt", weights_only=True)


def assert_refused(words, changed):
    torch.save(changed, "damaged.ckpt")
    with refused(words):
        vqlab.load("damaged.ckpt")


def test_load_and_load_from_checkpoint_restore_model():
    sizes = {"base_channels": 8, "channel_multipliers": (1, 1), "num_res_blocks": 1, "z_channels": 8}
    model = build(
        VQVAE,
        encoder=ConvEncoder(**sizes, dropout=0.5),
        decoder=ConvDecoder(**sizes),
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
    for again in (loaded, VQVAE.load_from_checkpoint("model.ckpt").eval()):
        assert torch.equal(again.encode(x), model.encode(x))
        assert torch.equal(again.reconstruct(x), model.reconstruct(x))
        assert again.value_range == model.value_range
        assert again.optimization == model.optimization
        assert (again.optimization.betas, again.lr, again.base_lr) == ((0.5, 0.9), None, 1e-6)
        assert again.quantizer.levels.tolist() == [5, 3, 3]
        assert dict(again.hparams) == dict(model.hparams)


def test_pickled_code_is_refused(checkpoint, tmp_path):
    class Bomb:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path}/exploded",)

    assert_refused("damaged.ckpt holds Python objects that vqlab refuses to unpickle", {**checkpoint, "extra": Bomb()})
    checkpoint["hyper_parameters"]["encoder"] = Bomb()
    assert_refused("refuses to unpickle", checkpoint)
    assert not (tmp_path / "exploded").exists()


def test_other_files_are_refused(checkpoint, tmp_path):
    whole = (tmp_path / "model.ckpt").read_bytes()
    for content in (b"", b"no checkpoint\n", whole[:-1000], whole[:100]):
        (tmp_path / "damaged.ckpt").write_bytes(content)
        with refused("checkpoint damaged.ckpt"):
            vqlab.load("damaged.ckpt")
    for other in (checkpoint["state_dict"], [1, 2], {**checkpoint, "state_dict": None}):
        assert_refused("not a Lightning checkpoint", other)
    del checkpoint["state_dict"]["to_code.bias"]
    assert_refused('does not fit this VQVAE: Missing key(s) in state_dict: "to_code.bias"', checkpoint)


def test_damaged_bytes_raise_user_error_or_load(checkpoint, tmp_path):
    whole = (tmp_path / "model.ckpt").read_bytes()
    generator = torch.Generator().manual_seed(0)
    errors = 0
    for trial in range(60):
        damaged = bytearray(whole)
        for place in torch.randint(0, 6000, (1 + trial,), generator=generator).tolist():
            damaged[place] ^= 1 << (trial % 8)
        (tmp_path / "damaged.ckpt").write_bytes(damaged)
        try:
            read_checkpoint("damaged.ckpt")
        except vqlab.UserError as error:
            errors += "\n" not in str(error)
    assert errors > 30


@pytest.mark.parametrize("class_path", ["os.system", "no_such_module.Model", "torch.nn.Identity", "", 7, None])
def test_other_classes_are_refused(checkpoint, class_path):
    part = {"encoder": {"class_path": class_path, "init_args": {"args": "touch exploded"}}}
    model = {"_class_path": class_path, "args": "touch exploded"}
    for arguments in (checkpoint["hyper_parameters"] | part, model):
        torch.save(checkpoint | {"hyper_parameters": arguments}, "damaged.ckpt")
        with pytest.raises(vqlab.UserError, match=r"refused|import its module|not made by a vqlab model"):
            vqlab.load("damaged.ckpt")
    assert not os.path.exists("exploded")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"_class_path": "vqlab.quantizers.fsq.FSQ"}, "no LightningModule"),
        ({"from_a_later_version": 1}, "from_a_later_version"),
        ({"encoder": "abc"}, "cannot build"),
        ({"quantizer": {"class_path": "vqlab.VectorQuantizer", "init_args": {"novel": 1}}}, "novel"),
        ({"quantizer": {"class_path": "vqlab.FSQ", "init_args": {"levels": [5, 5]}}}, "does not fit this VQVAE"),
    ],
)
def test_invalid_arguments_are_refused(checkpoint, changes, words):
    checkpoint["hyper_parameters"] |= changes
    assert_refused(words, checkpoint)


@pytest.mark.parametrize(
    ("key", "wrong"),
    [("global_step", -1), ("global_step", True), ("epoch", "first"), ("loops", None), ("optimizer_states", {})],
)
def test_check_resumable_names_missing_entry(checkpoint, key, wrong):
    check_resumable(checkpoint, "model.ckpt")
    for changed in ({**checkpoint, key: wrong}, {k: v for k, v in checkpoint.items() if k != key}):
        with refused(f"model.ckpt has no {key} to resume from"):
            check_resumable(changed, "model.ckpt")


def test_only_errors_while_restoring_name_the_checkpoint(checkpoint):
    checkpoint["optimizer_states"] = [{"state": 3}]
    torch.save(checkpoint, "damaged.ckpt")
    with refused("damaged.ckpt cannot be resumed ("), refusing_damage("damaged.ckpt"):
        lightning.Trainer(max_steps=4, **BARE).fit(small(), images(), ckpt_path="damaged.ckpt")
    with pytest.raises(KeyError), refusing_damage("model.ckpt"):
        raise KeyError("a bug")


def test_loaded_model_can_be_trained_and_saved_again():
    fit(small())
    loaded = vqlab.load("model.ckpt")
    fit(loaded.train(), "again.ckpt")
    assert loaded.quantizer.steps == 4
    x = torch.rand(2, 1, 8, 8)
    assert torch.equal(vqlab.load("again.ckpt").reconstruct(x), loaded.reconstruct(x))


def test_network_without_recorded_arguments_is_passed_again():
    model = fit(small(encoder=Own(6)))
    with refused("Own", "ConfigMixin", "encoder="):
        vqlab.load("model.ckpt")
    fresh = Own(6)
    loaded = vqlab.load("model.ckpt", encoder=fresh)
    x = torch.rand(2, 1, 8, 8)
    assert loaded.encoder is fresh
    assert torch.equal(loaded.reconstruct(x), model.reconstruct(x))


@pytest.mark.parametrize("make", [lambda: small(encoder=OwnRecorded(6)), lambda: small(Mine)])
def test_user_classes_with_recorded_arguments_are_loaded(make):
    model = fit(make())
    loaded = vqlab.load("model.ckpt")
    assert (type(loaded), type(loaded.encoder)) == (type(model), type(model.encoder))
    x = torch.rand(2, 1, 8, 8)
    assert torch.equal(loaded.reconstruct(x), model.reconstruct(x))


def test_folder_instead_of_checkpoint_names_its_checkpoint():
    os.makedirs("run/checkpoints")
    os.makedirs("run/samples")
    for name in ("best", "last", "other"):
        torch.save({}, f"run/checkpoints/{name}.ckpt")
    best = "checkpoints/best.ckpt"
    for folder, hint in (("run", f"run/{best}"), (".", f"run/{best}"), ("run/samples", f"runs/<model>/<name>/{best}")):
        with refused(f"{folder} is a folder: give {hint}"):
            vqlab.load(folder)
    with refused("missing.ckpt does not exist"):
        vqlab.load("missing.ckpt")
