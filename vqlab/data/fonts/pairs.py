"""Characters drawn in two fonts: training data to complete one font from the other."""

import logging
from collections.abc import Callable
from functools import cached_property, partial
from typing import Any

import matplotlib
import numpy as np
import torch
import torch.nn.functional as F
from lightning.pytorch.utilities import rank_zero_info
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor
from torch.utils.data import DataLoader

from vqlab.data.datamodule import Batch, Split, SplitDataModule, ValFraction, Workers, check_fractions
from vqlab.data.fonts.charsets import read_charset
from vqlab.data.fonts.glyphs import FLAWS, OUTSIDE, USABLE, Glyphs, draw_glyphs
from vqlab.data.images.base import to_float
from vqlab.errors import UserError
from vqlab.fonts.draw import EmScale, ImageSize
from vqlab.fonts.font import Font
from vqlab.fonts.font_file import is_wide
from vqlab.nn import ValueRange
from vqlab.training.data_format import Format
from vqlab.validation import Count, NonNegativeInt, Probability

EMBEDDED = ("DejaVuSans.ttf", "DejaVuSerif.ttf")  # of matplotlib
WIDE_SCALE, NARROW_SCALE = 0.875, 0.75  # letters of proportional fonts extend further beyond the em than ideographs
LARGER, SHIFT = 0.08, 1 / 32  # maximum enlargement and shift of augmentation
SHARPEN = 1.25  # contrast that compensates the blur of the interpolation

log = logging.getLogger(__name__)


class GlyphPairs(Split):
    """Characters of a source font, each with its image in one of the target fonts, if any.

    ``pairs`` (N, 2) holds the code point and the position of the target font.
    """

    def __init__(self, source: Glyphs, targets: list[Glyphs] | None, pairs: np.ndarray) -> None:
        self.source, self.targets, self.pairs = source, targets, pairs
        self._rows = source.rows(pairs[:, 0])

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitems__(self, indices: list[int]) -> Batch:
        rows, pairs = self._rows[indices], torch.from_numpy(self.pairs[indices])
        batch = {
            "source": torch.from_numpy(self.source.images[rows])[:, None],
            "char": pairs[:, 0],
            "style": pairs[:, 1],
            "density": torch.from_numpy(self.source.densities[rows]),
            "index": torch.as_tensor(indices),
        }
        if self.targets is not None:
            targets = ((self.targets[style], code) for code, style in pairs.tolist())
            images = np.stack([target.images[target.rows(code)] for target, code in targets])
            batch["target"] = torch.from_numpy(images)[:, None]
        return batch


class FontPairs(SplitDataModule):
    """Characters that a source and a target font share, drawn in black on white in the same em box.

    Pairs are split by character; characters that share an outline in any font are in the same split. Characters that
    are blank, look like .notdef or extend beyond the image are left out and counted. ``predict`` gets the characters
    that the target lacks.

    Args:
        source: Font file (TTF, OTF, WOFF2) that has the characters. Default: DejaVu Sans, which comes with matplotlib.
        target: Font file to complete, or several, one per style. Default: DejaVu Serif, if ``source`` is the default.
        image_size: Height and width in pixels.
        charset: ``auto`` (all characters of the source), ascii, latin, greek, cyrillic, kana, jis1, jis2, gb1, gb2,
            big5l1, big5l2, hangul, a range like ``U+4E00-4FFF``, a text file, or a list of these.
        weight: Weight of the variable fonts. Default: that of each font.
        em_scale: Ratio of the em to the image's side. Default: 0.875 for mostly East Asian wide characters, else 0.75.
        limit: Maximum number of training characters, drawn by ``seed``. Held-out characters do not depend on it.
        val_fraction: Fraction of the characters for validation.
        test_fraction: Fraction of the characters for test; 0 for no test split.
        augment: Enlarge each training pair by up to 8 percent, and shift it by up to 1/32 of the side.
        cache: Folder for drawn images; null draws them at each start.
        batch_size: Pairs per batch and device.
        num_workers: Processes that load batches; 0 loads in the main process.
        seed: Seed of the split, of the order and of the augmentation.

    Shape:
        batch["source"], batch["target"] (not in predict) (B, 1, S, S) float32 from -1, ink, to 1, paper; batch["char"],
        code point, batch["style"], index of the target, and batch["index"], position in the split, (B,) int64;
        batch["density"] (B,) float32, mean number of ink edges on a row or column of the source.

    Example:
        >>> data = FontPairs(charset="ascii", batch_size=8, cache=None)
        >>> data.style_names, len(data.characters), data.train_size
        (['DejaVu Serif'], 94, 76)
    """

    examples = "pairs of characters"
    modality = "font"
    test_hint = "set test_fraction=0.1, or use `vqlab validate`"
    channels = 1
    pixel_range = ValueRange("signed")

    def __init__(
        self,
        source: str | None = None,
        target: str | list[str] | None = None,
        image_size: ImageSize = 64,
        charset: str | list[str] = "auto",
        weight: float | None = None,
        em_scale: EmScale | None = None,
        limit: Count | None = None,
        val_fraction: ValFraction = 0.1,
        test_fraction: Probability = 0.1,
        augment: bool = False,
        cache: str | None = "data/fonts",
        batch_size: Count = 16,
        num_workers: Workers = 0,
        seed: NonNegativeInt = 0,
    ) -> None:
        super().__init__(batch_size, num_workers, seed)
        check_fractions(val_fraction, test_fraction, self.examples)
        if source is None and target is None:
            source, target = (f"{matplotlib.get_data_path()}/fonts/ttf/{name}" for name in EMBEDDED)
        if not source or not target:
            raise UserError("source and target must be font files: set both, or none for the DejaVu fonts")
        self.source_font = Font(source, weight, "source")
        targets = [target] if isinstance(target, str) else target
        self.target_fonts = [Font(path, weight, "target") for path in targets]
        if weight is not None and not any(font.weights for font in (self.source_font, *self.target_fonts)):
            raise UserError(f"weight={weight:g} is set, but none of the fonts is a variable font: leave it out")
        self.image_size, self.augment, self.cache = image_size, augment, cache
        self.num_styles = len(self.target_fonts)
        self.style_names = [font.name for font in self.target_fonts]
        if em_scale is None:  # independent of the charset, so that it is the same in training and prediction
            shared = self.source_font.characters.keys() & self.target_fonts[0].characters.keys()
            em_scale = WIDE_SCALE if 2 * sum(map(is_wide, shared)) > len(shared) else NARROW_SCALE
        self.em_scale = em_scale
        wanted = self.source_font.characters if charset == "auto" else read_charset(charset)
        self._wanted = sorted(self.source_font.characters.keys() & set(wanted))
        if not self._wanted:
            raise UserError(f"charset must hold characters of {self.source_font.path}, got {charset}: set charset=auto")
        shared_by = [[code for code in self._wanted if code in font.characters] for font in self.target_fonts]
        self._source = self._draw(self.source_font, sorted(set().union(*shared_by)))
        self._targets = [self._draw(font, shared) for font, shared in zip(self.target_fonts, shared_by, strict=True)]
        pairs = as_pairs([sorted(self._source.having(USABLE) & target.having(USABLE)) for target in self._targets])
        characters = np.unique(pairs[:, 0])
        self.characters: list[int] = characters.tolist()
        groups = group_by_outline(characters, [self._source, *self._targets])
        split = split_groups(groups, val_fraction, test_fraction, seed)
        if limit is not None and split:
            order = torch.randperm(len(split["train"]), generator=torch.Generator().manual_seed(seed)).numpy()
            split["train"] = split["train"][order[:limit]]
        self._split = {name: pairs[np.isin(pairs[:, 0], characters[rows])] for name, rows in split.items()}
        self.train_size = len(self._split.get("train", ()))
        for font, glyphs in zip(self.target_fonts, self._targets, strict=True):
            rows = self._source.rows(glyphs.characters)
            flaws = np.where(self._source.flaws[rows] != USABLE, self._source.flaws[rows], glyphs.flaws)
            usable, *flawed = np.bincount(flaws, minlength=len(FLAWS)).tolist()
            if usable and (self._source.outlines[rows] == glyphs.outlines)[flaws == USABLE].all():
                raise UserError(f"target must be another font than source, {font.path} has the same outlines")
            left_out = ", ".join(f"{count:,} {what}" for count, what in zip(flawed, FLAWS[1:], strict=True) if count)
            found = f"{usable:,} pairs of {len(rows):,} shared characters at em_scale {self.em_scale:g}"
            rank_zero_info(f"{self.source_font.name} to {font.name}: {found}; left out {left_out or 'none'}")

    def load_split(self, split: str) -> GlyphPairs | None:
        if split == "train" and not self._split:
            found = f"{self.source_font.name} and {', '.join(self.style_names)} share {len(self.characters)} characters"
            raise UserError(f"{found} of the charset, too few to split: set charset=auto, or fonts of the same script")
        return GlyphPairs(self._source, self._targets, self._split[split]) if split in self._split else None

    def describe(self) -> Format:
        return {"styles": self.style_names, "em_scale": self.em_scale}

    def option(self, name: str, value: Any) -> str:
        return "target=FONTS, these in this order" if name == "styles" else super().option(name, value)

    def predict_dataloader(self) -> DataLoader:
        """Return the source images of all characters that a target lacks, style by style."""
        source, missing = self._missing
        if not len(missing):
            raise UserError(f"{', '.join(self.style_names)} has all characters of the charset: set another charset")
        return self._in_order(GlyphPairs(source, None, missing))

    @property
    def missing(self) -> list[list[int]]:
        """Code points of the charset that the source has and the target lacks, for each style."""
        _, pairs = self._missing
        return [pairs[pairs[:, 1] == style, 0].tolist() for style in range(self.num_styles)]

    @cached_property
    def _missing(self) -> tuple[Glyphs, np.ndarray]:
        lacking = [set(self._wanted) - target.having(USABLE, OUTSIDE) for target in self._targets]
        source = self._draw(self.source_font, sorted(set().union(*lacking)))
        if outside := len(source.having(OUTSIDE)):
            log.warning(f"left out {outside:,} characters to predict, {FLAWS[OUTSIDE]}: set a smaller em_scale")
        return source, as_pairs([sorted(codes & source.having(USABLE)) for codes in lacking])

    def collate(self) -> Callable[[Batch], Batch]:
        return partial(to_float, pixel_range=self.pixel_range)

    def augmented(self, batch: Batch, generator: torch.Generator) -> Batch:
        pair = torch.cat([batch["source"], batch["target"]], 1)
        source, target = enlarge_and_shift(pair, generator).split(1, 1)
        return batch | {"source": source, "target": target}

    def _draw(self, font: Font, characters: list[int]) -> Glyphs:
        return draw_glyphs(font, characters, self.image_size, self.em_scale, self.cache)


def as_pairs(characters: list[list[int]]) -> np.ndarray:
    """Return (N, 2), code point and style of each pair, from the characters of each style."""
    pairs = [(code, style) for style, codes in enumerate(characters) for code in codes]
    return np.array(pairs, np.int64).reshape(-1, 2)


def enlarge_and_shift(images: Tensor, generator: torch.Generator) -> Tensor:
    """Enlarge images (B, C, S, S) by up to 8 percent and shift them by up to 1/32 of the side, all channels equally."""
    draw = torch.rand(3, len(images), generator=generator, device=images.device)
    scale = 1 + LARGER * draw[0]
    shift = (2 * draw[1:] - 1) * 2 * SHIFT
    place = torch.zeros(len(images), 2, 3, device=images.device)
    place[:, 0, 0] = place[:, 1, 1] = 1 / scale
    place[:, :, 2] = shift.T
    grid = F.affine_grid(place, list(images.shape), align_corners=False)
    # The zero padding of grid_sample must be paper (1).
    moved = F.grid_sample(images - 1, grid, mode="bicubic", align_corners=False).add(1)
    return moved.mul(SHARPEN).clamp(-1, 1)


def group_by_outline(characters: np.ndarray, fonts: list[Glyphs]) -> np.ndarray:
    """Return the connected components of characters, which are linked by equal outlines in any font."""
    links, nodes = [], len(characters)  # a node for each character, and one for each distinct outline of a font
    for glyphs in fonts:
        here = np.flatnonzero(np.isin(characters, glyphs.characters))
        distinct, which = np.unique(glyphs.outlines[glyphs.rows(characters[here])], return_inverse=True)
        links.append([here, nodes + which])
        nodes += len(distinct)
    starts, ends = np.concatenate(links, 1)
    graph = coo_array((np.ones(len(starts), bool), (starts, ends)), shape=(nodes, nodes))
    return connected_components(graph, directed=False)[1][: len(characters)]


def split_groups(groups: np.ndarray, val_fraction: float, test_fraction: float, seed: int) -> dict[str, np.ndarray]:
    """Return the sorted positions in each random split of whole groups; empty if there are too few groups."""
    count = int(groups.max()) + 1 if len(groups) else 0
    fractions = [fraction for fraction in (val_fraction, test_fraction) if fraction]
    if count <= len(fractions):
        return {}
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed)).numpy()
    sizes = np.bincount(groups, minlength=count)[order]
    splits: dict[str, np.ndarray] = {}
    start = 0
    for name, fraction in zip(("val", "test"), fractions, strict=False):
        wanted = max(1, round(fraction * len(groups)))
        end = start + 1 + int(np.searchsorted(np.cumsum(sizes[start:]), wanted))
        end = min(end, count - (len(fractions) - len(splits)))  # leaves at least one group for each other split
        splits[name], start = order[start:end], end
    splits["train"] = order[start:]
    return {name: np.flatnonzero(np.isin(groups, chosen)) for name, chosen in splits.items()}
