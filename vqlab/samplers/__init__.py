"""Samplers, in plain torch."""
