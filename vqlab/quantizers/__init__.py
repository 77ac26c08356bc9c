"""Vectors to codes and back, without Lightning."""
