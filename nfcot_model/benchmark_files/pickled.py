"""The one string inside a pickle, without unpickling: a pickle is a program, and runs as one."""

from __future__ import annotations

import pickletools

__all__ = ["lone_string"]

_STRINGS = {"BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "UNICODE"}
_FRAMING = {"PROTO", "FRAME", "MEMOIZE", "PUT", "BINPUT", "LONG_BINPUT", "STOP"}


def lone_string(data: bytes) -> str:
    """The text of a pickle that holds one text and nothing else.

    The opcodes are read, none is carried out. Raises ValueError for any other pickle, naming the
    opcode that does not belong there, and for bytes that are none.
    """
    found: list[str] = []
    end: int | None = None
    for opcode, argument, place in pickletools.genops(data):
        if opcode.name in _STRINGS:
            found.append(str(argument))
        elif opcode.name not in _FRAMING:
            raise ValueError(f"a pickle with {opcode.name}, not of one text")
        end = place
    if len(found) != 1 or end != len(data) - 1:
        raise ValueError(f"a pickle of {len(found)} texts, not of one")
    return found[0]
