"""Pairs of glyphs."""
