"""The battery: statistics of thoughts in noise space, per thought and per trajectory.

`fit_battery` on clean runs (or plain arrays, `Noise.of`), then `battery.score` on others.
"""

from analyses.battery.battery import Battery, BatteryScores
from analyses.battery.catalogue import COMBINED, OPTIONAL_STATISTICS, STATISTICS
from analyses.battery.fit import fit_battery
from analyses.battery.noise import Noise
from analyses.battery.source import Selection, run_noise

__all__ = [
    "COMBINED",
    "OPTIONAL_STATISTICS",
    "STATISTICS",
    "Battery",
    "BatteryScores",
    "Noise",
    "Selection",
    "fit_battery",
    "run_noise",
]
