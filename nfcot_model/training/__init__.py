"""Training: codec, warmup, joint."""
