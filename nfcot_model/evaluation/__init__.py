"""Held-out figures of a model: pass rates, decoding, likelihood, and controls."""
