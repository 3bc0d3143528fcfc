"""Hostile and honest answers: every one gets the right verdict and this process is unharmed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from nfcot_model.errors import UserError
from nfcot_model.sandbox import Limits, Sandbox, Verdict, process
from nfcot_model.sandbox.judge import job_of, verdict_of
from nfcot_model.sandbox.pure import is_pure
from nfcot_model.sandbox.seccomp import die_with_parent
from nfcot_model.sandbox.values import DEPTH, decode, encode, same, shown
from nfcot_model.sandbox.wire import REPORT
from nfcot_model.worlds.problem import Check

LIMITS = Limits(wall_seconds=1.0, cpu_seconds=1, memory_mib=128, output_bytes=20_000)
ENVIRONMENT = {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), *sys.path])}
LINUX = sys.platform.startswith("linux")
needs_proc = pytest.mark.skipif(not LINUX, reason="reads /proc")
SQUARES = Check.model_validate(
    {"kind": "function", "cases": [{"args": [x], "expected": x * x} for x in range(4)]}
)


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(workers=2, limits=LIMITS) as opened:
        yield opened


def function(expected: object, *args: object) -> Check:
    return Check.model_validate(
        {"kind": "function", "cases": [{"args": list(args), "expected": expected}]}
    )


def opaque(value: object) -> dict[str, str]:
    return {"opaque": type(value).__name__}


def script(source: str) -> Check:
    return Check(kind="script", source=source)


def run(sandbox: Sandbox, source: str) -> Verdict:
    """The verdict on a script whose test asks for the value only honest work would give."""
    return sandbox.check(source, script("assert solve() == 42"))


def statuses(verdicts: list[Verdict]) -> str:
    return " ".join(verdict.status for verdict in verdicts)


def runs(pid: int) -> bool:
    """Is there such a process, other than as a zombie that its new parent has yet to reap?"""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return text.rpartition(")")[2].split()[0] not in "ZX"


def children(pid: int) -> list[int]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            text = stat.read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(text.rpartition(")")[2].split()[1]) == pid:
            found.append(int(stat.parent.name))
    return found


def test_function_verdicts(sandbox: Sandbox) -> None:
    verdicts = sandbox.check_many(
        [
            ("lambda x: x * x", SQUARES),
            ("lambda x: x + x", SQUARES),
            ("lambda x: x.__mul__(x)", SQUARES),
            ("lambda x: 1 // (2 - x) + 1", SQUARES),
            ("lambda x: x ** 2 if x < 3 else 1 // 0", SQUARES),
            ("lambda x: (", SQUARES),
            ("", SQUARES),
            ("7", SQUARES),
            ("lambda: 0", SQUARES),
            ("  lambda x: x * x\n", SQUARES),
        ]
    )
    assert statuses(verdicts) == "passed failed passed failed error error error error error passed"
    assert verdicts[1].detail == "case 2 of 4: f(1) returned 2, expected 1"
    assert "case 4 of 4: ZeroDivisionError" in verdicts[4].detail
    assert "SyntaxError" in verdicts[5].detail
    assert "TypeError" in verdicts[7].detail


def test_expected_values_stay_in_this_process() -> None:
    check = function("the-secret", "an argument")
    assert "the-secret" not in repr(job_of("lambda x: x", check))


@pytest.mark.parametrize(
    ("value", "expected", "equal"),
    [
        ((1, [2]), [1, (2,)], True),
        (True, 1, False),
        (0, False, False),
        (True, True, True),
        (2, 2.0, True),
        (0.1 + 0.2, 0.3, True),
        (0.31, 0.3, False),
        (float("nan"), float("nan"), True),
        (10**400, 1.0, False),
        ({"a": 1, "b": (2,)}, {"b": [2], "a": 1}, True),
        ({"a": 1}, {"a": 1, "b": 2}, False),
        ("1", 1, False),
        (None, 0, False),
        (-0.0, 0, True),
        (float("inf"), 10**400, False),
        ({1: 0, (2, (3,)): 0}, {1.0: 0, (2, (3,)): 0}, True),
        ({True: 0}, {1: 0}, True),
        ({float("nan"): 0}, {float("nan"): 0}, False),
        ({-0.0: 0}, {0.0: 0}, True),
        ({(): 0}, {"": 0}, False),
        ([], {}, False),
        ({}, [], False),
        ([], None, False),
        ({1}, {1: 1}, False),
    ],
)
def test_same(value: object, expected: object, equal: bool) -> None:
    tree = json.loads(json.dumps(encode(value, opaque)))
    assert same(tree, expected) is equal


@pytest.mark.parametrize(
    "tree",
    [
        {"dict": [["a", 1], ["a", 1]]},
        {"dict": 2},
        {"dict": {"a": 1, "b": 1}},
        {"opaque": "dict"},
        {"unknown": []},
        {"dict": [[{"dict": []}, 1], ["b", 1]]},
        {},
        ["a", "b"],
        "ab",
    ],
)
def test_a_forged_tree_equals_nothing(tree: object) -> None:
    assert not same(tree, {"a": 1, "b": 1})


def test_values_survive_the_trip() -> None:
    value = [None, True, -3, 2**200, -(2**60), 1e300, "é\n", [1, (2,)], {"a": 1, 2: [3], (1, 2): 4}]
    tree = json.loads(json.dumps(encode(value, opaque)))
    assert same(tree, value)
    back = decode(tree)
    assert back == [*value[:7], [1, [2]], value[8]]
    assert type(back[1]) is bool


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (
            [1, (2.5, "a'b"), {"k": None, (1, 2): []}],
            """[1, [2.5, "a'b"], {'k': None, [1, 2]: []}]""",
        ),
        ({1, 2}, "<set>"),
        (2**70, str(2**70)),
        ([10**5000], "[an int too long to print]"),
        ("a" * 100, "'" + "a" * 76 + "..."),
        ([[[]] * 1000] * 2, "[[" + "[], " * 18 + "[],..."),
    ],
)
def test_a_returned_value_is_shown_in_part(value: object, text: str) -> None:
    assert shown(encode(value, opaque), 80) == text


def reply(values: object, error: object = None, case: object = None) -> tuple[int, float, bytes]:
    body = json.dumps({"values": values, "error": error, "case": case})
    return REPORT, 0.0, body.encode()


def test_a_forged_reply_costs_what_the_expected_value_costs() -> None:
    """The keys all have the hash 0: a dict of them takes more than a minute to build."""
    modulus = sys.hash_info.modulus
    pairs = [[{"int": hex((2**20 + number) * modulus)}, 0] for number in range(25_000)]
    assert {hash(int(key["int"], 16)) for key, _ in pairs[:9]} == {0}
    sized = {str(number): 0 for number in range(25_000)}
    start = time.process_time()
    for expected in ({"a": 1}, sized, [{"a": 1}], 7):
        for tree in ({"dict": pairs}, [{"dict": pairs}]):
            verdict = verdict_of(function(expected), reply([tree]), LIMITS)
            assert verdict.status == "failed"
            assert len(verdict.detail) < 300
    assert time.process_time() - start < 10


@pytest.mark.parametrize(
    "forged",
    [
        reply([]),
        reply(7),
        reply([], error=["x"], case=1),
        reply([], error="x", case="one"),
        (REPORT, 0.0, b"[" * 100_000),
        (REPORT, 0.0, b"9" * 5000),
        (REPORT, 0.0, b"{}"),
    ],
)
def test_a_reply_that_is_no_report_is_an_error(forged: tuple[int, float, bytes]) -> None:
    verdict = verdict_of(function(1), forged, LIMITS)
    assert (verdict.status, verdict.detail) == (
        "error",
        "the answer returned data that cannot be read",
    )


def test_an_error_of_the_answer_is_one_line_that_any_file_can_hold(sandbox: Sandbox) -> None:
    verdict = verdict_of(function(1), reply([], "E: \ud800\n" + "x" * 10_000, 1), LIMITS)
    assert verdict.status == "error"
    assert len(verdict.detail.encode()) < 1100
    assert "\n" not in verdict.detail
    raised = sandbox.check("raise ValueError('\\ud800')", script("pass"))
    assert raised.detail.encode() == rb"answer: ValueError: \ud800 (line 1)"


def test_nesting_is_bounded(sandbox: Sandbox) -> None:
    deep: Any = []
    for _ in range(DEPTH - 2):
        deep = [deep]
    mapped: Any = 0
    for _ in range(DEPTH - 1):
        mapped = {"k": mapped}
    identity = "lambda x: x"
    pairs = [(identity, function(deep, deep)), (identity, function(mapped, mapped))]
    assert statuses(sandbox.check_many(pairs)) == "passed passed"
    for check in (function([[[deep]]], 0), function(0, [[deep]])):
        with pytest.raises(UserError, match=f"nested more than {DEPTH} deep"):
            sandbox.check(identity, check)
    cyclic = "lambda: (lambda a: a.append(a) or a)([])"
    assert "nested more than" in sandbox.check(cyclic, function(0)).detail


@pytest.mark.parametrize(
    ("answer", "expected", "status"),
    [
        ("lambda: 3 ** 9000", 3**9000, "passed"),
        ("lambda: {1, 2}", [1, 2], "failed"),
        ("lambda: (i for i in [1, 2])", [1, 2], "failed"),
        ("lambda: True", 1, "failed"),
        ("lambda: (1, (2, 3))", [1, [2, 3]], "passed"),
        ("lambda: __import__('math').gcd(12, 18)", 6, "passed"),
        ("lambda: __import__('random').random()", 0.8444218515250481, "passed"),
        ("lambda: type('E', (int,), {'__eq__': lambda s, o: True, '__hash__': int.__hash__})(3)",
         4, "failed"),
        ("lambda: type('E', (), {'__eq__': lambda s, o: True})()", 4, "failed"),
        ("lambda: [type('E', (), {'__eq__': lambda s, o: True})()]", [4], "failed"),
        ("lambda: [0] * 100_000", 0, "error"),
    ],
)  # fmt: skip
def test_returned_values(sandbox: Sandbox, answer: str, expected: object, status: str) -> None:
    assert sandbox.check(answer, function(expected)).status == status


def test_script_verdicts(sandbox: Sandbox) -> None:
    test = script("assert solve() == 42\nassert solve() in (41, 42), 'again'")
    verdicts = sandbox.check_many(
        [
            ("def solve():\n    return 42", test),
            ("def solve():\n    return 41", test),
            ("def solve():\n    return 1 / 0", test),
            ("def solve(:", test),
            ("raise AssertionError('mine')", test),
            ("import math, collections, re, itertools\ndef solve(): return 42", test),
            ("def solve(): return 42", script("assert (")),
        ]
    )
    assert statuses(verdicts) == "passed failed error error error passed error"
    assert verdicts[1].detail == "test: AssertionError (line 1)"
    assert verdicts[4].detail.startswith("answer: AssertionError: mine")


def test_script_may_compare_its_own_classes(sandbox: Sandbox) -> None:
    answer = """
from dataclasses import dataclass
from collections import Counter, namedtuple
from fractions import Fraction
Pair = namedtuple("Pair", "a b")
@dataclass
class Point:
    x: "int"
"""
    test = """
assert Point(1) == Point(1) and Point(1) != Point(2)
assert Pair(1, 2) == (1, 2) and Counter("aa") == {"a": 2} and Fraction(1, 2) == 0.5
assert [Fraction(1, 2)] == [0.5]
"""
    assert sandbox.check(answer, script(test)).status == "passed"


def test_exact(sandbox: Sandbox) -> None:
    check = Check(kind="exact", expected="42")
    verdicts = sandbox.check_many([(" 42\n", check), ("43", check)])
    assert [v.status for v in verdicts] == ["passed", "failed"]
    assert verdicts[1].detail == "answered '43', expected '42'"


def test_white_space_around_an_expected_text_does_not_count(sandbox: Sandbox) -> None:
    check = Check(kind="exact", expected=" a b\n")
    verdicts = sandbox.check_many([(answer, check) for answer in ("a b", "a b\n", "a  b")])
    assert statuses(verdicts) == "passed passed failed"
    with pytest.raises(ValueError, match="non-empty 'expected'"):
        Check(kind="exact", expected=" \n")


TIMEOUTS = {
    "infinite loop": "while True: pass",
    "loop that catches everything": """
while True:
    try:
        while True: pass
    except BaseException: pass""",
    "sleep": "import time\ntime.sleep(3600)",
    "endless output": "while True: print('passed' * 1000, flush=True)",
    "closed channel, then a loop": """
import os
os.closerange(0, 64)
while True: pass""",
    "signals ignored": """
import signal
for number in (signal.SIGALRM, signal.SIGTERM, signal.SIGXCPU):
    try: signal.signal(number, signal.SIG_IGN)
    except OSError: pass
while True: pass""",
    "one slow operation": "9 ** 9 ** 9",
}


def test_time_limits_hold(sandbox: Sandbox) -> None:
    pairs = [(source, script("pass")) for source in TIMEOUTS.values()]
    pairs += [("lambda: 9 ** 9 ** 9", function(0)), ("lambda: 42", function(42))]
    verdicts = dict(zip([*TIMEOUTS, "pure", "good"], sandbox.check_many(pairs), strict=True))
    good = verdicts.pop("good")
    assert good.status == "passed"
    assert {name: v.status for name, v in verdicts.items()} == dict.fromkeys(verdicts, "timeout")
    assert max(v.seconds for v in verdicts.values()) < 3 * LIMITS.wall_seconds


def test_processor_time_limit() -> None:
    with Sandbox(workers=1, limits=Limits(wall_seconds=60, cpu_seconds=1)) as opened:
        verdict = opened.check("while True: pass", script("pass"))
    assert verdict.status == "timeout"
    assert "processor time" in verdict.detail


@pytest.mark.skipif(not LINUX, reason="the address space is limited on Linux only")
def test_memory_that_runs_out_bit_by_bit() -> None:
    with Sandbox(workers=1, limits=Limits(wall_seconds=60, cpu_seconds=60, memory_mib=8)) as opened:
        verdict = opened.check("a = []\nwhile True: a.append([0])", script("pass"))
    assert verdict.status == "error"
    assert verdict.detail == "answer: MemoryError: over the memory limit of 8 MiB"


ERRORS = {
    "fork bomb": ("import os\nwhile True: os.fork()", "PermissionError"),
    "threads": ("import _thread\n_thread.start_new_thread(print, ())", "can't start new thread"),
    "subprocess": ("import subprocess", "ModuleNotFoundError"),
    "exec": ("import os\nos.execv('/bin/sh', ['sh'])", "PermissionError"),
    "spawn": ("import os\nos.posix_spawn('/bin/sh', ['sh'], {})", "PermissionError"),
    "system": ("import os\nos.system('true')", "PermissionError"),
    "10 GB": ("a = bytearray(10 << 30)", "memory limit of 128 MiB"),
    "deep recursion": ("def f(): f()\nf()", "RecursionError"),
    "deeper recursion": (
        "import sys\nsys.setrecursionlimit(10**9)\nf = lambda: list(map(lambda _: f(), [0]))\nf()",
        # Python 3.12 counts calls through C apart and raises before the stack ends.
        "SIGSEGV" if sys.version_info < (3, 12) else "RecursionError",
    ),
    "write a file": ("open('/tmp/nfcot-sandbox-was-here', 'w').write('x')", "PermissionError"),
    "write with os": (
        "import os\nos.open('/tmp/nfcot-sandbox-was-here', os.O_CREAT | os.O_WRONLY)",
        "PermissionError",
    ),
    "read a file": ("open('/etc/passwd').read()", "PermissionError"),
    "parent's environment": (
        "import os\nopen(f'/proc/{os.getppid()}/environ').read()", "PermissionError"
    ),
    "list a folder": ("import os\nos.listdir('/')", "PermissionError"),
    "socket": ("import socket\nsocket.socket()", "ModuleNotFoundError"),
    "kill the parent": ("import os\nos.kill(os.getppid(), 9)", "PermissionError"),
    "kill everything": ("import os\nos.kill(-1, 9)", "PermissionError"),
    "kill the group": ("import os\nos.killpg(0, 9)", "PermissionError"),
    "ctypes": ("import ctypes", "ModuleNotFoundError"),
    "sys.exit": ("import sys\nsys.exit(0)", "SystemExit"),
    "raise SystemExit": ("raise SystemExit", "SystemExit"),
    "own KeyboardInterrupt": ("raise KeyboardInterrupt", "KeyboardInterrupt"),
    "os._exit": ("import os\nos._exit(0)", "before the check was done"),
    "exception whose text raises": (
        "class E(Exception):\n    def __str__(self): raise SystemExit\nraise E", "E (line 3)"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ERRORS)
def test_forbidden_deeds_are_errors(sandbox: Sandbox, name: str) -> None:
    source, detail = ERRORS[name]
    verdict = sandbox.check(source, script("pass"))
    assert verdict.status == "error"
    assert detail in verdict.detail
    assert not Path("/tmp/nfcot-sandbox-was-here").exists()


def test_forbidden_deeds_inside_a_call(sandbox: Sandbox) -> None:
    answers = [
        "lambda: __import__('os')._exit(0)",
        "lambda: __import__('os').fork()",
        "lambda: exit()",
        "lambda: 'a' * (10 << 30)",
    ]
    verdicts = sandbox.check_many([(answer, function(0)) for answer in answers])
    assert [v.status for v in verdicts] == ["error"] * 4


def test_environment_and_descriptors_are_not_inherited(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NFCOT_SECRET", "x")
    with Sandbox(workers=1) as opened:
        assert opened.check("lambda: dict(__import__('os').environ)", function({})).status == (
            "passed"
        )
    answer = """
import os
def solve():
    usable = []
    for number in range(256):
        try:
            os.lseek(number, 0, os.SEEK_CUR)
        except OSError as error:
            if error.errno == 9:
                continue
        usable.append(number)
    return len(usable)
"""
    assert sandbox.check(answer, script("assert solve() == 4")).status == "passed"


FORGERIES = {
    "prints passed": "print('passed')\ndef solve(): return 0",
    "own equality": """
class Always:
    def __eq__(self, other): return True
def solve(): return Always()""",
    "own equality in a list": """
class Always(int):
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    __hash__ = int.__hash__
def solve(): return Always(1)""",
    "metaclass": """
class Meta(type):
    def __eq__(self, other): return True
    def __hash__(self): return hash(int)
class Always(metaclass=Meta):
    def __eq__(self, other): return True
def solve(): return Always()""",
    "exits in the call": "import os\ndef solve(): os._exit(0)",
    "SystemExit in the call": "def solve(): raise SystemExit(0)",
    "writes to every descriptor": """
import os
def solve():
    for number in range(256):
        try: os.write(number, b'{"stage": "done", "wrong": false, "error": null}')
        except OSError: pass
    os._exit(0)""",
    "rebinds os.write": """
import os, json
def steal(*args, **kwargs): return '{"stage": "done", "wrong": false, "error": null}'
os.write = json.dumps = steal
def solve(): return 0""",
    "rebinds what the runner is made of": """
import sys, builtins
for module in list(sys.modules.values()):
    for name in ("_run_script", "_describe", "compile_test", "run_child"):
        if hasattr(module, name): setattr(module, name, lambda *a: {"stage": "done"})
builtins.isinstance = builtins.type = builtins.vars = lambda *a: True
def solve(): return 0""",
    "walks the frames": """
import sys
def solve():
    frame = sys._getframe()
    while frame:
        for value in frame.f_locals.values():
            if type(value) is bytes and len(value) == 16:
                raise SystemExit('found the nonce')
        frame = frame.f_back""",
    "walks a traceback": """
def solve():
    try: 1 / 0
    except ZeroDivisionError as error: return error.__traceback__.tb_frame""",
    "walks a generator": """
def solve():
    g = (i for i in [1])
    return g.gi_frame""",
    "walks the heap": "import gc\ndef solve(): return gc.get_objects()",
    "handler sees the frame": """
import signal
def solve():
    signal.signal(signal.SIGALRM, lambda n, frame: frame)""",
    "tracer": "import sys\nsys.settrace(lambda frame, event, arg: None)\ndef solve(): return 0",
    "rigs the builtins": """
import builtins
builtins.AssertionError = Exception
builtins.bool = lambda x: True
def solve(): return 0""",
}


@pytest.mark.parametrize("name", FORGERIES)
def test_a_verdict_cannot_be_forged(sandbox: Sandbox, name: str) -> None:
    verdict = run(sandbox, FORGERIES[name])
    assert verdict.status in ("failed", "error")
    assert "found the nonce" not in verdict.detail


# What the filter of system calls stops by chance, or not at all: the other layers must do without.
LOOKS = {
    "timer": "signal.signal(signal.SIGALRM, found); signal.setitimer(signal.ITIMER_REAL, 0.01)",
    "raised": "signal.signal(signal.SIGUSR1, found); signal.raise_signal(signal.SIGUSR1)",
    "module in C": "sys.modules['_signal'].signal(10, found); signal.raise_signal(10)",
    "module made anew": """
import importlib.machinery
spec = importlib.machinery.ModuleSpec("_signal", None, origin="built-in")
for name in ("create_builtin", "create_dynamic"):
    try: getattr(sys.modules["_imp"], name)(spec).signal(signal.SIGURG, found)
    except ImportError: pass
signal.raise_signal(signal.SIGURG)""",
    "another interpreter": """
try:
    import _xxsubinterpreters as other
    other.run_string(other.create(), "import sys; sys._current_frames()")
except ImportError: raise PermissionError""",
    "rebinds what the hook compares with": """
waiting, modules = [object], {}
while waiting:
    for cls in type.__subclasses__(waiting.pop()):
        waiting.append(cls)
        for value in vars(cls).values():
            modules.update(getattr(value, "__globals__", {}))
todo, known = [modules, vars(signal)], []
while todo:
    names = todo.pop()
    if any(names is other for other in known): continue
    known.append(names)
    todo += [v.__globals__ for v in list(names.values()) if type(v) is type(lambda: 0)]
for names in known:
    for name, value in list(names.items()):
        if type(value) in (frozenset, tuple): names[name] = type(value)()
    if "refuse" in names:
        names["refuse"].__code__ = (lambda event, args: None).__code__
found(0, sys._getframe())""",
}
LOOK = """
import signal, sys, time
seen = []
def found(number, frame):
    while frame:
        seen.extend(v for v in frame.f_locals.values() if type(v) is bytes and len(v) == 16)
        frame = frame.f_back
def solve():
    time.sleep(0.05)
    raise SystemExit(f"found {len(seen)} nonces")
try:
    exec(%r)
except (PermissionError, ValueError): pass
"""


@pytest.fixture(scope="module")
def unfiltered() -> Iterator[Sandbox]:
    """A sandbox as it is where there is no seccomp, such as on macOS."""
    without = "import nfcot_model.sandbox.confine as c\nc.seccomp_installer = lambda: None\n"
    place = "from nfcot_model.sandbox.worker"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(process, "_BOOT", process._BOOT.replace(place, without + place))
        with Sandbox(workers=1, limits=LIMITS) as opened:
            assert opened.layer == "audit-hook"
            yield opened


@pytest.mark.parametrize("name", LOOKS)
def test_the_nonce_is_out_of_sight(sandbox: Sandbox, unfiltered: Sandbox, name: str) -> None:
    for opened in (sandbox, unfiltered):
        assert run(opened, LOOK % LOOKS[name]).detail == "test: SystemExit: found 0 nonces (line 1)"


@pytest.mark.parametrize("name", FORGERIES)
def test_a_verdict_cannot_be_forged_without_seccomp(unfiltered: Sandbox, name: str) -> None:
    verdict = run(unfiltered, FORGERIES[name])
    assert verdict.status in ("failed", "error")
    assert "found the nonce" not in verdict.detail


def test_nothing_keeps_the_function_that_sets_handlers() -> None:
    program = """
import gc, signal, sys, _signal
from nfcot_model.sandbox.confine import close_bypasses
name = "signal"
functions = [getattr(module, name) for module in (signal, _signal)]
close_bypasses()
left = [holder for holder in gc.get_referrers(*functions) if holder is not functions]
sys.exit(repr(left) if left else 0)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], env=ENVIRONMENT, capture_output=True, check=False
    )
    assert done.stderr == b""


@needs_proc
def test_daemons_do_not_outlive_the_answer(sandbox: Sandbox) -> None:
    before = sandbox.worker_pids
    verdict = run(
        sandbox,
        """
import os
for attempt in range(3):
    try: os.setsid()
    except OSError: pass
    try:
        if os.fork() == 0:
            while True: pass
    except OSError: pass
def solve(): return 42
""",
    )
    assert verdict.status == "passed"
    assert sandbox.worker_pids == before
    assert [children(pid) for pid in before] == [[]] * len(before)


LAYERS = {
    "seccomp": """
import os, signal, socket, subprocess, sys
from nfcot_model.sandbox.seccomp import seccomp_installer
install = seccomp_installer()
if install is None or not install():
    sys.exit("absent")
deeds = {
    "memfd": lambda: os.memfd_create("x"),
    "pipe": os.pipe,
    "setsid": os.setsid,
    "signal": lambda: signal.signal(signal.SIGTERM, signal.SIG_IGN),
    "socketpair": socket.socketpair,
}
""",
    "audit-hook": """
import os, signal, socket, subprocess, sys
from nfcot_model.sandbox.confine import refuse
sys.addaudithook(refuse)
deeds = {
    "connect": lambda: socket.create_connection(("127.0.0.1", 9)),
    "listdir": lambda: os.listdir("/"),
    "popen": lambda: subprocess.Popen(["true"]),
    "system": lambda: os.system("true"),
}
""",
}
DEEDS = """
deeds |= {
    "chdir": lambda: os.chdir("/"),
    "create": lambda: os.open(sys.argv[1], os.O_CREAT | os.O_WRONLY),
    "exec": lambda: os.execv("/bin/true", ["true"]),
    "fork": os.fork,
    "kill": lambda: os.kill(os.getppid(), 0),
    "open": lambda: open("/etc/passwd"),
    "socket": lambda: socket.socket(),
    "unlink": lambda: os.unlink(sys.argv[1]),
}
for name, deed in deeds.items():
    try:
        deed()
    except PermissionError:
        continue
    sys.exit(f"allowed: {name}")
"""


@pytest.mark.parametrize("layer", LAYERS)
def test_each_layer_denies_without_the_other(layer: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LAYERS[layer] + DEEDS, str(tmp_path / "file")],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.stderr == "absent\n":
        pytest.skip("this system has no seccomp filter")
    assert done.stderr == ""


def test_layer_is_named(sandbox: Sandbox) -> None:
    assert sandbox.layer in ("seccomp", "audit-hook")


@needs_proc
def test_a_child_whose_worker_is_gone_already_does_not_run_on() -> None:
    """The tie is made by a grandchild only after its parent has ended."""
    reading, writing = os.pipe()
    worker = os.fork()
    if worker == 0:
        tie = die_with_parent()
        parent = os.getpid()
        if os.fork() == 0:
            while os.getppid() == parent:
                pass
            tie()
            os.write(writing, b"it runs")
            os._exit(0)
        os._exit(0)
    os.close(writing)
    os.waitpid(worker, 0)
    with os.fdopen(reading, "rb") as said:
        assert said.read() == b""


@needs_proc
def test_a_worker_that_dies_is_replaced() -> None:
    with Sandbox(workers=1, limits=Limits(wall_seconds=90, cpu_seconds=90)) as opened:
        pairs = [("while True: pass", script("pass")), ("lambda x: x * x", SQUARES)]
        future = opened.submit_many(pairs)
        while not (opened.worker_pids and (busy := children(opened.worker_pids[0]))):
            assert not future.done()
        first = opened.worker_pids[0]
        os.kill(first, signal.SIGKILL)
        verdicts = future.result()
        assert [v.status for v in verdicts] == ["error", "passed"]
        assert "worker" in verdicts[0].detail
        assert opened.worker_pids != [first]
    limit = time.monotonic() + 20
    while any(map(runs, busy)) and time.monotonic() < limit:
        pass
    assert not any(map(runs, busy))


@needs_proc
def test_an_idle_worker_that_dies_costs_nothing() -> None:
    with Sandbox(workers=1) as opened:
        assert opened.check("lambda x: x * x", SQUARES).status == "passed"
        (pid,) = opened.worker_pids
        os.kill(pid, signal.SIGKILL)
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        assert opened.check("lambda x: x * x", SQUARES).status == "passed"


@needs_proc
@pytest.mark.parametrize("fate", ["killed", "starved"])
def test_a_worker_lost_before_it_took_the_answer_is_no_verdict(
    fate: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if fate == "starved":
        monkeypatch.setattr(process, "_GRACE_SECONDS", 0.0)
    with Sandbox(workers=1, limits=Limits(wall_seconds=4)) as opened:
        assert opened.check("lambda x: x * x", SQUARES).status == "passed"
        (pid,) = opened.worker_pids
        os.kill(pid, signal.SIGSTOP)
        while " T " not in Path(f"/proc/{pid}/stat").read_text():
            pass
        future = opened.submit_many([("lambda x: x * x", SQUARES), ("lambda x: x", SQUARES)])
        if fate == "killed":
            time.sleep(0.2)
            os.kill(pid, signal.SIGKILL)
        assert statuses(future.result()) == "passed failed"
        assert opened.worker_pids != [pid]


def test_an_answer_is_tried_on_two_workers_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    sent = []

    def send(self: process.WorkerProcess, jobs: Sequence[dict[str, Any]]) -> None:
        sent.append(len(jobs))
        raise process.WorkerDiedError("gone")

    monkeypatch.setattr(process.WorkerProcess, "send", send)
    with Sandbox(workers=1) as opened:
        verdict = opened.check("lambda x: x", SQUARES)
    assert (verdict.status, verdict.detail, sent) == ("error", "gone", [1, 1])


@needs_proc
def test_close_ends_everything() -> None:
    opened = Sandbox(workers=2, limits=Limits(wall_seconds=30, cpu_seconds=30))
    future = opened.submit_many([("while True: pass", script("pass"))] * 5)
    while not opened.worker_pids:
        assert not future.done()
    pids = opened.worker_pids
    opened.close()
    assert {v.status for v in future.result()} == {"error"}
    assert len(future.result()) == 5
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
    with pytest.raises(UserError, match="closed"):
        opened.check("lambda x: x", SQUARES)


@needs_proc
def test_a_program_that_forgets_to_close_leaves_nothing() -> None:
    program = """
from nfcot_model.sandbox import Sandbox
from nfcot_model.worlds.problem import Check
opened = Sandbox(workers=1)
opened.check("lambda: 0", Check(kind="function", cases=[{"args": [], "expected": 0}]))
print(opened.worker_pids[0])
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert not Path(f"/proc/{int(done.stdout)}").exists()


def test_order_is_kept_and_empty_is_fine(sandbox: Sandbox) -> None:
    pairs = []
    for number in range(60):
        answer = f"lambda: {number}" if number % 3 else f"lambda: ({number}).__add__(0)"
        pairs.append((answer, function(number if number % 7 else -1)))
    verdicts = sandbox.check_many(pairs)
    assert [v.status == "passed" for v in verdicts] == [bool(n % 7) for n in range(60)]
    assert sandbox.submit_many([]).result() == []


def test_pure_answers_that_fall_together_are_judged_alone(sandbox: Sandbox) -> None:
    answers = ["lambda: 1", "lambda: [0] * (1 << 40)", "lambda: 1 // 0", "lambda: 9 ** 9 ** 9"]
    pairs = [(answer, function(1)) for answer in [*answers, "lambda: 2", "lambda: 1"] * 4]
    verdicts = sandbox.check_many(pairs)
    assert statuses(verdicts) == " ".join(["passed error error timeout failed passed"] * 4)


@pytest.mark.parametrize(
    ("answer", "pure"),
    [
        ("lambda x: (4*x+7) % 10", True),
        ("lambda s: [s[i] for i in (2, 0, 1)]", True),
        ("lambda s: s[::-1] + sorted(s, key=lambda c: -c)", True),
        ("lambda x: x.real", False),
        ("lambda x: open(x)", False),
        ("lambda x: __import__('os')", False),
        ("lambda x: (y := x)", False),
        ("lambda x: f'{x}'", False),
        ("print", False),
        ("lambda x: (", False),
    ],
)
def test_pure(answer: str, pure: bool) -> None:
    assert is_pure(answer) is pure


def test_bad_input_is_refused(sandbox: Sandbox) -> None:
    with pytest.raises(UserError, match="wall_seconds"):
        Limits(wall_seconds=0)
    with pytest.raises(UserError, match="memory_mib"):
        Limits(memory_mib=-1)
    with pytest.raises(UserError, match="workers"):
        Sandbox(workers=0)
    with pytest.raises(UserError, match="plain data"):
        sandbox.check("lambda x: x", function({1, 2}, 0))
    with pytest.raises(UserError, match="plain data"):
        sandbox.check("lambda x: x", function(0, object()))
