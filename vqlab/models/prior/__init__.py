"""The second stage: a model of a tokenizer's codes."""
