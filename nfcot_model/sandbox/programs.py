"""What does a whole program return or print? Runs in the process that is thrown away afterwards.

Standard library only: the worker imports this module into its clean interpreter.
"""

from __future__ import annotations

import builtins
import contextlib
import io
import sys
from collections.abc import Callable
from typing import Any

from nfcot_model.sandbox.literal import decode, encode

__all__ = ["run_calls", "run_stdin"]

_SPARE = 1 << 20
Describe = Callable[[BaseException], str]
Opaque = Callable[[Any], dict[str, str]]


def run_calls(
    job: dict[str, Any], namespace: dict[str, Any], describe: Describe, opaque: Opaque
) -> dict[str, Any]:
    """The trees of what the entry point returns, and which case ended it, if one did.

    `error` comes first in a report: the worker reads no further than that.
    """
    spare = bytes(_SPARE)
    values: list[Any] = []
    case = None
    try:
        exec(compile(job["preamble"], "<preamble>", "exec"), namespace)
        exec(compile(job["answer"], "<answer>", "exec"), namespace)
        call = eval(compile(job["entry_point"], "<entry point>", "eval"), namespace)
        for number, args in enumerate(job["cases"], start=1):
            case = number
            values.append(encode(call(*decode(args)), opaque))
    except BaseException as error:
        del spare
        return {"error": describe(error), "values": values, "case": case}
    return {"error": None, "values": values, "case": None}


def run_stdin(job: dict[str, Any], namespace: dict[str, Any], describe: Describe) -> dict[str, Any]:
    """What the program prints when it reads its one case. A call of `sys.exit` is a good end."""
    spare = bytes(_SPARE)
    printed = _Printed()
    error: str | None = None
    out = io.TextIOWrapper(printed, encoding="utf-8", errors="replace", newline="")
    source = io.TextIOWrapper(io.BytesIO(job["cases"][0].encode()), encoding="utf-8")
    sys.stdin, sys.stdout, leave = source, out, sys.exit
    namespace["__name__"] = "__main__"
    vars(builtins).update(exit=leave, quit=leave, open=_opener(source, builtins.open))
    try:
        exec(compile(job["preamble"], "<preamble>", "exec"), namespace)
        exec(compile(job["answer"], "<answer>", "exec"), namespace)
    except SystemExit:
        pass
    except BaseException as failure:
        del spare
        error = describe(failure)
    with contextlib.suppress(ValueError):  # closed by the answer: what it had written is there
        out.flush()
    return {"error": error, "output": printed.getvalue().decode(errors="replace")}


class _Printed(io.BytesIO):
    """Keeps what was written when a program closes its standard output."""

    def close(self) -> None:
        pass


def _opener(source: io.TextIOWrapper, plain: Callable[..., Any]) -> Callable[..., Any]:
    """`open` that gives standard input for 0 and /dev/stdin, as programs of contests read it."""

    def opened(file: Any, *args: Any, **kwargs: Any) -> Any:
        if file == 0 or file == "/dev/stdin":
            mode = args[0] if args else kwargs.get("mode", "r")
            return source.buffer if "b" in mode else source
        return plain(file, *args, **kwargs)

    return opened
