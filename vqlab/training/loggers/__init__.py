"""Loggers, and the media that they take."""
