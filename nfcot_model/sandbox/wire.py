"""How do the pool and a worker write to each other?

A batch of jobs is its length and a JSON list; a reply is a kind, the seconds taken, a length and
a body. Before jobs are run a reply of kind TAKEN says, in decimal, how many: if the worker dies
then, one of them may be why; if it dies before, none is. TAKEN 0 is a sign of life within a job.

Standard library only: the worker imports this module into its clean interpreter.
"""

from __future__ import annotations

import struct

__all__ = ["COUNT", "ERROR", "REPLY", "REPORT", "TAKEN", "TIMEOUT", "Reply"]

COUNT = struct.Struct("!I")
REPLY = struct.Struct("!BdI")
REPORT, ERROR, TIMEOUT, TAKEN = range(4)

Reply = tuple[int, float, bytes]
