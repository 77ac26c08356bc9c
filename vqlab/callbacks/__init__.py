"""What happens around the training steps of every model."""
