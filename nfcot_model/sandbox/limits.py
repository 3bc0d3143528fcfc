"""What may a checked answer use, and what came of it?"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

from nfcot_model.errors import UserError

__all__ = ["Limits", "Status", "Verdict"]

Status = Literal["passed", "failed", "error", "timeout"]


@dataclass(frozen=True)
class Limits:
    """How much may one answer use before it is killed?

    `wall_seconds` of real time, `cpu_seconds` of processor time (whole seconds, as the kernel
    counts them), `memory_mib` MiB of address space on top of the bare interpreter, `file_bytes`
    in any one file, `output_bytes` for all returned values together as JSON.

    Raises UserError for a value that is not positive (`file_bytes` may be 0).
    """

    wall_seconds: float = 2.0
    cpu_seconds: int = 2
    memory_mib: int = 256
    file_bytes: int = 0
    output_bytes: int = 1 << 20

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            least = 0 if name == "file_bytes" else 1
            if name == "wall_seconds":
                if not (math.isfinite(value) and value > 0):
                    raise UserError(f"Limits.{name}: expected seconds above 0, got {value!r}")
            elif not isinstance(value, int) or value < least:
                raise UserError(f"Limits.{name}: expected a whole number >= {least}, got {value!r}")

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Verdict:
    """Did an answer pass its check, and if not, why?

    `passed`: every case or the whole test held. `failed`: the answer ran and is wrong. `error`:
    it did not run to its end (syntax error, exception, memory, forbidden call, early exit).
    `timeout`: it used up its wall or processor time. `seconds` is the wall time of its process.
    """

    status: Status
    detail: str
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)
