"""The checkpoints that come with the package."""

from pathlib import Path

__all__ = ["demo_path"]


def demo_path() -> Path:
    """Where is the trained demo checkpoint (both worlds, one model)?"""
    return Path(__file__).parent / "demo"
