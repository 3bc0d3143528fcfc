"""Published benchmarks from the files that their authors give out, read from a user's disk."""

from nfcot_model.benchmark_files.export import export_samples
from nfcot_model.benchmark_files.read import FORMATS, detect, read_benchmark
from nfcot_model.benchmark_files.task import Benchmark, Task, UnjudgedError

__all__ = [
    "FORMATS",
    "Benchmark",
    "Task",
    "UnjudgedError",
    "detect",
    "export_samples",
    "read_benchmark",
]
