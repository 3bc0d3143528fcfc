"""Plain data across a process boundary: what is sent, does what comes back equal what is expected?

What comes back was written by the process of the answer, so it may be any JSON tree. It is compared
as it is, against the expected value: no list, dict or set is ever built from it, as a dict of keys
that all hash alike takes minutes to build.

Standard library only: the worker imports this module into its clean interpreter.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

__all__ = ["DEPTH", "decode", "encode", "same", "shown"]

DEPTH = 100  # containers within containers; far below what the recursion limit allows
_ABSENT = object()


def encode(value: Any, other: Callable[[Any], Any], depth: int = DEPTH) -> Any:
    """Which JSON tree stands for `value`?

    Exact builtin types only, so that no method of a subclass is ever consulted: None, bool, int,
    float and str stand for themselves (integers beyond 53 bits as hexadecimal), list and tuple
    become lists, a dict becomes its pairs. Anything else, and a container below more than `depth`
    others, is `other(value)`.
    """
    kind = type(value)
    if value is None or kind is bool or kind is str or kind is float:
        return value
    if kind is int:
        return value if -(1 << 53) < value < 1 << 53 else {"int": hex(value)}
    if depth > 0:
        depth -= 1
        if kind is list or kind is tuple:
            return [encode(item, other, depth) for item in value]
        if kind is dict:
            pairs = value.items()
            return {"dict": [[encode(k, other, depth), encode(v, other, depth)] for k, v in pairs]}
    return other(value)


def decode(tree: Any) -> Any:
    """Which value does a JSON tree stand for that `encode` made of plain data?

    A tuple comes back as a list. For trees of our own making only: see the head of this module.
    """
    if isinstance(tree, list):
        return [decode(item) for item in tree]
    if isinstance(tree, dict) and "dict" in tree:
        return {_key(k): decode(v) for k, v in tree["dict"]}
    return _scalar(tree)


def same(tree: Any, expected: Any) -> bool:
    """Does the value that an untrusted JSON tree stands for equal the expected one?

    A tuple equals a list of equal items. A bool equals only a bool. An int equals a float of the
    same value; where a float is involved a relative error of 1e-9 (absolute 1e-12) is forgiven,
    and NaN equals NaN. Dicts need the same keys, in any order.

    Sizes are compared first and keys are looked up in the expected dict, so the work is bounded by
    the size of `expected` and of the scalars it is compared with, whatever the tree holds. Raises
    ValueError or TypeError for a tree that `encode` never makes, where one is met.
    """
    if isinstance(expected, dict):
        return _same_dict(tree, expected)
    if isinstance(expected, (list, tuple)):
        if not isinstance(tree, list) or len(tree) != len(expected):
            return False
        return all(map(same, tree, expected))
    value = _scalar(tree)
    if isinstance(value, bool) or isinstance(expected, bool):
        return value is expected
    if isinstance(value, (int, float)) and isinstance(expected, (int, float)):
        return _same_number(value, expected)
    return type(value) is type(expected) and value == expected


def _same_dict(tree: Any, expected: dict[Any, Any]) -> bool:
    pairs = tree.get("dict") if isinstance(tree, dict) else None
    if not isinstance(pairs, list) or len(pairs) != len(expected):
        return False
    left = dict(expected)
    for key, value in pairs:
        found = left.pop(_key(key), _ABSENT)
        if found is _ABSENT or not same(value, found):
            return False
    return True


def _key(tree: Any) -> Any:
    return tuple(map(_key, tree)) if isinstance(tree, list) else _scalar(tree)


def _scalar(tree: Any) -> Any:
    """The value of a tree that is no container; what equals nothing for all others."""
    if isinstance(tree, dict):
        return int(tree["int"], 16) if "int" in tree else _ABSENT
    return _ABSENT if isinstance(tree, list) else tree


def _same_number(value: float, expected: float) -> bool:
    if isinstance(value, int) and isinstance(expected, int):
        return value == expected
    try:
        a, b = float(value), float(expected)
    except OverflowError:
        return False
    return (math.isnan(a) and math.isnan(b)) or math.isclose(a, b, rel_tol=1e-9, abs_tol=1e-12)


def shown(tree: Any, most: int) -> str:
    """How does the value of an untrusted tree look in a message of at most `most` characters?"""
    text = ""
    for piece in _pieces(tree, most):
        text += piece
        if len(text) > most:
            return text[: most - 3] + "..."
    return text


def _pieces(tree: Any, most: int) -> Iterator[str]:
    """The parts of the value's `repr`, one by one, so that the reader can stop."""
    if isinstance(tree, list):
        yield from _joined("[]", ((item,) for item in tree), most)
    elif isinstance(tree, dict) and "dict" in tree:
        yield from _joined("{}", ((key, value) for key, value in tree["dict"]), most)
    elif isinstance(tree, dict) and ("tuple" in tree or "set" in tree):
        kind, brackets = ("tuple", "()") if "tuple" in tree else ("set", "{}")
        yield from _joined(brackets, ((item,) for item in tree[kind]), most)
    elif isinstance(tree, dict) and "complex" in tree:
        yield repr(complex(*tree["complex"]))
    elif isinstance(tree, dict) and "bytes" in tree:
        yield repr(bytes.fromhex(tree["bytes"][: 2 * most]))
    elif isinstance(tree, dict) and "int" in tree:
        try:
            yield repr(_scalar(tree))
        except ValueError:
            yield "an int too long to print"
    elif isinstance(tree, dict):
        yield f"<{tree['opaque'][:most]}>"
    else:
        yield repr(tree[: most + 1] if isinstance(tree, str) else tree)


def _joined(brackets: str, entries: Iterator[tuple[Any, ...]], most: int) -> Iterator[str]:
    yield brackets[0]
    for number, entry in enumerate(entries):
        yield ", " if number else ""
        for place, part in enumerate(entry):
            yield ": " if place else ""
            yield from _pieces(part, most)
    yield brackets[1]
