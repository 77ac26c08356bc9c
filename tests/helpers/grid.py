"""JSA on a map of codes, under a Trainer."""

import lightning
import torch

from tests.helpers.bare import BARE
from tests.helpers.models import build
from vqlab.models import JSA
from vqlab.nn import SmallDecoder, SmallEncoder


class Data(lightning.LightningDataModule):
    """64 small images, 16 at a time."""

    batch_size, train_size, augment = 16, 64, False

    def train_dataloader(self):
        x = torch.rand(64, 1, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
        data = [{"image": image, "index": torch.tensor(i)} for i, image in enumerate(x)]
        return torch.utils.data.DataLoader(data, batch_size=16)


def grid(**options):
    torch.manual_seed(0)
    shape = {"num_embeddings": 16, "channels": 1, "image_size": 16, "cache_start_epoch": 0}
    return build(JSA, SmallEncoder(1, 8, 8, 1), SmallDecoder(1, 8, 8, 1), **{**shape, **options})


def fit(model, data=None, **settings):
    run = lightning.Trainer(**BARE, **{"max_steps": 6, "max_epochs": -1, **settings})
    run.fit(model, data or Data())
    return run
