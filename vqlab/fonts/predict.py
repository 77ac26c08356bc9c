"""Output of ``vqlab predict`` for FontGAN: sheets of glyphs and completed font files."""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_info
from PIL import Image, ImageDraw, ImageFont

from vqlab.atomic_io import write_atomic
from vqlab.errors import UserError
from vqlab.fonts.font_file import make_static_truetype, write_font

COLUMNS, ROWS = 20, 10  # of a sheet
MIN_SIDE = 64  # pixels; smaller glyphs are enlarged by integer factors
GAP, LABEL = 6, 14  # pixels between characters, and height of the code point above each


def check_font(data: Any, font: str | None) -> list[Path]:
    """Return the font file to write for each style, after a check that it can be written; empty without ``font``."""
    if font is None:
        return []
    if data.modality != "font":
        raise UserError(f"--font needs glyphs, but {type(data).__name__} has {data.modality}s: leave it out")
    path = Path(font)
    stems = [f"{path.stem}-{slug(data, style)}" for style in range(data.num_styles)]
    files = [path.with_stem(stem) for stem in stems] if len(stems) > 1 else [path]
    for target, file in zip(data.target_fonts, files, strict=True):
        make_static_truetype(target, file)
    return files


def write_glyphs(
    data: Any, arrays: Mapping[str, torch.Tensor], folder: Path, fonts: list[Path], family: str | None
) -> None:
    """Write the generated glyphs of characters that the fonts lack: sheets into ``folder``, and the font files.

    Shape:
        arrays["source"], arrays["glyph"] (N, S, S) uint8; arrays["char"], arrays["style"] (N,).
    """
    folder, shown = folder / "sheets", {name: array.numpy() for name, array in arrays.items()}
    for style in range(data.num_styles):
        source, drawn, codes = (shown[name][shown["style"] == style] for name in ("source", "glyph", "char"))
        for number, sheet in enumerate(sheets(source, drawn, codes.tolist()), start=1):
            with write_atomic(folder / f"{slug(data, style)}_{number:03d}.png") as file:
                sheet.save(file, format="png")
        if fonts:
            font, bitmaps = data.target_fonts[style], dict(zip(codes.tolist(), drawn, strict=True))
            written = write_font(font.path, bitmaps, fonts[style], data.source_font, family, data.em_scale, font.weight)
            rank_zero_info(f"{fonts[style]}: {font.name} with {len(written):,} new characters")
    rank_zero_info(f"{folder}: {len(shown['char']):,} characters, each below its source")


def sheets(source: np.ndarray, drawn: np.ndarray, characters: Sequence[int]) -> Iterator[Image.Image]:
    """Yield sheets of up to 200 ``characters``: code point, source (N, S, S) uint8, and below it the drawn glyph."""
    pairs = np.concatenate([source, drawn], 1)
    factor = max(1, -(-MIN_SIDE // source.shape[-1]))
    font = ImageFont.load_default(LABEL - 3)
    for start in range(0, len(pairs), COLUMNS * ROWS):
        page = pairs[start : start + COLUMNS * ROWS].repeat(factor, 1).repeat(factor, 2)
        height, width = page.shape[1] + LABEL, page.shape[2]
        columns, rows = min(COLUMNS, len(page)), -(-len(page) // COLUMNS)
        sheet = Image.new("L", (columns * (width + GAP) + GAP, rows * (height + GAP)), 235)
        pen = ImageDraw.Draw(sheet)
        for place, (image, code) in enumerate(zip(page, characters[start:], strict=False)):
            row, column = divmod(place, columns)
            x, y = GAP + column * (width + GAP), row * (height + GAP)
            pen.text((x, y), f"U+{code:04X}", 60, font)
            sheet.paste(Image.fromarray(image), (x, y + LABEL))
        yield sheet


def slug(data: Any, style: int) -> str:
    """Return the name of a style for file names; equal names are numbered."""
    name = re.sub(r"\W+", "-", data.style_names[style]).strip("-")
    return f"{name}-{style}" if data.style_names.count(data.style_names[style]) > 1 else name
