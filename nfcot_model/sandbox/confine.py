"""How is the process of one answer shut in before the answer runs?

Three layers, all without root: resource limits; a seccomp filter that lets only the system calls
of a computation through (Linux on x86-64 and ARM64); an audit hook that refuses files, processes,
sockets and native code, and the known looks at interpreter frames, where the check keeps its
secret. A signal handler is given a frame without a word to the hook, so `signal.signal` is taken
away, and with it what could make it anew: further modules in C, and interpreters.

Without seccomp (macOS, some containers) the other two layers stand alone. They hold the ways known
to us, no more: an answer that breaks out of the Python language may read the secret and forge its
report (never the expected values of a `function`, which are not in its process), and is held by
the resource limits and the kill of its group only.

Standard library only: the worker imports this module into its clean interpreter.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FunctionType
from typing import Any, NoReturn

from nfcot_model.sandbox.seccomp import die_with_parent, seccomp_installer

__all__ = ["Confinement", "close_bypasses", "drop_root", "prepare", "refuse"]

Confinement = Callable[[int], None]

_NOBODY = 65534


def refuse(event: str, args: tuple[Any, ...]) -> None:
    """The audit hook: raises PermissionError for a forbidden deed, ValueError for a look inside.

    ValueError, because `namedtuple`, `typing` and `logging` ask for frames and expect it. All that
    it compares with is in its code and not in names of this module, which an answer can rebind.
    """
    if event in {
        "cpython.PyInterpreterState_New",  # a hook holds in its own interpreter only
        "gc.get_objects",
        "gc.get_referents",
        "gc.get_referrers",
        "sys._current_exceptions",
        "sys._current_frames",
        "sys._getframe",
        "sys.addaudithook",
        "sys.setprofile",
        "sys.settrace",
    } or (
        event == "object.__getattr__"
        and args[1] in {"ag_frame", "cr_frame", "gi_frame", "tb_frame"}
    ):
        raise ValueError(f"{event} is closed in the sandbox")
    refused = ("open", "os.", "socket.", "subprocess.", "ctypes.", "shutil.", "pty.", "fcntl.")
    if event.startswith(refused) and event not in {"os.putenv", "os.unsetenv"}:
        raise PermissionError(f"{event} is closed in the sandbox")


def _install_hook() -> None:
    """A copy of `refuse`, as an answer could change the function that has a name."""
    names = {"ValueError": ValueError, "PermissionError": PermissionError}
    sys.addaudithook(FunctionType(refuse.__code__, {"__builtins__": names}))


def close_bypasses() -> None:
    """Take away the functions that lead to a frame past the audit hook.

    Such a function in C can be had again only by making its module again, so no further module in
    C can be made either: those that an answer may use must have been imported.
    """
    for module in (signal, sys.modules["_signal"]):
        vars(module)["signal"] = _no_handler
    vars(sys.modules["_imp"]).update(create_builtin=_no_module, create_dynamic=_no_module)


def _no_handler(signalnum: int, handler: Any) -> NoReturn:
    raise PermissionError("signal.signal is closed in the sandbox")


def _no_module(spec: Any, file: Any = None) -> NoReturn:
    raise ModuleNotFoundError(f"No module named {spec.name!r}", name=spec.name)


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
        close_bypasses()
        _install_hook()

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
