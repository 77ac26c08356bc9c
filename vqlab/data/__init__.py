"""Data: one DataModule per source."""
