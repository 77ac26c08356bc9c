"""What ``vqlab predict`` makes of a FontGAN: sheets to look at, steps between styles, and completed font files."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_info
from PIL import Image

from vqlab.errors import UserError
from vqlab.fonts.font_file import check_completion, write_font
from vqlab.fonts.sheet import sheets
from vqlab.training.checkpoint_io import write_atomic

SHEETS = "sheets"  # folder in the run's
SHOWN, STEPS = 8, 8  # characters in the picture between styles, and pictures from one style to the next


def check_font(data: Any, font: str | None, family: str | None) -> dict[int, Path]:
    """Return the font file of each style, before hours are spent on its glyphs; none if none is asked for.

    Raises:
        UserError: If the data are no fonts, or a file cannot become what is asked for.
    """
    if font is None:
        return {}
    if data.modality != "font":
        raise UserError(f"--font is for glyphs, and {type(data).__name__} has {data.modality}s: leave it out")
    path = Path(font)
    files = {0: path}
    if data.num_styles > 1:
        files = {style: path.with_stem(f"{path.stem}-{slug(data, style)}") for style in range(data.num_styles)}
    for style, file in files.items():
        check_completion(data.target_fonts[style], file, family)
    return files


def write_glyphs(
    model: Any, data: Any, arrays: Mapping[str, torch.Tensor], folder: Path, fonts: dict[int, Path], family: str | None
) -> None:
    """Write what a model drew of the characters that fonts lack: sheets into ``folder``, and font files.

    Args:
        model: The FontGAN.
        data: Its FontPairs.
        arrays: ``source`` and ``glyph`` (N, S, S) uint8, ``char`` and ``style`` (N,).
        folder: The run's folder.
        fonts: Font file by style.
        family: Name of the new family; None is the target's with "vqlab".

    Raises:
        UserError: If a file cannot be written, or all glyphs are blank.
    """
    folder, shown = folder / SHEETS, {name: array.numpy() for name, array in arrays.items()}
    for style in range(data.num_styles):
        source, drawn, codes = (shown[name][shown["style"] == style] for name in ("source", "glyph", "char"))
        for number, sheet in enumerate(sheets(source, drawn, codes.tolist()), start=1):
            save(sheet, folder / f"{slug(data, style)}_{number:03d}.png")
        if style in fonts:
            target, bitmaps = data.target_fonts[style], dict(zip(codes.tolist(), drawn, strict=True))
            written = write_font(
                target.path, bitmaps, fonts[style], data.source_font, family, data.em_scale, target.weight
            )
            rank_zero_info(f"{fonts[style]}: {target.name} with {len(written):,} characters more")
    if data.num_styles > 1:
        save(Image.fromarray(between_styles(model, shown["source"])), folder / "between_styles.png")
    rank_zero_info(f"{folder}: {len(shown['char']):,} characters, each below its source")


def between_styles(model: Any, source: np.ndarray) -> np.ndarray:
    """Return some glyphs, from style to style and back to the first, as one picture (H, W) uint8."""
    chosen = source[np.linspace(0, len(source) - 1, min(SHOWN, len(source))).astype(int)]
    images = model.value_range.encode(torch.from_numpy(chosen)[:, None].div(255)).to(model.device)
    mixes = style_path(model.num_styles, STEPS).to(model.device)
    columns = [model.value_range.to_uint8(model.translate(images, mix.expand(len(images), -1))) for mix in mixes]
    return torch.cat([column.flatten(0, 2) for column in columns], 1).cpu().numpy()


def style_path(num_styles: int, steps: int) -> torch.Tensor:
    """Return shares of the styles, (N, num_styles), on the way from each style to the next and back to the first.

    Example:
        >>> style_path(2, 2).tolist()
        [[1.0, 0.0], [0.5, 0.5], [0.0, 1.0], [0.5, 0.5], [1.0, 0.0]]
    """
    corners = torch.eye(num_styles)
    shares = torch.arange(steps)[:, None] / steps
    ways = [torch.lerp(a, b, shares) for a, b in zip(corners, corners.roll(-1, 0), strict=True)]
    return torch.cat([*ways, corners[:1]])


def slug(data: Any, style: int) -> str:
    """Return the name of a style as part of a file's name; two of one name are told apart."""
    name = re.sub(r"\W+", "-", data.style_names[style]).strip("-")
    return f"{name}-{style}" if data.style_names.count(data.style_names[style]) > 1 else name


def save(picture: Any, path: Path) -> None:
    """Write a PNG."""
    with write_atomic(path) as file:
        picture.save(file, format="png")
