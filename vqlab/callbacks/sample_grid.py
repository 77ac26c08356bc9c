"""Images of a model in training: inputs, reconstructions, samples, use of the codes, confusion matrix, topics."""

import io
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torchvision.transforms.functional import to_tensor
from torchvision.utils import make_grid, save_image

from vqlab.atomic_io import write_atomic
from vqlab.callbacks.code_statistics import FEW, draw_statistics
from vqlab.callbacks.topic_table import as_csv, as_text, bars, topic_map
from vqlab.training.loggers.media import log_histogram, log_image, log_table
from vqlab.training.protocol import ComparesCodes, CountsCodes, CountsConfusion, HasTopics, ShowsImages, ShowsSignals
from vqlab.validation import Checked, Count

PAD, CAPTION = 4, 20  # pixels between images, and for the captions beside them
LEAST = 0.5  # lower end of the count axis: a single use is visible
ROWS = 4  # signals that are plotted
EARLY = 100  # step of the first pictures, before the first validation
MIN_TILE = 96  # pixels; smaller images are enlarged by whole factors

FRAMES, FRAME_TIME = 40, 400  # largest number of frames of a GIF; milliseconds
FONT = ImageFont.load_default(12)

Batch = dict[str, Tensor]


class SampleGrid(Checked, Callback):
    """Write ``samples/step_NNNNNN.png`` and ``codes_NNNNNN.png`` at each validation, to W&B and TensorBoard as well.

    For an early look, ``step_000100.png`` shows the batch of the sanity check at step 100. At the end of the training
    ``steps.gif`` shows all ``step_NNNNNN.png`` in turn; samples of a GAN are always of the same noise.

    The model provides the content (:mod:`vqlab.training.protocol`): example images or signals, the use of its codes and
    their divergence between classes and positions (``statistics_NNNNNN.png``), reconstructions from the most frequent
    codes (``top_NNNNNN.png``), a confusion matrix (``confusion_NNNNNN.png``), topics (``topics_NNNNNN.csv`` and
    ``.png`` and ``map.html``).

    Args:
        num_images: Images per grid, the first ones of the validation set.
        columns: Images per row.

    Raises:
        UserError: If a number is below 1.
    """

    def __init__(self, num_images: Count = 16, columns: Count = 8) -> None:
        self.num_images, self.columns = num_images, columns
        self.early: Batch = {}
        self.first: Batch = {}  # the first images of this validation

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, *args: Any
    ) -> None:
        if batch_idx == 0 and trainer.is_global_zero:
            self.first = {name: value[: self.num_images] for name, value in batch.items()}
            if trainer.sanity_checking:
                self.early = self.first
            else:
                self._write_examples(trainer, pl_module, self.first)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        """Show the first images at step 100; the weights are those of the training, without EMA."""
        if trainer.global_step == EARLY and self.early:
            pl_module.eval()
            with torch.no_grad():
                self._write_examples(trainer, pl_module, self.early)
            pl_module.train()
            self.early = {}

    def _write_examples(self, trainer: Trainer, pl_module: Any, first: Batch) -> None:
        if isinstance(pl_module, ShowsImages):
            self._write(trainer, "step", interleave(pl_module.example_images(first), self.columns, captions=True))
        if isinstance(pl_module, ShowsSignals):
            self._write(trainer, "step", drawn(plot_signals(pl_module.example_signals(first))))

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw the statistics of the codes and the confusion matrix; all ranks take part in the sum of the counts."""
        if trainer.sanity_checking:
            return
        codes = pl_module.code_counts() if isinstance(pl_module, CountsCodes) else None
        histograms = pl_module.code_histograms() if isinstance(pl_module, ComparesCodes) else {}
        counts = pl_module.confusion_counts() if isinstance(pl_module, CountsConfusion) else None
        if not trainer.is_global_zero:
            return
        if codes is not None:
            self._write(trainer, "codes", histogram(codes))
            log_histogram(trainer.loggers, "samples/uses_per_code", codes, logged_step(trainer))
        if codes is not None and isinstance(pl_module, ComparesCodes):
            images = pl_module.top_code_images(self.first, codes)
            self._write(trainer, "top", interleave(images, self.columns, captions=True))
        if histograms:
            self._write(trainer, "statistics", drawn(draw_statistics(histograms)))
        if counts is not None:
            self._write(trainer, "confusion", confusion(counts))
            rows = [[row, column, int(counts[row, column])] for row, column in counts.nonzero().tolist()]
            columns = ["class", "prediction", "count"]
            log_table(trainer.loggers, "samples/confusion_counts", columns, rows, logged_step(trainer))

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.sanity_checking or not trainer.is_global_zero or not isinstance(pl_module, HasTopics):
            return
        topics = pl_module.topic_table()
        self._write(trainer, "topics", drawn(bars(topics)))
        for name, text in ((f"topics_{trainer.global_step:06d}.csv", as_csv(topics)), ("map.html", topic_map(topics))):
            with write_atomic(Path(trainer.default_root_dir) / "samples" / name) as file:
                file.write(text.encode())
        columns, rows = topics.table()
        log_table(trainer.loggers, "samples/topic_words", columns, rows, logged_step(trainer))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero:
            write_gif(Path(trainer.default_root_dir) / "samples")
        if trainer.is_global_zero and isinstance(pl_module, HasTopics):
            rank_zero_info(as_text(pl_module.topic_table()))

    def _write(self, trainer: Trainer, name: str, image: Tensor) -> None:
        path = Path(trainer.default_root_dir) / "samples" / f"{name}_{trainer.global_step:06d}.png"
        with write_atomic(path) as file:
            save_image(image, file, format="png")
        log_image(trainer.loggers, f"samples/{name}", image, logged_step(trainer))


def write_gif(folder: Path) -> None:
    """Write ``steps.gif`` from at most ``FRAMES`` of the pictures ``step_NNNNNN.png``, two or more, in ``folder``."""
    paths = sorted(folder.glob("step_*.png"))
    if len(paths) < 2:
        return
    chosen = sorted({round(i * (len(paths) - 1) / (FRAMES - 1)) for i in range(FRAMES)})
    frames = []
    for path in (paths[i] for i in chosen):
        picture = Image.open(path).convert("RGB")
        frame = Image.new("RGB", (picture.width, picture.height + CAPTION), "white")
        frame.paste(picture, (0, CAPTION))
        step = int(path.stem.removeprefix("step_"))
        ImageDraw.Draw(frame).text((CAPTION, CAPTION / 2), f"step {step:,}", "black", FONT, anchor="lm")
        frames.append(frame)
    same = [frame for frame in frames if frame.size == frames[-1].size]
    with write_atomic(folder / "steps.gif") as file:
        times = [FRAME_TIME] * (len(same) - 1) + [4 * FRAME_TIME]  # the last one stays
        same[0].save(file, format="gif", save_all=True, append_images=same[1:], duration=times, loop=0)


def logged_step(trainer: Trainer) -> int:
    """Return the step of this validation in the loggers, which count from 0."""
    return max(0, trainer.global_step - 1)


def interleave(images: dict[str, Tensor], columns: int, captions: bool = False) -> Tensor:
    """Arrange images (B, C, H, W) in [0, 1] by name in one image (3, H, W): a row per name, with its caption."""
    rows = torch.stack([p.detach().float().cpu() for p in images.values()])  # (R, B, C, H, W)
    factor = max(1, -(-MIN_TILE // rows.shape[-1]))
    bands = []
    for part in rows.split(columns, dim=1):
        tiles = F.interpolate(part.flatten(0, 1), scale_factor=float(factor), mode="nearest")
        band = make_grid(tiles, nrow=part.shape[1], padding=PAD, pad_value=1.0)
        if captions:
            names = [F.pad(caption(name, tiles.shape[2]), (0, 0, PAD, 0), value=1.0) for name in images]
            band = torch.cat([F.pad(torch.cat(names, dim=1), (0, 0, 0, PAD), value=1.0), band], dim=2)
        bands.append(band)
    width = max(band.shape[2] for band in bands)
    return torch.cat([F.pad(band, (0, width - band.shape[2], 0, PAD), value=1.0) for band in bands], dim=1)


def caption(name: str, height: int) -> Tensor:
    """Return ``name``, rotated by 90 degrees, as an image (3, height, CAPTION) in [0, 1]."""
    image = Image.new("RGB", (height, CAPTION), "white")
    ImageDraw.Draw(image).text((height / 2, CAPTION / 2), name, "black", FONT, anchor="mm")
    return to_tensor(image.rotate(90, expand=True))


def plot_signals(signals: dict[str, Tensor]) -> Figure:
    """Plot ``input`` and ``reconstruction`` (B, C, L), their difference, and ``indices`` (B, l, ...).

    The first channel of the first signals is shown; the color of a bar is the code index.
    """
    x, x_hat = (signals[name][:ROWS, 0].float().cpu() for name in ("input", "reconstruction"))
    codes = signals["indices"][:ROWS].cpu()
    figure = Figure(figsize=(10, 2.4 * len(x)), dpi=100, layout="constrained")
    grid = figure.subplots(2 * len(x), 1, sharex=True, squeeze=False, height_ratios=[6, 1] * len(x))[:, 0]
    margin = 0.1 * max(float(x.max() - x.min()), 1e-6)
    for row, (signal, strip) in enumerate(zip(grid[::2], grid[1::2], strict=True)):
        difference = x_hat[row] - x[row]
        signal.plot(x[row], color="0.55", linewidth=2, label="original")
        signal.plot(x_hat[row], color="tab:blue", linewidth=1, label="reconstruction")
        signal.plot(difference, color="tab:red", linewidth=0.7, alpha=0.8, label="difference")
        rms = difference.square().mean().sqrt()
        signal.set_title(f"root mean square of the difference {rms:.3f}", fontsize=8, loc="left")
        signal.set(ylim=(float(x.min()) - margin, float(x.max()) + margin), xmargin=0)
        extent = (0, x.shape[-1], 0, 1)
        raster = codes[row].reshape(codes.shape[1], -1).T
        strip.imshow(
            raster,
            aspect="auto",
            interpolation="nearest",
            extent=extent,
            cmap="twilight",
            vmin=0,
            vmax=max(1, int(codes.max())),
        )
        strip.set(yticks=[], ylabel="codes")
    grid[0].legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=3, frameon=False, fontsize=8)
    grid[-1].set_xlabel("sample")
    return figure


def histogram(counts: Tensor) -> Tensor:
    """Plot the sorted use of the codes, (K,) counts, on logarithmic axes; return an image (3, H, W) in [0, 1].

    A collapsed codebook is a narrow bar at the left; the unused codes are shaded.
    """
    sorted_counts = counts.double().cpu().sort(descending=True).values
    size, used, total = len(counts), int((counts > 0).sum()), max(float(counts.sum()), 1)
    perplexity = float(torch.special.entr(sorted_counts / total).sum().exp()) if used else 0.0
    figure = Figure(figsize=(6, 3), dpi=100, layout="constrained")
    axes = figure.subplots()
    axes.stairs(sorted_counts.clamp_min(LEAST), torch.arange(1, size + 2), baseline=LEAST, fill=True)
    axes.axhline(max(total / size, LEAST), color="black", linewidth=1, linestyle="--", label="uniform use")
    if used < size:
        axes.axvspan(used + 1, size + 1, color="tab:red", alpha=0.15, linewidth=0, label=f"{size - used:,} unused")
    axes.set(xscale="log", yscale="log", xlabel="code, most used first", ylabel="times used")
    axes.set(xlim=(1, size + 1), ylim=(LEAST, 3 * max(float(sorted_counts[0]), 1)))
    title = f"{used:,} of {size:,} codes used on the validation set, perplexity {perplexity:,.1f}"
    axes.set_title(title, fontsize=10)
    axes.legend(frameon=False, loc="upper right", ncols=2)
    return drawn(figure)


def confusion(counts: Tensor) -> Tensor:
    """Draw the confusion matrix, (K, K) counts (rows: class, columns: prediction); return an image in [0, 1]."""
    fractions = counts.float().cpu() / counts.sum(1, keepdim=True).clamp_min(1).cpu()
    size = len(fractions)
    side = 1 + 0.45 * min(max(size, 8), FEW)  # inches
    figure = Figure(figsize=(side, side), dpi=100, layout="constrained")
    axes = figure.subplots()
    axes.imshow(fractions, cmap="Blues", vmin=0, vmax=1)
    accuracy = counts.diagonal().sum() / counts.sum().clamp_min(1)
    axes.set(xlabel="prediction", ylabel="class", title=f"accuracy {float(accuracy):.2%}")
    for row, column in counts.nonzero().tolist() if size <= FEW else []:
        color = "white" if fractions[row, column] > 0.5 else "black"
        axes.text(column, row, str(int(counts[row, column])), ha="center", va="center", fontsize=8, color=color)
    return drawn(figure)


def drawn(figure: Figure) -> Tensor:
    """Return a figure as an image (3, H, W) in [0, 1]."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return to_tensor(Image.open(buffer).convert("RGB"))
