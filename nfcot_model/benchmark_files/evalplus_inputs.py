"""MBPP+ files hold JSON, which has no tuples, sets or complex numbers: which inputs were those?

The ids and shapes are those of EvalPlus 0.3 (MbppPlus v0.2.0).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

__all__ = ["restored"]

Args = Sequence[Any]


def restored(task_id: str, args: Args) -> list[Any]:
    """The arguments of one call, as the task's function is meant to get them.

    Raises ValueError or TypeError where they do not have the shape that this id should have.
    """
    number = task_id.rpartition("/")[2]
    shape = _SHAPES.get(int(number)) if number.isdigit() else None
    return list(args) if shape is None else shape(args)


def _deep(value: Any) -> Any:
    return tuple(map(_deep, value)) if isinstance(value, list) else value


def _rows(value: Any) -> list[Any]:
    return [tuple(item) for item in value]


def _first(shape: Callable[[Any], Any]) -> Callable[[Args], list[Any]]:
    return lambda args: [shape(args[0]), *args[1:]]


def _each(shape: Callable[[Any], Any]) -> Callable[[Args], list[Any]]:
    return lambda args: [shape(value) for value in args]


def _set(value: Any) -> Any:
    return set(value) if isinstance(value, list) and value else {}


_BY_SHAPE: list[tuple[Callable[[Args], list[Any]], tuple[int, ...]]] = [
    (
        _each(tuple),
        (
            *(2, 116, 132, 143, 222, 261, 273, 394, 399, 421, 424, 429, 470, 560, 579, 596, 616),
            *(630, 726, 740, 744, 809),
        ),
    ),
    (_each(_rows), (63, 64, 70, 94, 120, 237, 272, 299, 400, 409, 417, 438, 473, 614, 780)),
    (_first(_rows), (75, 413, 444, 753)),
    (lambda args: [args[0], tuple(args[1])], (106, 750)),
    (_first(lambda value: [_set(item) for item in value]), (115,)),
    (lambda args: [float(args[0]), complex(args[1])], (124,)),
    (_first(tuple), (250, 307, 405, 446, 617, 720, 763, 808)),
    (_each(lambda value: tuple(_rows(value))), (259, 401, 445)),
    (
        _each(lambda value: tuple(tuple(v) if isinstance(v, list) else v for v in value)),
        (278,),
    ),
    (_first(lambda value: {key: tuple(item) for key, item in value.items()}), (722,)),
    (_each(complex), (252,)),
    (_each(_deep), (580, 615, 791)),
]
_SHAPES = {number: shape for shape, numbers in _BY_SHAPE for number in numbers}
