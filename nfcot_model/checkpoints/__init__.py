"""The checkpoints that come with the package."""

from pathlib import Path

__all__ = ["SHIPPED", "demo_path"]

_HERE = Path(__file__).parent

# By the names that commands accept in place of a folder: the demo model, and its controls.
SHIPPED = {
    "demo": _HERE / "demo",
    "demo-text": _HERE / "controls" / "text",
    "demo-direct": _HERE / "controls" / "direct",
}


def demo_path() -> Path:
    """Where is the trained demo checkpoint (both worlds, one model)?"""
    return SHIPPED["demo"]
