"""A run that is stopped anywhere and resumed gets the batches of an uninterrupted run."""

from itertools import chain

import lightning
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from tests.helpers.bare import BARE
from vqlab.data.images.base import ImageDataModule, ImageTensors
from vqlab.data.resumable import ResumableLoader, ResumableSampler

NUM_TRAIN, BATCH = 22, 4  # five batches per epoch, and two images left over
BATCHES = NUM_TRAIN // BATCH
pytestmark = pytest.mark.filterwarnings("ignore")


class Noise(ImageDataModule):
    channels, image_size, num_classes, train_size = 1, 4, 0, NUM_TRAIN

    def load_train_val(self):
        generator = torch.Generator().manual_seed(0)
        images = torch.randint(0, 256, (NUM_TRAIN + 6, 1, 8, 8), generator=generator, dtype=torch.uint8)
        return ImageTensors(images[:NUM_TRAIN]), ImageTensors(images[NUM_TRAIN:])


class Recorder(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen, self.sums, self.epoch_ends = [], [], []

    def training_step(self, batch, batch_idx):
        self.seen.append((self.current_epoch, batch_idx, tuple(batch["index"].tolist())))
        self.sums.append(batch["image"].sum().item())
        return self.weight * batch["image"].mean()

    def validation_step(self, batch, batch_idx):
        self.log("val/loss", self.weight)

    def on_train_epoch_end(self):
        self.epoch_ends.append(len(self.seen))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


def fit(folder, ckpt_path=None, workers=0, every=1, **settings):
    """Train with a checkpoint in ``folder`` after every step, or after each validation with ``every=None``."""
    model = Recorder()
    checkpoint = ModelCheckpoint(folder, filename="{step}", every_n_train_steps=every, save_top_k=-1)
    settings = BARE | {"enable_checkpointing": True, "num_sanity_val_steps": 0} | settings
    trainer = lightning.Trainer(default_root_dir=folder, callbacks=[checkpoint], **settings)
    data = Noise(batch_size=BATCH, augment=True, num_workers=workers)
    trainer.fit(model, datamodule=data, ckpt_path=ckpt_path)
    return model


@pytest.mark.parametrize(
    "length",
    [{"max_epochs": 3}, {"max_steps": 3 * BATCHES}, {"max_steps": 12, "limit_train_batches": 4}],
    ids=["epochs", "steps", "limited"],
)
def test_resumed_run_continues_after_every_step(tmp_path, length):
    whole = fit(tmp_path / "whole", **length)
    per_epoch = length.get("limit_train_batches", BATCHES)
    assert len(whole.seen) == 3 * per_epoch
    assert len({seen[2] for seen in whole.seen}) == len(whole.seen), "each epoch has an order of its own"
    for step in range(1, len(whole.seen)):
        resumed = fit(tmp_path / "resumed", tmp_path / "whole" / f"step={step}.ckpt", **length)
        assert resumed.seen == whole.seen[step:], f"resumed after step {step}"
        assert resumed.sums == whole.sums[step:], f"augmentation after step {step}"
        ends = [end - step for end in whole.epoch_ends if end > step]
        # After the last batch of an epoch, Lightning may or may not repeat the end of that epoch.
        assert [end for end in resumed.epoch_ends if end] == ends


@pytest.mark.parametrize("step", [2, BATCHES + 3])
def test_prefetching_workers_do_not_change_the_batches(tmp_path, step):
    whole = fit(tmp_path / "whole", max_epochs=2)
    stopped = fit(tmp_path / "stopped", workers=2, max_steps=step)
    checkpoint = tmp_path / "stopped" / f"step={step}.ckpt"
    resumed = fit(tmp_path / "resumed", checkpoint, workers=2, max_epochs=2)
    assert stopped.seen + resumed.seen == whole.seen
    assert stopped.sums + resumed.sums == whole.sums


@pytest.mark.parametrize("interval", [1.0, 2])
def test_resume_from_a_checkpoint_of_the_validation(tmp_path, interval):
    settings = {"every": None, "max_epochs": 3, "val_check_interval": interval}
    whole = fit(tmp_path / "whole", **settings)
    files = sorted((tmp_path / "whole").glob("step=*.ckpt"))
    assert files
    for file in files:
        resumed = fit(tmp_path / "resumed", file, **settings)
        assert resumed.seen == whole.seen[int(file.stem.split("=")[1]) :], file.name


def loader(world=1, rank=0, batch_size=4, order=None):
    sampler = ResumableSampler(range(22), world, rank, seed=3, drop_last=True)
    sampler.order = order
    return ResumableLoader(range(22), batch_size=batch_size, sampler=sampler, drop_last=True)


def batches(loader):
    return [batch.tolist() for batch in loader]


def test_a_stored_position_is_used_once_and_only_in_its_epoch():
    resumed, whole = loader(), batches(loader())
    resumed.load_state_dict({"epoch": 0, "samples": 12})
    assert batches(resumed) == whole[3:]
    assert batches(resumed) == whole
    assert len(resumed) == len(whole) == 5
    resumed.load_state_dict({"epoch": 0, "samples": 12})
    resumed.sampler.set_epoch(1)
    assert len(batches(resumed)) == 5


@pytest.mark.parametrize("order", [None, lambda epoch: torch.arange(22).flip(0)])
def test_position_is_valid_for_another_number_of_devices(order):
    stopped = loader(batch_size=4, order=order)
    stream = iter(stopped)
    first = [next(stream).tolist(), next(stream).tolist()]
    ranks = [loader(world=2, rank=rank, batch_size=2, order=order) for rank in range(2)]
    for resumed in ranks:
        resumed.load_state_dict(stopped.state_dict())
    rest = [sorted(a + b) for a, b in zip(*map(batches, ranks), strict=True)]
    assert rest == [sorted(batch) for batch in batches(loader(order=order))[2:]]
    assert not set(chain(*first)) & set(chain(*rest))
