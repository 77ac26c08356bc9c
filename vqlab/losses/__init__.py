"""Losses of the papers, in plain torch: adversarial, adaptive weight, perceptual."""
