"""Plain data across a process boundary: what is sent, what is read back, when are two equal?

Standard library only: the worker imports this module into its clean interpreter.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

__all__ = ["Opaque", "decode", "encode", "same"]


@dataclass(frozen=True)
class Opaque:
    """A returned value that is no plain data; equal to no expected value."""

    type_name: str

    def __repr__(self) -> str:
        return f"<{self.type_name}>"


def encode(value: Any, other: Callable[[Any], Any]) -> Any:
    """Which JSON tree stands for `value`?

    Exact builtin types only, so that no method of a subclass is ever consulted: None, bool, int,
    float and str stand for themselves (integers beyond 53 bits as hexadecimal), list and tuple
    become lists, a dict becomes its pairs. Anything else is `other(value)`.
    """
    kind = type(value)
    if value is None or kind is bool or kind is str or kind is float:
        return value
    if kind is int:
        return value if -(1 << 53) < value < 1 << 53 else {"int": hex(value)}
    if kind is list or kind is tuple:
        return [encode(item, other) for item in value]
    if kind is dict:
        return {"dict": [[encode(k, other), encode(v, other)] for k, v in value.items()]}
    return other(value)


def decode(tree: Any) -> Any:
    """Which value does a JSON tree made by `encode` stand for?

    A tuple comes back as a list. Raises ValueError or TypeError for a tree `encode` never makes.
    """
    if isinstance(tree, list):
        return [decode(item) for item in tree]
    if not isinstance(tree, dict):
        return tree
    ((tag, body),) = tree.items()
    if tag == "int":
        return int(body, 16)
    if tag == "dict":
        return {_key(decode(k)): decode(v) for k, v in body}
    if tag == "opaque":
        return Opaque(str(body))
    raise ValueError(f"unknown tag {tag!r}")


def _key(value: Any) -> Any:
    return tuple(map(_key, value)) if isinstance(value, list) else value


def same(value: Any, expected: Any) -> bool:
    """Does a returned value equal the expected one?

    A tuple equals a list of equal items. A bool equals only a bool. An int equals a float of the
    same value; where a float is involved a relative error of 1e-9 (absolute 1e-12) is forgiven,
    and NaN equals NaN. Dicts need the same keys, in any order.
    """
    if isinstance(value, bool) or isinstance(expected, bool):
        return value is expected
    if isinstance(value, (int, float)) and isinstance(expected, (int, float)):
        return _same_number(value, expected)
    if isinstance(value, (list, tuple)) and isinstance(expected, (list, tuple)):
        return len(value) == len(expected) and all(map(same, value, expected))
    if isinstance(value, dict) and isinstance(expected, dict):
        return value.keys() == expected.keys() and all(same(value[k], expected[k]) for k in value)
    return type(value) is type(expected) and value == expected


def _same_number(value: float, expected: float) -> bool:
    if isinstance(value, int) and isinstance(expected, int):
        return value == expected
    try:
        a, b = float(value), float(expected)
    except OverflowError:
        return False
    return (math.isnan(a) and math.isnan(b)) or math.isclose(a, b, rel_tol=1e-9, abs_tol=1e-12)
