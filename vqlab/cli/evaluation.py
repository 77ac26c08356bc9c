"""Metrics of drawn images beside reference images, for ``vqlab sample --metrics``."""

import json
from pathlib import Path
from typing import Any

import lightning
import torch
import yaml
from torch import Tensor

from vqlab.atomic_io import write_atomic
from vqlab.cli.lightning import ALWAYS
from vqlab.cli.run_folder import with_run_config
from vqlab.cli.sample import BATCH, with_progress
from vqlab.data.datamodule import Split, apply_stored_format
from vqlab.data.files import list_files
from vqlab.data.images.arrays import read_images
from vqlab.data.images.folder import EXTENSIONS, ImageFiles
from vqlab.errors import UserError
from vqlab.experiments.text import align
from vqlab.metrics import GenerationMetrics
from vqlab.nn import ImageFormat
from vqlab.serialization import find_class
from vqlab.training.data_format import ENTRY

SPLITS = ("test", "val", "train")


class Evaluation:
    """Metrics of drawn images; the constructor reads the reference and the network, so that errors come first."""

    def __init__(self, reference: str, net: Any, seed: int, checkpoint: str, model: Any) -> None:
        self.split, self.reference = read_reference(reference, checkpoint, model)
        self.metrics = GenerationMetrics(net, seed=seed)
        self.metrics.check_shape(*model.images.shape)
        self.metrics.load()
        if len(self.split) < self.metrics.min_images:
            raise UserError(f"--reference must have at least {self.metrics.min_images} images, got {len(self.split)}")

    def add(self, drawn: Tensor) -> None:
        """Add drawn images (B, C, H, W) in [0, 1]."""
        self.metrics.to(drawn.device).update(drawn, real=False)

    def write(self, path: Path, facts: dict[str, Any]) -> None:
        """Write the metrics as JSON, after ``facts`` about the draws, and print them."""
        count = len(self.split)
        parts = torch.arange(count).split(BATCH)
        images = (self.split.__getitems__(places.tolist())["image"].float() / 255 for places in parts)
        for batch in with_progress(images, count, "evaluated", "reference images"):
            self.metrics.update(batch.to(self.metrics.device), real=True)
        values = {name: value.item() for name, value in self.metrics.compute().items()}
        content = facts | {"reference": self.reference, "reference_images": count} | values
        with write_atomic(path, "--out") as file:
            file.write((json.dumps(content, indent=2) + "\n").encode())
        print(f"{path}: {facts['num']:,} samples beside {count:,} {self.reference}")
        print("\n".join(align((name, f"{value:.6g}") for name, value in values.items())))


def read_reference(reference: str, checkpoint: str, model: Any) -> tuple[Split, str]:
    """Return the uint8 images of a split of the run's data, of a NumPy file or of a folder, and their name.

    They are resized and cropped to the size of the model's images, as for training. Of a file with several splits, the
    test images are taken.
    """
    images: ImageFormat = model.images
    if reference in SPLITS:
        data = run_data(checkpoint, model)
        train, val = data.load_train_val()
        split = {"train": train, "val": val, "test": data.load_test() if reference == "test" else None}[reference]
        if split is None:
            raise UserError(f"{type(data).__name__} has no test images: set --reference val, or to a file or folder")
        return split, f"{reference} images of {type(data).__name__}"
    if Path(reference).is_dir():
        files = list_files(Path(reference), EXTENSIONS, "images")
        return ImageFiles([*map(str, files)], [-1] * len(files), images.size, images.channels), f"images of {reference}"
    if not Path(reference).is_file():
        choices = f"{', '.join(SPLITS)}, a .npz or .npy file or a folder of images"
        raise UserError(f"--reference must be {choices}, got {reference!r}")
    found = read_images(reference, "--reference", images.size)
    split = next(found[name] for name in SPLITS if name in found)
    if split.images.shape[1] != images.channels:
        raise UserError(f"{reference} has {split.images.shape[1]} channels, the model's images {images.channels}")
    return split, f"images of {reference}"


def run_data(checkpoint: str, model: Any) -> Any:
    """Return the data of the checkpoint's run, with the classes and statistics that it stores."""
    hint = "set --reference to a .npz or .npy file or a folder of images"
    try:
        config = with_run_config(["test", f"--ckpt_path={checkpoint}"], ALWAYS)[1].removeprefix("--config=")
        spec = (yaml.safe_load(config) or {}).get("data") if config.startswith("{") else None
        if not spec:
            raise UserError("it is not recorded")
        data: Any = find_class(spec["class_path"], lightning.LightningDataModule)(**spec.get("init_args", {}))
        if (trained_on := getattr(model, ENTRY, None)) is not None:
            apply_stored_format(data, trained_on)
    except UserError as error:
        raise UserError(f"the data of {checkpoint} cannot be read ({error}): {hint}") from error
    return data
