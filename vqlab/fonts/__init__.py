"""Fonts: outlines out of font files, grey images of them, and grey images back into font files."""
