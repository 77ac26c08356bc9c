"""A run that stops anywhere and is resumed sees the batches that an uninterrupted run sees."""

from itertools import chain
from pathlib import Path

import lightning
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from vqlab.data.images.base import ImageDataModule, ImageTensors
from vqlab.data.resumable import ResumableLoader, ResumableSampler

NUM_TRAIN, BATCH = 22, 4  # five batches an epoch, and two images left over
BATCHES = NUM_TRAIN // BATCH


class Numbers(ImageDataModule):
    """Random images of 4 x 4 pixels, for the plumbing around them."""

    channels, image_size, num_classes, train_size = 1, 4, 0, NUM_TRAIN

    def load_train_val(self):
        images = torch.randint(0, 256, (NUM_TRAIN + 6, 1, 8, 8), generator=torch.Generator().manual_seed(0))
        images = images.to(torch.uint8)
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


def fit(folder: Path, checkpoint: ModelCheckpoint, ckpt_path=None, workers=0, **kwargs) -> Recorder:
    model = Recorder()
    trainer = lightning.Trainer(
        default_root_dir=folder,
        callbacks=[checkpoint],
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **{"num_sanity_val_steps": 0, **kwargs},
    )
    data = Numbers(batch_size=BATCH, augment=True, num_workers=workers)
    trainer.fit(model, datamodule=data, ckpt_path=ckpt_path)
    return model


def every_step(folder: Path) -> ModelCheckpoint:
    return ModelCheckpoint(folder, filename="{step}", every_n_train_steps=1, save_top_k=-1)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "length",
    [{"max_epochs": 3}, {"max_steps": 3 * BATCHES}, {"max_steps": 12, "limit_train_batches": 4}],
    ids=["epochs", "steps", "limited"],
)
def test_resumed_run_sees_the_rest_from_every_step(tmp_path, length):
    whole = fit(tmp_path / "whole", every_step(tmp_path / "ckpt"), **length)
    per_epoch = length.get("limit_train_batches", BATCHES)
    assert len(whole.seen) == 3 * per_epoch
    assert len({seen[2] for seen in whole.seen}) == len(whole.seen), "each epoch has an order of its own"
    for step in range(1, len(whole.seen)):
        checkpoint = str(tmp_path / "ckpt" / f"step={step}.ckpt")
        resumed = fit(tmp_path / "resumed", every_step(tmp_path / "other"), ckpt_path=checkpoint, **length)
        assert resumed.seen == whole.seen[step:], f"resumed after step {step}"
        assert resumed.sums == whole.sums[step:], f"augmentation after step {step}"
        ends = [end - step for end in whole.epoch_ends if end > step]
        # Where the checkpoint holds the last batch of an epoch, Lightning may or may not repeat the end of that epoch.
        assert [end for end in resumed.epoch_ends if end] == ends


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("step", [2, BATCHES + 3])
def test_workers_that_fetch_ahead_change_nothing(tmp_path, step):
    whole = fit(tmp_path / "whole", every_step(tmp_path / "unused"), max_epochs=2)
    stopped = fit(tmp_path / "stopped", every_step(tmp_path / "ckpt"), workers=2, max_steps=step)
    checkpoint = str(tmp_path / "ckpt" / f"step={step}.ckpt")
    resumed = fit(tmp_path / "resumed", every_step(tmp_path / "other"), checkpoint, workers=2, max_epochs=2)
    assert stopped.seen + resumed.seen == whole.seen
    assert stopped.sums + resumed.sums == whole.sums


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("interval", [1.0, 2])
def test_resume_from_a_checkpoint_of_the_validation(tmp_path, interval):
    def checkpoint():
        return ModelCheckpoint(tmp_path / "ckpt", filename="{step}", save_top_k=-1, monitor=None)

    whole = fit(tmp_path / "whole", checkpoint(), max_epochs=3, val_check_interval=interval)
    files = sorted((tmp_path / "ckpt").glob("step=*.ckpt"))
    assert files
    for file in files:
        step = int(file.stem.split("=")[1])
        resumed = fit(tmp_path / "r", checkpoint(), str(file), max_epochs=3, val_check_interval=interval)
        assert resumed.seen == whole.seen[step:], file.name


def loader(world=1, rank=0, batch_size=4, order=None):
    sampler = ResumableSampler(range(22), world, rank, seed=3, drop_last=True)
    sampler.order = order
    return ResumableLoader(range(22), batch_size=batch_size, sampler=sampler, drop_last=True)


def backwards(epoch):
    return torch.arange(22).flip(0)


def batches(loader):
    return [batch.tolist() for batch in loader]


def test_a_place_is_used_once_and_in_its_epoch_alone():
    resumed, whole = loader(), batches(loader())
    resumed.load_state_dict({"epoch": 0, "samples": 12})
    assert batches(resumed) == whole[3:]
    assert batches(resumed) == whole
    assert len(resumed) == len(whole) == 5
    resumed.load_state_dict({"epoch": 0, "samples": 12})
    resumed.sampler.set_epoch(1)
    assert len(batches(resumed)) == 5


@pytest.mark.parametrize("order", [None, backwards])
def test_place_is_valid_for_another_number_of_devices(order):
    stopped = loader(batch_size=4, order=order)
    stream = iter(stopped)
    first = [next(stream).tolist(), next(stream).tolist()]
    ranks = [loader(world=2, rank=rank, batch_size=2, order=order) for rank in range(2)]
    for resumed in ranks:
        resumed.load_state_dict(stopped.state_dict())
    rest = [sorted(a + b) for a, b in zip(*map(batches, ranks), strict=True)]
    assert rest == [sorted(batch) for batch in batches(loader(order=order))[2:]]
    assert not set(chain(*first)) & set(chain(*rest))
