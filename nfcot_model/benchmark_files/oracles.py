"""When is an EvalPlus answer right though it differs from the reference's? Their special rules.

Tolerances and names of functions are those of EvalPlus 0.3.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from nfcot_model.sandbox.checks import Accepts, Call
from nfcot_model.sandbox.literal import close, equal, items, number

__all__ = ["NOT_NONE", "accepts_for"]

_LEAST_ATOL = 1e-6
NOT_NONE = frozenset({"check_str", "text_match_three", "text_starta_endb"})
"""Functions whose value matters only in being None or not: a match object, mostly."""

_SAME_SET = frozenset(
    {
        "similar_elements",
        "find_char_long",
        "common_in_nested_lists",
        "extract_singly",
        "larg_nnum",
        "intersection_array",
        "find_dissimilar",
        "Diff",
    }
)


def accepts_for(entry_point: str, atol: float) -> Accepts:
    """The rule of one function, by its name; near enough (`atol`) is right for all others."""

    def near(tree: Any, call: Call) -> bool:
        if atol == 0:
            return _floats(call.expected) and close(tree, call.expected, _LEAST_ATOL)
        return close(tree, call.expected, atol)

    if entry_point in NOT_NONE:
        return _is_something
    if entry_point in _SAME_SET:
        return _same_items
    if entry_point == "find_zero":
        return lambda tree, call: _is_root(tree, call, atol)
    special = _SPECIAL.get(entry_point)
    if special is None:
        return near
    return lambda tree, call: special(tree, call) or near(tree, call)


def _floats(expected: Any) -> bool:
    """The values that EvalPlus compares with a tolerance though the task names none."""
    many = isinstance(expected, (list, tuple)) and expected
    return all(isinstance(v, float) for v in (expected if many else [expected]))


def _is_something(tree: Any, call: Call) -> bool:
    return not isinstance(tree, bool) and (tree is not None) is call.expected


def _same_items(tree: Any, call: Call) -> bool:
    """The same items, in any order and number."""
    found, expected = items(tree), list(call.expected)
    if found is None or len(found) > 10 * len(expected) + 10:
        return False
    return all(any(equal(item, wanted) for wanted in expected) for item in found) and all(
        any(equal(item, wanted) for item in found) for wanted in expected
    )


def _is_root(tree: Any, call: Call, atol: float) -> bool:
    """The found zero of a polynomial, given by its coefficients, is one."""
    x = number(tree)
    if x is None or not math.isfinite(x):
        return False
    try:
        value = sum(c * math.pow(x, i) for i, c in enumerate(call.args[0]))
    except OverflowError:
        return False
    return abs(value) <= atol


def _zero(tree: Any, call: Call) -> bool:
    return equal(tree, 0)


def _pyramid(tree: Any, call: Call) -> bool:
    """With the height taken from the apex straight down."""
    side, height = call.args
    area = side**2 + 2 * side * math.sqrt((side / 2) ** 2 + height**2)
    return equal(tree, round(area))


def _digits(tree: Any, call: Call) -> bool:
    """Digits compared place by place, the shorter number filled with zeros."""
    left, right = map(str, call.args)
    width = max(len(left), len(right))
    pairs = zip(left.zfill(width), right.zfill(width), strict=True)
    return equal(tree, sum(abs(int(a) - int(b)) for a, b in pairs))


_SPECIAL: dict[str, Callable[[Any, Call], bool]] = {
    "are_equivalent": lambda tree, call: True,
    "sum_div": _zero,
    "surface_Area": _pyramid,
    "digit_distance_nums": _digits,
}
