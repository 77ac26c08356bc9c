"""Networks of topic models."""
