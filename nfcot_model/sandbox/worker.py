"""One answer after another: a small warm process that forks a child for each.

Reads batches of jobs from standard input and writes one reply for each job, in order, to standard
output, after one that says that the job was taken up. Started by `process.py` in a bare
interpreter. It imports the modules an answer may use once, so that a child needs no file; what is
not listed here cannot be imported by an answer. Threads cannot be started and no installed package
can be imported.

Neighbouring jobs that are `pure` share one child, as a fork costs far more than they do. When that
child does not return all their reports at once, each of them is run again alone.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import json
import os
import resource
import select
import signal
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, BinaryIO, NamedTuple

from nfcot_model.sandbox.child import run_child
from nfcot_model.sandbox.confine import Confinement, drop_root, prepare
from nfcot_model.sandbox.guard import known_classes
from nfcot_model.sandbox.pure import is_pure
from nfcot_model.sandbox.wire import COUNT, ERROR, REPLY, REPORT, TAKEN, TIMEOUT, Reply

__all__ = ["main"]

# fmt: off
_MODULES = (
    "abc", "array", "ast", "atexit", "base64", "binascii", "bisect", "calendar", "cmath",
    "collections.abc", "contextlib", "copy", "dataclasses", "datetime", "decimal", "enum",
    "fractions", "functools", "hashlib", "heapq", "inspect", "io", "itertools", "json", "keyword",
    "math", "numbers", "operator", "pprint", "queue", "random", "re", "secrets", "signal",
    "statistics", "string", "struct", "textwrap", "threading", "time", "traceback", "types",
    "typing", "unicodedata", "warnings", "weakref", "zlib", "_strptime", "encodings.ascii",
    "encodings.latin_1", "encodings.utf_16", "encodings.utf_32",
)
# fmt: on
_HIDDEN = ("ctypes", "_ctypes", "nfcot_model")
_NONCE_BYTES = 16
_TOGETHER_SECONDS = 0.25
_NO_ERROR = b'{"error": null'


@dataclass(frozen=True)
class _Rules:
    wall: float
    cpu: int
    output_bytes: int
    confine: Confinement
    known: dict[int, type]


@dataclass(frozen=True)
class _Outcome:
    """How a child ended: what it wrote (None: still running at the deadline), status, times."""

    message: bytes | None
    status: int
    cpu: float
    seconds: float


class _Ended(NamedTuple):
    status: int
    usage: resource.struct_rusage


def main(wall: float, cpu: int, memory_mib: int, file_bytes: int, output_bytes: int) -> None:
    """Serve jobs until standard input ends."""
    jobs = os.fdopen(os.dup(0), "rb")
    replies = os.fdopen(os.dup(1), "wb", buffering=0)
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    os.close(null)
    _load()
    drop_root()
    layer, confine = prepare(cpu, memory_mib, file_bytes)
    _forget()
    rules = _Rules(wall, cpu, output_bytes, confine, known_classes())
    gc.collect()
    gc.freeze()
    _send(replies, (REPORT, 0.0, layer.encode()))
    while head := jobs.read(COUNT.size):
        batch = json.loads(jobs.read(COUNT.unpack(head)[0]))
        for alike, group in groupby(batch, _is_pure):
            for reply in _together(list(group), rules) if alike else _alone(group, rules):
                _send(replies, reply)


def _load() -> None:
    """Import what answers may use, without hooks that would run in each child after its fork.

    The hooks of `random` and `threading` cost as much as the fork itself; a child wants the same
    random state each time and has no second thread.
    """
    register = os.register_at_fork
    os.register_at_fork = lambda **hooks: None  # type: ignore[assignment]
    for name in _MODULES:
        importlib.import_module(name)
    os.register_at_fork = register
    importlib.import_module("random").seed(0)


def _forget() -> None:
    """Take away what an answer must not find in the interpreter it inherits."""
    os.environ.clear()
    sys.path.clear()
    vars(ctypes).clear()
    for name in list(sys.modules):
        if name.split(".")[0] in _HIDDEN:
            del sys.modules[name]


def _send(replies: BinaryIO, reply: Reply) -> None:
    kind, seconds, body = reply
    message = REPLY.pack(kind, seconds, len(body)) + body
    while message:
        message = message[replies.write(message) :]


def _is_pure(job: dict[str, Any]) -> bool:
    return job["kind"] == "function" and is_pure(job["answer"])


def _together(jobs: Sequence[dict[str, Any]], rules: _Rules) -> Iterator[Reply]:
    yield TAKEN, 0.0, b"%d" % len(jobs)
    nonce = os.urandom(_NONCE_BYTES)
    if len(jobs) > 1:
        outcome = _run(jobs, nonce, rules, min(rules.wall, _TOGETHER_SECONDS))
        message = outcome.message
        if message and message.startswith(nonce) and len(message) <= rules.output_bytes:
            for body in message[len(nonce) :].split(b"\n"):
                yield REPORT, outcome.seconds / len(jobs), body
            return
    for job in jobs:
        yield _reply(job, rules)


def _alone(jobs: Iterable[dict[str, Any]], rules: _Rules) -> Iterator[Reply]:
    for job in jobs:
        yield TAKEN, 0.0, b"1"
        if job.get("apart"):
            yield from _apart(job, rules)
        else:
            yield _reply(job, rules)


def _apart(job: dict[str, Any], rules: _Rules) -> Iterator[Reply]:
    """One child for each case, until one ends badly; a sign of life (TAKEN 0) before each."""
    cases, bodies, spent = job["cases"], [], 0.0
    for number, case in enumerate(cases, start=1):
        yield TAKEN, 0.0, b"0"
        kind, seconds, body = _reply({**job, "cases": [case]}, rules)
        spent += seconds
        if kind != REPORT:
            yield kind, spent, b"case %d of %d: %b" % (number, len(cases), body)
            return
        bodies.append(body)
        if sum(map(len, bodies)) > rules.output_bytes:
            yield ERROR, spent, _too_much(rules)
            return
        if not body.startswith(_NO_ERROR):
            break
    yield REPORT, spent, b"\n".join(bodies)


def _reply(job: dict[str, Any], rules: _Rules) -> Reply:
    nonce = os.urandom(_NONCE_BYTES)
    outcome = _run([job], nonce, rules, rules.wall)
    kind, body = _reading(outcome, nonce, rules)
    return kind, outcome.seconds, body


def _reading(outcome: _Outcome, nonce: bytes, rules: _Rules) -> tuple[int, bytes]:
    """What does the end of a child mean? Its report where it bears the nonce, else why none."""
    message, status = outcome.message, outcome.status
    if message is None:
        return TIMEOUT, f"over the wall time of {rules.wall:g} s".encode()
    if len(message) > len(nonce) + rules.output_bytes:
        return ERROR, _too_much(rules)
    if message.startswith(nonce):
        return REPORT, message[len(nonce) :]
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        # The limit counts timer ticks, the usage reported afterwards is scaled to real run time: on
        # a busy or virtual machine the two differ by tenths of a second.
        if number in (signal.SIGKILL, signal.SIGXCPU) and outcome.cpu > rules.cpu / 2:
            return TIMEOUT, f"over the processor time of {rules.cpu} s".encode()
        return ERROR, f"killed by {signal.Signals(number).name}".encode()
    code = os.WEXITSTATUS(status)
    return ERROR, f"ended its process (status {code}) before the check was done".encode()


def _too_much(rules: _Rules) -> bytes:
    return f"returned more than {rules.output_bytes} bytes".encode()


def _run(jobs: Sequence[dict[str, Any]], nonce: bytes, rules: _Rules, wall: float) -> _Outcome:
    reading, writing = os.pipe()
    start = time.monotonic()
    child = os.fork()
    if child == 0:
        run_child(jobs, nonce, writing, rules.confine, rules.known)
    os.close(writing)
    message = _read(reading, start + wall, len(nonce) + rules.output_bytes)
    os.close(reading)
    early = message is not None and not message.startswith(nonce)
    ended = _ended(child, start + wall) if early else None
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child, signal.SIGKILL)
    if ended is None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
        message = None if early else message
        ended = _Ended(*os.wait4(child, 0)[1:])
    used = ended.usage.ru_utime + ended.usage.ru_stime
    return _Outcome(message, ended.status, used, time.monotonic() - start)


def _read(descriptor: int, deadline: float, most: int) -> bytes | None:
    """All that the child writes, `most` + 1 bytes at the most; None when the deadline passes."""
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    message = b""
    while len(message) <= most:
        left = deadline - time.monotonic()
        if left <= 0 or not poll.poll(left * 1000):
            return None
        chunk = os.read(descriptor, min(1 << 16, most + 1 - len(message)))
        if not chunk:
            break
        message += chunk
    return message


def _ended(child: int, deadline: float) -> _Ended | None:
    """How did the child end, which closed its channel? None when it still runs at the deadline."""
    while time.monotonic() < deadline:
        found, status, usage = os.wait4(child, os.WNOHANG)
        if found:
            return _Ended(status, usage)
        time.sleep(0.0005)
    return None
