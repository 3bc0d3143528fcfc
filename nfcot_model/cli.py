"""The `nfcot` command: finds the commands of every installed package and runs the one asked for.

A command is an entry point of the group `nfcot.commands`: a `typer.Typer` becomes a group of
commands, a function becomes one command. Only the module of the invoked command is imported, so
`nfcot --help` answers at once however heavy the others are.
"""

from __future__ import annotations

import errno
import sys
import traceback
from collections.abc import Sequence
from importlib.metadata import EntryPoint, entry_points
from typing import Annotated

import typer

from nfcot_model import __version__
from nfcot_model.errors import UserError

__all__ = ["GROUP", "SUMMARIES", "available", "main"]

GROUP = "nfcot.commands"
DEFECT = 70

SUMMARIES = {
    "demo": "Shipped checkpoint → runs → probe → audit → dashboard.",
    "world": "Make problem sets with known reasoning.",
    "train": "Train codec, flow, backbone and head.",
    "eval": "Measure a model: pass rates, decoding, causal controls, published benchmarks.",
    "compare": "Train and measure all kinds of reasoners side by side.",
    "trace": "Record a run: thoughts, likelihoods, decoded text, verdicts.",
    "show": "Show a run or one trace in the terminal.",
    "sites": "List the hooks of a model: where it can be read at each thought.",
    "activations": "Add what stands at hooks at every thought to a run.",
    "run": "Look after runs on disk: check and repair.",
    "probe": "Fit and apply probes on thoughts.",
    "audit": "Flag trajectories with calibrated p-values.",
    "causal": "Say whether thoughts are used: edits, placebos, a verdict per task.",
    "lens": "Read thoughts layer by layer, beside what chance would read.",
    "organism": "Models of known causal truth, to test causal tests on.",
    "app": "Open the dashboard on a folder of runs.",
}
"""One line per command of this distribution, in the order `nfcot --help` lists them."""

_ENVIRONMENT = {
    errno.ENOSPC: "free some space or choose another output folder",
    errno.EDQUOT: "free some space or choose another output folder",
    errno.EROFS: "choose a writable output folder",
    errno.EACCES: "check the permissions or choose another folder",
    errno.EPERM: "check the permissions or choose another folder",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.ENOENT: "make the folder first or choose another",
    errno.ENOTDIR: "a file stands where a folder is expected; choose another path",
    errno.EEXIST: "something stands there already; choose another path",
    errno.EISDIR: "a folder stands where a file is expected; choose another path",
}


_MEMORY = (
    "ran out of memory ({}); give fewer samples or a smaller --batch where the command has them,"
    " --dtype bfloat16, or another --device"
)


def available() -> dict[str, EntryPoint]:
    """Which commands are installed? Ours in the order of `SUMMARIES`, then plug-ins by name."""
    found = {point.name: point for point in entry_points(group=GROUP)}
    ours = [name for name in SUMMARIES if name in found]
    return {name: found[name] for name in [*ours, *sorted(found.keys() - SUMMARIES.keys())]}


def main(argv: Sequence[str] | None = None) -> None:
    """Run one command line and exit.

    0 done, 1 a check failed, 2 bad input (one line on stderr), 130 stopped, 70 a defect of ours
    (with its traceback).
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        code = _run(arguments)
    except UserError as error:
        code = _complain(str(error), 2)
    except typer.TyperException as error:
        code = _complain(error.format_message(), error.exit_code)
    except OSError as error:
        advice = _ENVIRONMENT.get(error.errno or 0)
        where = f"{error.filename}: " if error.filename else ""
        code = _complain(f"{where}{error.strerror}; {advice}", 2) if advice else _defect()
    except typer.Abort:
        code = _complain("stopped", 130)
    except Exception as error:
        code = _complain(_MEMORY.format(error), 2) if _is_memory(error) else _defect()
    sys.exit(code)


def _is_memory(error: Exception) -> bool:
    """torch's own names and words: importing it to ask would slow every command."""
    of_torch = type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in str(error)
    return isinstance(error, MemoryError) or of_torch


def _run(arguments: list[str]) -> int:
    root = typer.Typer(
        help="Look inside latent thoughts: train, trace, probe and audit NF-CoT models.",
        add_completion=False,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    root.callback()(_options)
    invoked = next((word for word in arguments if not word.startswith("-")), None)
    for name, point in available().items():
        if name != invoked:
            summary = SUMMARIES.get(name, f"From {point.dist.name if point.dist else point.value}.")
            root.command(name, help=summary)(_unused)
            continue
        target = point.load()
        if isinstance(target, typer.Typer):
            root.add_typer(target, name=name)
        else:
            root.command(name)(target)
    result = typer.main.get_command(root).main(
        args=arguments, prog_name="nfcot", standalone_mode=False
    )
    return result if type(result) is int else 0


def _complain(message: str, code: int) -> int:
    line = " ".join(message.split())
    if line:
        sys.stderr.write(f"error: {line}\n")
    return code


def _defect() -> int:
    """A crash must not look like a failed check (1), for which monitors wait."""
    traceback.print_exc()
    return DEFECT


def _print_version(asked: bool) -> None:
    if asked:
        sys.stdout.write(f"nfcot {__version__}\n")
        raise typer.Exit()


def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    pass


def _unused() -> None:
    """Stands in `--help` for a command whose module this invocation does not need."""


if __name__ == "__main__":
    main()
