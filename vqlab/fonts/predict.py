"""Output of ``vqlab predict`` for a FontGAN: sheets of glyphs, and completed font files."""

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
from vqlab.fonts.font_file import check_completion, write_font

COLUMNS, ROWS = 20, 10  # of a sheet
MIN_SIDE = 64  # pixels; smaller glyphs are enlarged by whole factors
GAP, LABEL = 6, 14  # pixels between characters, and for the code point above each


def check_font(data: Any, font: str | None) -> dict[int, Path]:
    """Return the font file of each style, before hours are spent on its glyphs; empty without ``font``."""
    if font is None:
        return {}
    if data.modality != "font":
        raise UserError(f"--font is for glyphs, and {type(data).__name__} has {data.modality}s: leave it out")
    path = Path(font)
    files = {0: path}
    if data.num_styles > 1:
        files = {style: path.with_stem(f"{path.stem}-{slug(data, style)}") for style in range(data.num_styles)}
    for style, file in files.items():
        check_completion(data.target_fonts[style], file)
    return files


def write_glyphs(
    data: Any, arrays: Mapping[str, torch.Tensor], folder: Path, fonts: dict[int, Path], family: str | None
) -> None:
    """Write the glyphs generated for the characters that fonts lack: sheets into ``folder``, and font files by style.

    Shape:
        arrays["source"], arrays["glyph"] (N, S, S) uint8; arrays["char"], arrays["style"] (N,).
    """
    folder, shown = folder / "sheets", {name: array.numpy() for name, array in arrays.items()}
    for style in range(data.num_styles):
        source, drawn, codes = (shown[name][shown["style"] == style] for name in ("source", "glyph", "char"))
        for number, sheet in enumerate(sheets(source, drawn, codes.tolist()), start=1):
            with write_atomic(folder / f"{slug(data, style)}_{number:03d}.png") as file:
                sheet.save(file, format="png")
        if style in fonts:
            target, bitmaps = data.target_fonts[style], dict(zip(codes.tolist(), drawn, strict=True))
            written = write_font(
                target.path, bitmaps, fonts[style], data.source_font, family, data.em_scale, target.weight
            )
            rank_zero_info(f"{fonts[style]}: {target.name} with {len(written):,} characters more")
    rank_zero_info(f"{folder}: {len(shown['char']):,} characters, each below its source")


def sheets(source: np.ndarray, drawn: np.ndarray, characters: Sequence[int]) -> Iterator[Image.Image]:
    """Yield sheets of up to 200 ``characters``: code point, source (N, S, S) uint8, and below it the drawn glyph."""
    pairs = np.concatenate([source, drawn], 1)
    factor = max(1, -(-MIN_SIDE // source.shape[-1]))
    font = ImageFont.load_default(LABEL - 3)
    for start in range(0, len(pairs), COLUMNS * ROWS):
        page = pairs[start : start + COLUMNS * ROWS].repeat(factor, 1).repeat(factor, 2)
        height, width = page.shape[1] + LABEL, page.shape[2]
        columns = min(COLUMNS, len(page))
        rows = -(-len(page) // columns)
        sheet = Image.new("L", (columns * (width + GAP) + GAP, rows * (height + GAP)), 235)
        pen = ImageDraw.Draw(sheet)
        for place, (image, code) in enumerate(zip(page, characters[start:], strict=False)):
            row, column = divmod(place, columns)
            x, y = GAP + column * (width + GAP), row * (height + GAP)
            pen.text((x, y), f"U+{code:04X}", 60, font)
            sheet.paste(Image.fromarray(image), (x, y + LABEL))
        yield sheet


def slug(data: Any, style: int) -> str:
    """Return the name of a style as part of a file's name; equal names are numbered."""
    name = re.sub(r"\W+", "-", data.style_names[style]).strip("-")
    return f"{name}-{style}" if data.style_names.count(data.style_names[style]) > 1 else name
