"""Does a test compare values, or does it ask the answer whether it is right?

A class with `__eq__` always true would pass any `assert f(x) == 3`. Before a test source runs, its
comparisons are rewritten: plain data against an instance of a class that the answer made, with
comparison methods of its own, raises AssertionError. Two such instances may be compared freely.

What it does not stop: arithmetic methods (`f(x) - 3` where the object answers 0), chained
comparisons, and an answer that patches the functions a test calls. Where answers are adversarial,
use checks of kind `function`, whose values are compared outside the process of the answer.

Standard library only: the worker imports this module into its clean interpreter.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Iterator
from types import CodeType, WrapperDescriptorType
from typing import Any

__all__ = ["compile_test", "known_classes"]

_CONTAINERS = (list, tuple, set, frozenset)
# By id: a class of the answer may have a metaclass that claims equality with any of them.
_SCALARS = frozenset(map(id, (type(None), bool, int, float, complex, str, bytes)))
_COLLECTIONS = frozenset(map(id, (*_CONTAINERS, dict)))
_METHODS = ("__eq__", "__ne__", "__lt__", "__le__", "__gt__", "__ge__", "__contains__")
_OPERATORS: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.In: lambda left, right: left in right,
    ast.NotIn: lambda left, right: left not in right,
}
_PLACE = "\0nfcot-compare-"


def known_classes() -> dict[int, type]:
    """Which classes exist now, before any answer has run? By id, as a class may fake its hash."""
    seen: set[type] = set()
    waiting = [object]
    while waiting:
        for cls in type.__subclasses__(waiting.pop()):
            if cls not in seen:
                seen.add(cls)
                waiting.append(cls)
    return {id(cls): cls for cls in seen}


def compile_test(source: str, known: dict[int, type]) -> CodeType:
    """Which code runs the test source with its comparisons guarded? Raises SyntaxError."""
    tree = ast.fix_missing_locations(_Rewrite().visit(ast.parse(source, "<test>")))
    guarded = {_PLACE + op.__name__: _comparison(call, known) for op, call in _OPERATORS.items()}
    return _fill(compile(tree, "<test>", "exec"), guarded)


class _Rewrite(ast.NodeTransformer):
    """`a == b` becomes a call of a constant, so that an answer has no name to rebind."""

    def visit_Compare(self, node: ast.Compare) -> ast.AST:
        self.generic_visit(node)
        if len(node.ops) != 1 or type(node.ops[0]) not in _OPERATORS:
            return node
        place = ast.Constant(_PLACE + type(node.ops[0]).__name__)
        call = ast.Call(func=place, args=[node.left, node.comparators[0]], keywords=[])
        return ast.copy_location(call, node)


def _fill(code: CodeType, guarded: dict[str, Callable[[Any, Any], Any]]) -> CodeType:
    constants = tuple(
        _fill(item, guarded)
        if isinstance(item, CodeType)
        else guarded.get(item, item)
        if type(item) is str
        else item
        for item in code.co_consts
    )
    return code.replace(co_consts=constants)


def _comparison(
    compare: Callable[[Any, Any], Any], known: dict[int, type]
) -> Callable[[Any, Any], Any]:
    def guarded(left: Any, right: Any) -> Any:
        if _plain(left) != _plain(right) and (_foreign(left, known) or _foreign(right, known)):
            raise AssertionError("plain data compared with an object that defines comparison")
        return compare(left, right)

    return guarded


def _items(value: Any) -> Iterator[Any]:
    for base in _CONTAINERS:
        if issubclass(type(value), base):
            yield from base.__iter__(value)
    if issubclass(type(value), dict):
        yield from dict.keys(value)
        yield from dict.values(value)


def _plain(value: Any) -> bool:
    kind = id(type(value))
    return kind in _SCALARS or (kind in _COLLECTIONS and all(map(_plain, _items(value))))


def _foreign(value: Any, known: dict[int, type]) -> bool:
    kind = type(value)
    if id(kind) in _SCALARS:
        return False
    return any(_own(kind, method, known) for method in _METHODS) or any(
        _foreign(item, known) for item in _items(value)
    )


def _own(kind: type, method: str, known: dict[int, type]) -> bool:
    """Does the class take this method from a class of the answer? Asked without its metaclass."""
    for owner in type.__dict__["__mro__"].__get__(kind):
        if owner is object or id(owner) in known:
            return False
        body = type.__dict__["__dict__"].__get__(owner)
        if method in body:
            return type(body[method]) is not WrapperDescriptorType
    return False
