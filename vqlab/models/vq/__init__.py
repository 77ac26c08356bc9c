"""Autoencoders with a quantizer."""
