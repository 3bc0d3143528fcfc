"""One thread per fit: the matrices are small, and threads that wait for each other cost more."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from threadpoolctl import threadpool_limits

__all__ = ["one_thread_each"]


@contextmanager
def one_thread_each() -> Iterator[int]:
    """Linear algebra on one thread; yields how many torch was given, for work side by side."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1):
            yield threads
    finally:
        torch.set_num_threads(threads)
