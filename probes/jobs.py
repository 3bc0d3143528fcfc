"""What is there to do in a sweep? One job per place, per noise and per site."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator

from nfcot_model.traces import Run
from probes.cells import Cell, Job
from probes.controls.compare import kinds_of
from probes.controls.panel import ControlFeatures, Panel
from probes.estimators import strongest
from probes.features import gather, read_space, space_width
from probes.fitting import some
from probes.permutations import Donors, control_task
from probes.population import Population
from probes.reading import Task
from probes.sites import Site, site_rows

__all__ = ["Results", "SweepJobs", "with_values"]

Results = dict[str, tuple[list[Cell], list[Cell]]]


@dataclass(frozen=True)
class SweepJobs:
    """The units of a sweep: the controls of each place, noise of each width, and each site."""

    run: Run
    found: dict[str, Population]
    tasks: dict[str, Task]
    chosen: dict[str, list[str | BaseEstimator]]
    whose: tuple[Donors, NDArray[np.int64]] | None
    cell_draws: int
    device: str

    def batches(
        self, sites: Sequence[Site], panel: Panel | None
    ) -> Iterator[list[tuple[str, Callable[[], Job]]]]:
        """Named jobs that share what they read; each space is read once, if any is to be done."""
        if panel is not None:
            places = dict.fromkeys(str(site.place) for site in sites)
            yield [(place, partial(self._place, place, panel)) for place in places]
            yield [
                (name, partial(self._noise, name, site, width, panel))
                for name, (site, width) in self._widths(sites).items()
            ]
        for source in dict.fromkeys(site.source for site in sites):
            mine = [site for site in sites if site.source == source]
            space = lru_cache(maxsize=1)(partial(read_space, self.run, mine[0]))
            yield [(str(site), partial(self._site, site, space, panel)) for site in mine]

    def control_cells(self, sites: Sequence[Site], results: Results) -> Iterator[Cell]:
        """Those of places, then those of sites; sites of one width and place share their noise."""
        for place in dict.fromkeys(str(site.place) for site in sites):
            yield from results[place][1]
        for site in sites:
            yield from results[str(site)][1]
            noise = results[self._noise_name(site, space_width(self.run, site))][1]
            yield from (replace(cell, site=str(site)) for cell in noise)

    def _widths(self, sites: Sequence[Site]) -> dict[str, tuple[Site, int]]:
        found: dict[str, tuple[Site, int]] = {}
        for site in sites:
            width = space_width(self.run, site)
            found.setdefault(self._noise_name(site, width), (site, width))
        return found

    def _noise_name(self, site: Site, width: int) -> str:
        return f"noise of width {width} at {site.place}"

    def _place(self, place: str, panel: Panel) -> Job:
        task, found = self.tasks[place], self.found[place]
        return self._job(place, task, panel.of_place(found, task.rows.train))

    def _noise(self, name: str, site: Site, width: int, panel: Panel) -> Job:
        place = str(site.place)
        noise = panel.noise(replace(self.found[place], site=site), width)
        return self._job(name, self.tasks[place], [noise], own=self._own(site))

    def _site(
        self, site: Site, space: Callable[[], NDArray[np.float32]], panel: Panel | None
    ) -> Job:
        place = str(site.place)
        task = self.tasks[place]
        found = with_values(self.run, self.found[place], site, space())
        train = task.rows.train
        controls: list[ControlFeatures] = []
        memory = None
        if panel is not None:
            controls = [*panel.own_layer(found), panel.untrained(found)]
            kinds, _ = kinds_of(found, self.run)
            memory = control_task(found.y, kinds, task.seed)[train]
        job = self._job(str(site), task, controls, own=self._own(site))
        return replace(
            job,
            X=some(found.X if found.X is not None else [], train),
            estimators=tuple(self.chosen[str(site)]),
            permuted=self._permuted(found, task),
            memory=memory,
        )

    def _job(
        self, name: str, task: Task, controls: Iterable[ControlFeatures], own: str = ""
    ) -> Job:
        train = task.rows.train
        return Job(
            name=name,
            task=task.training(),
            draws=self.cell_draws,
            strongest=strongest(task.kind),
            own=own or strongest(task.kind),
            controls=tuple(c if c.X is None else replace(c, X=some(c.X, train)) for c in controls),
            device=self.device,
        )

    def _own(self, site: Site) -> str:
        """The estimator of controls that are fitted as the probe is: the first of a site's."""
        first = self.chosen[str(site)][0]
        return first if isinstance(first, str) else ""

    def _permuted(self, found: Population, task: Task) -> NDArray[Any] | None:
        if self.whose is None:
            return None
        exchange, position = self.whose
        train = task.rows.train
        return exchange.labels(found.y[train], position[found.trace[train]])


def with_values(run: Run, base: Population, site: Site, values: NDArray[np.float32]) -> Population:
    """The population of a place, with what stands at one of its sites."""
    rows = site_rows(run, site)
    kept = rows.where(np.isin(rows.trace, base.trace))
    return replace(base, X=gather(values, site, kept), site=site)
