"""Held-out figures of a model: pass rates, decoding, likelihood, and controls."""

SWAP_TAU = 0.7
"""At which thought temperature are thoughts zeroed, shuffled and donated?"""
