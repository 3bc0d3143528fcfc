"""What is a plant? A generator, what is true of it, how strong it can be, and who should see it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from analyses.plants.recorded import Planting, Recorded
from nfcot_model.reasoners import NFCoTReasoner

__all__ = ["Make", "Plant"]

Make = Callable[[NFCoTReasoner, Recorded, float, int], Planting]


@dataclass(frozen=True)
class Plant:
    """One kind of anomaly.

    `name` starts with its number in the suite (`P1-swap`). `make(reasoner, clean, severity, seed)`
    plants it in a clean set; severity 0 is the clean twin. `severities`: the doses that are
    measured, weakest first. `dial`: what a dose counts. `policy`: `off` (somebody changed thoughts
    or noise), `on` (the model thought so itself). `caught_by`, `missed_by`: the statistics that
    should and that cannot see the strongest dose, by what is known of them, not by what was
    measured. `most`: plant in at most so many trajectories (0: all), where planting is slow.
    """

    name: str
    asks: str
    make: Make
    severities: tuple[float, ...]
    dial: str
    policy: str
    caught_by: tuple[str, ...]
    missed_by: tuple[str, ...] = ()
    most: int = 0

    def __call__(
        self, reasoner: NFCoTReasoner, clean: Recorded, severity: float, seed: int
    ) -> Planting:
        return self.make(reasoner, clean, severity, seed)
