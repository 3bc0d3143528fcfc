"""Which system calls may an answer make? Those of a computation, and no others (Linux).

Standard library only: the worker imports this module into its clean interpreter.
"""

from __future__ import annotations

import ctypes
import os
import signal
import struct
import sys
from collections.abc import Callable

__all__ = ["die_with_parent", "seccomp_installer"]

_PR_SET_PDEATHSIG, _PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 1, 22, 38
_MODE_FILTER = 2
_RET_ALLOW, _RET_EPERM, _RET_KILL = 0x7FFF0000, 0x00050001, 0x80000000
_LOAD, _JUMP_EQUAL, _RETURN = 0x20, 0x15, 0x06

_AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
# name: (x86_64, aarch64). No open, stat, socket, clone, execve, kill, ptrace, prlimit, sigaction.
_ALLOWED = {
    "read": (0, 63),
    "write": (1, 64),
    "close": (3, 57),
    "fstat": (5, 80),
    "lseek": (8, 62),
    "mmap": (9, 222),
    "mprotect": (10, 226),
    "munmap": (11, 215),
    "brk": (12, 214),
    "rt_sigprocmask": (14, 135),
    "rt_sigreturn": (15, 139),
    "sched_yield": (24, 124),
    "mremap": (25, 216),
    "madvise": (28, 233),
    "nanosleep": (35, 101),
    "getpid": (39, 172),
    "exit": (60, 93),
    "gettimeofday": (96, 169),
    "getrusage": (98, 165),
    "times": (100, 153),
    "getppid": (110, 173),
    "sigaltstack": (131, 132),
    "gettid": (186, 178),
    "futex": (202, 98),
    "clock_gettime": (228, 113),
    "clock_getres": (229, 114),
    "clock_nanosleep": (230, 115),
    "exit_group": (231, 94),
    "getrandom": (318, 278),
}


def _program(machine: str) -> bytes:
    """The classic BPF program: another architecture is killed, an unlisted call gets EPERM."""
    column = list(_AUDIT_ARCH).index(machine)
    numbers = [pair[column] for pair in _ALLOWED.values()]
    instructions = [
        (_LOAD, 0, 0, 4),
        (_JUMP_EQUAL, 1, 0, _AUDIT_ARCH[machine]),
        (_RETURN, 0, 0, _RET_KILL),
        (_LOAD, 0, 0, 0),
    ]
    for left, number in zip(range(len(numbers), 0, -1), numbers, strict=True):
        instructions.append((_JUMP_EQUAL, left, 0, number))
    instructions += [(_RETURN, 0, 0, _RET_EPERM), (_RETURN, 0, 0, _RET_ALLOW)]
    return b"".join(struct.pack("HBBI", *instruction) for instruction in instructions)


class _Filter(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("program", ctypes.c_char_p))


def seccomp_installer() -> Callable[[], bool] | None:
    """Which call shuts the calling process in? None where the platform has no seccomp filter.

    The filter cannot be taken off again and passes to every descendant. The call says whether the
    kernel took it, so a caller must not go on when it returns False.
    """
    machine = os.uname().machine
    if not sys.platform.startswith("linux") or machine not in _AUDIT_ARCH:
        return None
    program = _program(machine)
    block = _Filter(len(program) // 8, program)
    address = ctypes.addressof(block)
    prctl = _prctl()

    def install() -> bool:
        _ = block
        return (
            prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
            and prctl(_PR_SET_SECCOMP, _MODE_FILTER, address, 0, 0) == 0
        )

    return install


def die_with_parent() -> Callable[[], None]:
    """Which call ties a child of this process to it, so that it dies when this one does?

    Also when this one was gone before the child came to make the call. Does nothing outside Linux.
    """
    if not sys.platform.startswith("linux"):
        return lambda: None
    prctl, parent, parent_of, leave = _prctl(), os.getpid(), os.getppid, os._exit

    def tie() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if parent_of() != parent:
            leave(1)

    return tie


def _prctl() -> Callable[..., int]:
    prctl = ctypes.CDLL(None).prctl
    prctl.argtypes = (ctypes.c_int, *[ctypes.c_ulong] * 4)
    prctl.restype = ctypes.c_int
    return prctl
