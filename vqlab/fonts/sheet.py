"""Glyphs side by side with what they were drawn from, to look at."""

from collections.abc import Iterator, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

COLUMNS, ROWS = 20, 10
LEAST_SIDE = 64  # pixels; smaller glyphs are enlarged by whole factors
GAP, LABEL = 6, 14  # pixels between characters, and for the code point above each


def sheets(source: np.ndarray, drawn: np.ndarray, characters: Sequence[int]) -> Iterator[Image.Image]:
    """Yield sheets of up to 200 characters: code point, source, and below it what was drawn.

    Args:
        source: (N, S, S) uint8: 0 is ink, 255 paper.
        drawn: The same of what was drawn.
        characters: Their N code points.

    Example:
        >>> paper = np.full((3, 64, 64), 255, np.uint8)
        >>> [sheet.size for sheet in sheets(paper, paper, [0x41, 0x42, 0x43])]
        [(216, 148)]
    """
    pairs = np.concatenate([source, drawn], 1)
    factor = max(1, -(-LEAST_SIDE // source.shape[-1]))
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
