"""The checkpoints that come with the package."""

from pathlib import Path

__all__ = ["SHIPPED", "SMALL", "demo_path"]

_HERE = Path(__file__).parent

# Kinds of which a small one ships, trained by `nfcot compare` (seed 0): for looking at, not strong.
SMALL = ("regressed", "dual", "pause", "coconut", "codi", "looped")

# By the names that commands accept in place of a folder: the demo model, its controls, small ones.
SHIPPED = {
    "demo": _HERE / "demo",
    "demo-text": _HERE / "controls" / "text",
    "demo-direct": _HERE / "controls" / "direct",
    **{f"small-{kind}": _HERE / "small" / kind for kind in SMALL},
}


def demo_path() -> Path:
    """Where is the trained demo checkpoint (both worlds, one model)?"""
    return SHIPPED["demo"]
