"""Autoencoders with a categorical latent code."""
