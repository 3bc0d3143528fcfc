"""Checks of whole programs, beside those of the problem format (`worlds.problem.Check`).

They are made in Python and never written: their values need not be JSON.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

from nfcot_model.errors import UserError
from nfcot_model.sandbox.literal import encode
from nfcot_model.worlds.problem import Check

__all__ = ["Accepts", "AnyCheck", "Call", "Calls", "Number", "Observe", "Stdin"]


class Call(NamedTuple):
    """One call of an entry point and the value it must return."""

    args: Sequence[Any]
    expected: Any


Accepts = Callable[[Any, Call], bool]
"""Is a returned value right though it is not equal? Given its tree (`literal`) and the call."""


@dataclass(frozen=True)
class Calls:
    """Does a program's function return these values?

    The answer is Python source; `entry_point` is an expression, evaluated once after it has run
    (`f`, `Solution().f`). A value must equal what is expected as Python's `==` says, or be what
    `accepts` takes for right. All cases share one process and its limits, or are run `apart`: each
    has its own, and the first that ends badly ends the check. `preamble` runs before the answer,
    in the same namespace.
    """

    entry_point: str
    cases: tuple[Call, ...]
    accepts: Accepts | None = None
    apart: bool = False
    preamble: str = ""

    @cached_property
    def trees(self) -> list[Any]:
        """The arguments of each call, encoded once for all answers. Raises UserError."""
        return [encode(list(case.args), _refuse) for case in self.cases]


@dataclass(frozen=True)
class Observe:
    """What does a program's function return for these arguments? The verdict has the values."""

    entry_point: str
    inputs: tuple[Sequence[Any], ...]
    preamble: str = ""

    @cached_property
    def trees(self) -> list[Any]:
        """The arguments of each call, encoded. Raises UserError."""
        return [encode(list(args), _refuse) for args in self.inputs]


@dataclass(frozen=True)
class Stdin:
    """Does a program print these texts when it reads those?

    `cases` are (input, expected output), each run in a process of its own under the limits; the
    first that ends badly ends the check. Outputs are compared line by line without white
    space at the ends, and word by word as decimal numbers where both lines are numbers only.
    """

    cases: tuple[tuple[str, str], ...]
    preamble: str = ""


@dataclass(frozen=True)
class Number:
    """Is this number the answer? Compared as numbers: 18, 18.0 and $18.00 are one.

    The answer is what stands after ####, or a text that is a number and nothing else; with
    `anywhere` the last number of any text.
    """

    expected: str
    anywhere: bool = False


def _refuse(value: Any) -> Any:
    raise UserError(f"an argument of type {type(value).__name__} is not plain data or too deep")


AnyCheck = Check | Calls | Observe | Stdin | Number
