"""How is the process of one answer shut in before the answer runs?

Three layers, all without root: resource limits; a seccomp filter that lets only the system calls
of a computation through (Linux on x86-64 and ARM64); an audit hook that refuses files, processes,
sockets and native code, and any look at interpreter frames, where the check keeps its secret.
Without seccomp (macOS, some containers) the other two layers stand alone: an answer that breaks
out of the Python language is then held by the resource limits and the kill of its group only.

Standard library only: the worker imports this module into its clean interpreter.
"""

from __future__ import annotations

import contextlib
import os
import resource
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nfcot_model.sandbox.seccomp import die_with_parent, seccomp_installer

__all__ = ["Confinement", "drop_root", "prepare", "refuse"]

Confinement = Callable[[int], None]

_NOBODY = 65534
_REFUSED = ("open", "os.", "socket.", "subprocess.", "ctypes.", "shutil.", "pty.", "fcntl.")
_HARMLESS = frozenset({"os.putenv", "os.unsetenv"})
_INTROSPECTION = frozenset(
    {
        "gc.get_objects",
        "gc.get_referents",
        "gc.get_referrers",
        "sys._current_exceptions",
        "sys._current_frames",
        "sys._getframe",
        "sys.addaudithook",
        "sys.setprofile",
        "sys.settrace",
    }
)
_FRAMES = frozenset({"ag_frame", "cr_frame", "gi_frame", "tb_frame"})


def refuse(event: str, args: tuple[Any, ...]) -> None:
    """The audit hook: raises PermissionError for a forbidden deed, ValueError for a look inside.

    ValueError, because `namedtuple`, `typing` and `logging` ask for frames and expect it.
    """
    if event in _INTROSPECTION or (event == "object.__getattr__" and args[1] in _FRAMES):
        raise ValueError(f"{event} is closed in the sandbox")
    if event.startswith(_REFUSED) and event not in _HARMLESS:
        raise PermissionError(f"{event} is closed in the sandbox")


def drop_root() -> None:
    """Become the user nobody when started as root; a container without that user stays as is."""
    if os.geteuid() == 0:
        with contextlib.suppress(OSError):
            os.setgroups([])
            os.setgid(_NOBODY)
            os.setuid(_NOBODY)


def prepare(cpu_seconds: int, memory_mib: int, file_bytes: int) -> tuple[str, Confinement]:
    """Which layers hold here, and which call puts them on in a freshly forked child?

    Returns "seccomp" or "audit-hook" and the call. It takes the one descriptor the child keeps
    besides the null devices 0, 1, 2; it raises OSError when a layer cannot be put on.
    """
    tie = die_with_parent()
    install = _working(seccomp_installer())
    limits = [
        (resource.RLIMIT_CPU, cpu_seconds),
        (resource.RLIMIT_FSIZE, file_bytes),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NPROC, 0),
    ]
    if sys.platform.startswith("linux"):
        own = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        limits.append((resource.RLIMIT_AS, own + (memory_mib << 20)))

    def confine(kept: int) -> None:
        os.setsid()
        tie()
        os.closerange(3, kept)
        os.closerange(kept + 1, kept + 64)
        for limit, value in limits:
            resource.setrlimit(limit, (value, value))
        resource.setrlimit(resource.RLIMIT_NOFILE, (kept + 1, kept + 1))
        if install is not None and not install():
            raise OSError("the kernel refused the seccomp filter")
        sys.addaudithook(refuse)

    return ("audit-hook" if install is None else "seccomp"), confine


def _working(install: Callable[[], bool] | None) -> Callable[[], bool] | None:
    """Does the filter take, and does it stop a fork? Tried out in a child of its own."""
    if install is None:
        return None
    child = os.fork()
    if child == 0:
        code = 1
        try:
            if install():
                os.fork()
        except PermissionError:
            code = 0
        os._exit(code)
    _, status = os.waitpid(child, 0)
    return install if status == 0 else None
