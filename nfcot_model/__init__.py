"""NF-CoT models, worlds and traces. Nothing heavy is imported before it is asked for."""

from importlib import import_module
from typing import Any

from nfcot_model.errors import UserError

__version__ = "0.1.0"

_HOMES = {
    "Decoded": "nfcot_model.thoughts",
    "Problem": "nfcot_model.worlds",
    "Run": "nfcot_model.traces",
    "Sandbox": "nfcot_model.sandbox",
    "Scores": "nfcot_model.thoughts",
    "Thoughts": "nfcot_model.thoughts",
    "collect": "nfcot_model.traces",
    "demo_path": "nfcot_model.checkpoints",
    "list_runs": "nfcot_model.traces",
    "load_reasoner": "nfcot_model.reasoners",
    "make_world": "nfcot_model.worlds",
    "read_problems": "nfcot_model.worlds",
    "read_run": "nfcot_model.traces",
    "write_problems": "nfcot_model.worlds",
}

__all__ = ["UserError", "__version__", *_HOMES]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
