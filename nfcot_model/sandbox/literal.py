"""Python's own values across a process boundary, tuples, sets and complex numbers told apart.

`values` serves the checks of problem files, which know JSON only. As there, what comes back may be
forged: it is compared with what is expected, and never built up.

Standard library only: the worker imports this module into its clean interpreter.
"""

from __future__ import annotations

import math
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Callable
from typing import Any

from nfcot_model.sandbox.values import DEPTH

__all__ = ["close", "decode", "encode", "equal", "items", "number"]

_ABSENT = object()
_DICTS = (dict, Counter, OrderedDict, defaultdict)  # equal to a dict of the same items
_RTOL = 1e-7


def encode(value: Any, other: Callable[[Any], Any], depth: int = DEPTH) -> Any:
    """Which JSON tree stands for `value`? `other(value)` for what is not plain data, or too deep.

    Exact builtin types only, so that no method of a subclass is ever consulted.
    """
    kind = type(value)
    if value is None or kind is bool or kind is str or kind is float:
        return value
    if kind is int:
        return value if -(1 << 53) < value < 1 << 53 else {"int": hex(value)}
    if kind is complex:
        return {"complex": [value.real, value.imag]}
    if kind is bytes:
        return {"bytes": value.hex()}
    if depth > 0:
        depth -= 1
        if kind is list:
            return [encode(item, other, depth) for item in value]
        if kind is tuple:
            return {"tuple": [encode(item, other, depth) for item in value]}
        if kind is set or kind is frozenset:
            return {"set": [encode(item, other, depth) for item in value]}
        if any(kind is known for known in _DICTS):
            pairs = dict.items(value)
            return {"dict": [[encode(k, other, depth), encode(v, other, depth)] for k, v in pairs]}
    return other(value)


def decode(tree: Any) -> Any:
    """Which value does a tree stand for? For trees whose source is trusted; ValueError if opaque.

    A set within a set or a key comes back frozen.
    """
    if isinstance(tree, list):
        return [decode(item) for item in tree]
    if not isinstance(tree, dict):
        return tree
    if "tuple" in tree:
        return tuple(map(decode, tree["tuple"]))
    if "set" in tree:
        return {_hashable(decode(item)) for item in tree["set"]}
    if "dict" in tree:
        return {_hashable(decode(k)): decode(v) for k, v in tree["dict"]}
    if "opaque" in tree:
        raise ValueError(f"a value of type {tree['opaque']} is not plain data")
    return _scalar(tree)


def _hashable(value: Any) -> Any:
    return frozenset(value) if isinstance(value, set) else value


def equal(tree: Any, expected: Any) -> bool:
    """Would Python's `==` hold between the value of an untrusted tree and `expected`?

    But NaN equals NaN, or no reference could pass. Raises ValueError or TypeError for a tree that
    `encode` never makes. Sets of sets are never equal.
    """
    if isinstance(expected, dict):
        return _equal_dict(tree, expected)
    if isinstance(expected, (set, frozenset)):
        found = _inside(tree, "set")
        if found is None or len(found) != len(expected):
            return False
        left = set(expected)
        for item in found:
            key = _key(item)
            if key not in left:
                return False
            left.remove(key)
        return True
    if isinstance(expected, (list, tuple)):
        found = tree if isinstance(expected, list) else _inside(tree, "tuple")
        if not isinstance(found, list) or len(found) != len(expected):
            return False
        return all(map(equal, found, expected))
    value = _scalar(tree)
    if _numeric(value) and _numeric(expected):
        return bool(value == expected or (value != value and expected != expected))
    return type(value) is type(expected) and bool(value == expected)


def _equal_dict(tree: Any, expected: dict[Any, Any]) -> bool:
    pairs = _inside(tree, "dict")
    if pairs is None or len(pairs) != len(expected):
        return False
    left = dict(expected)
    for key, value in pairs:
        found = left.pop(_key(key), _ABSENT)
        if found is _ABSENT or not equal(value, found):
            return False
    return True


def close(tree: Any, expected: Any, atol: float) -> bool:
    """Is the value of an untrusted tree of the expected one's type and numerically near it?

    Numbers, and lists or tuples of them to any depth, each within `atol` + 1e-7 · |expected|.
    """
    outer = (list, tuple, float, int, complex)
    return _kind(tree) is type(expected) and type(expected) in outer and _near(tree, expected, atol)


def _near(tree: Any, expected: Any, atol: float) -> bool:
    if isinstance(expected, (list, tuple)):
        found = items(tree)
        if found is None or len(found) != len(expected):
            return False
        return all(_near(item, wanted, atol) for item, wanted in zip(found, expected, strict=True))
    value = _scalar(tree)
    if not _numeric(value) or not _numeric(expected):
        return False
    if value == expected or (value != value and expected != expected):
        return True
    try:
        return bool(abs(value - expected) <= atol + _RTOL * abs(expected)) and _finite(expected)
    except OverflowError:
        return False


def items(tree: Any) -> list[Any] | None:
    """The trees of the items of a list or tuple; None for anything else."""
    return tree if isinstance(tree, list) else _inside(tree, "tuple")


def number(tree: Any) -> float | None:
    """The real number that a tree stands for, if it is one and fits a float."""
    value = _scalar(tree)
    if isinstance(value, complex) or not _numeric(value):
        return None
    try:
        return float(value)
    except OverflowError:
        return None


def _kind(tree: Any) -> type:
    if isinstance(tree, list):
        return list
    return tuple if _inside(tree, "tuple") is not None else type(_scalar(tree))


def _inside(tree: Any, kind: str) -> list[Any] | None:
    found = tree.get(kind) if isinstance(tree, dict) else None
    return found if isinstance(found, list) else None


def _key(tree: Any) -> Any:
    found = _inside(tree, "tuple")
    return _scalar(tree) if found is None else tuple(map(_key, found))


def _scalar(tree: Any) -> Any:
    """The value of a tree that is no container; what equals nothing for all others."""
    if not isinstance(tree, dict):
        return _ABSENT if isinstance(tree, list) else tree
    if "int" in tree:
        return int(tree["int"], 16)
    if "complex" in tree:
        real, imaginary = tree["complex"]
        return complex(real, imaginary)
    return bytes.fromhex(tree["bytes"]) if "bytes" in tree else _ABSENT


def _numeric(value: Any) -> bool:
    return isinstance(value, (bool, int, float, complex))


def _finite(value: Any) -> bool:
    return isinstance(value, int) or (math.isfinite(value.real) and math.isfinite(value.imag))
