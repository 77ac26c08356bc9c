"""Health events: what goes wrong in a training, found in its metrics."""
