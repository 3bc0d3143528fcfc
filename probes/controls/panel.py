"""The controls of a probe, as features in place of the thoughts', row by row of a population."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from nfcot_model.errors import UserError
from nfcot_model.traces import Run
from probes.controls.lengths import length_features
from probes.controls.states import ControlStates, read_control
from probes.controls.text import WordCounts, count_words, decoded_texts, prompt_texts
from probes.features import gather, space_width
from probes.population import Population
from probes.sites import site_rows
from probes.weights import Features

__all__ = ["CONTROLS", "PROMPT_ONLY", "ControlFeatures", "Panel"]

PROMPT_ONLY = ("prompt_words", "prompt_state", "prompt_embedding", "prompt_layer")
CONTROLS = {
    "prompt_words": "words of the prompt, 1- to 3-grams",
    "prompt_state": "the model's state at the end of the prompt, before any thought",
    "prompt_embedding": "the mean input embedding of the prompt",
    "prompt_layer": "the state at the end of the prompt in the probe's own layer",
    "decoded_text": "words of the text that the thoughts so far decode to",
    "length_position": "numbers and lengths of thoughts, prompt and text",
    "untrained": "the same site of a model with random weights",
    "random_features": "Gaussian noise of the same width",
}
MAX_WORDS = 512
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class ControlFeatures:
    """What a control reads: `X`, one row per row of the population, or the `reason` for none.

    `like_probe`: is it fitted as the probe is? The others get the strongest linear fit, so that a
    weak estimator does not flatter the probe.
    """

    name: str
    X: Features | None
    like_probe: bool = False
    reason: str | None = None


class Panel:
    """The controls of one run. Words are counted once, states read once."""

    def __init__(self, run: Run, states: ControlStates, seed: int = 0) -> None:
        self.run = run
        self.states = states
        self.seed = seed

    def of_place(self, found: Population, train: Ints) -> Iterator[ControlFeatures]:
        """Those that do not depend on the space: prompt, text and lengths.

        `train`: rows of the population that choose the vocabulary.
        """
        words = self._prompt_words.features(found.trace[train], MAX_WORDS)
        yield ControlFeatures("prompt_words", words[found.trace])
        for name in ("prompt_state", "prompt_embedding"):
            yield self._stored(name, lambda values: values[found.trace])
        if self.run.thoughts["text"].isna().all():
            yield ControlFeatures("decoded_text", None, reason="the run has no decoded text")
        else:
            texts = count_words(decoded_texts(self.run, found.row))
            yield ControlFeatures("decoded_text", texts.features(train, MAX_WORDS))
        lengths = length_features(self.run, found.trace, found.row)
        yield ControlFeatures("length_position", lengths)

    def of_site(self, found: Population) -> Iterator[ControlFeatures]:
        """Those that depend on the space: the prompt in its layer, an untrained model, noise."""
        yield from self.own_layer(found)
        yield self.untrained(found)
        yield self.noise(found, space_width(self.run, found.site))

    def own_layer(self, found: Population) -> Iterator[ControlFeatures]:
        """The end of the prompt in the layer of a site of `h`; nothing for other spaces."""
        if found.site.layer is not None:
            yield self._stored(
                "prompt_h",
                lambda values: values[found.trace],
                layer=found.site.layer,
                name="prompt_layer",
            )

    def untrained(self, found: Population) -> ControlFeatures:
        """The same site of a model with random weights."""
        site = found.site
        rows = site_rows(self.run, site)
        kept = rows.where(np.isin(rows.trace, found.trace))
        return self._stored(
            f"untrained_{site.space}",
            lambda values: gather(values, site, kept),
            layer=site.layer,
            name="untrained",
        )

    def noise(self, found: Population, width: int) -> ControlFeatures:
        """Gaussian noise as wide as a thought; the same for all sites of one place and width."""
        rng = np.random.default_rng(self.seed)
        kept = site_rows(self.run, found.site)
        rows = kept.where(np.isin(kept.trace, found.trace))
        values = rng.standard_normal((int(rows.count.sum()), width)).astype(np.float32)
        first = np.cumsum(rows.count) - rows.count
        drawn = gather(values, found.site, replace(rows, first=first))
        return ControlFeatures("random_features", drawn, like_probe=True)

    @cached_property
    def _prompt_words(self) -> WordCounts:
        return count_words(prompt_texts(self.run, np.arange(len(self.run.traces))))

    def _stored(
        self,
        stored: str,
        pick: Callable[[NDArray[np.float32]], Features],
        layer: int | None = None,
        name: str | None = None,
    ) -> ControlFeatures:
        """A control whose states are kept under the run, or why there is none."""
        name = name or stored
        like = name == "untrained"
        if stored not in self.states.available:
            reason = self.states.unavailable.get(stored, "it was not computed")
            return ControlFeatures(name, None, like, reason)
        try:
            return ControlFeatures(name, pick(read_control(self.run, stored, layer)), like)
        except UserError as error:
            return ControlFeatures(name, None, like, str(error))
