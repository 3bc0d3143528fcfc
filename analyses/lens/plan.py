"""What is asked of the lenses."""

from __future__ import annotations

from dataclasses import dataclass

from nfcot_model.errors import UserError

__all__ = ["DEFAULT", "LENSES", "Plan", "passes"]

DEFAULT = ("logit", "codec", "mean")
LENSES = (*DEFAULT, "affine")


@dataclass(frozen=True)
class Plan:
    """Which lenses, at which layers, how many tokens each, over how many traces, from which seed?

    `lenses` None: those of `DEFAULT` that this model has. `layers` None: all; 0 are the embeddings,
    negative ones count from the end. `seed` decides the traces, the foreign texts, the halves that
    maps are fitted on and the resamples. Raises UserError for what cannot be asked.
    """

    lenses: tuple[str, ...] | None = None
    layers: tuple[int, ...] | None = None
    top: int = 5
    n: int = 200
    seed: int = 0

    def __post_init__(self) -> None:
        unknown = [name for name in self.lenses or () if name not in LENSES]
        if unknown or self.lenses == ():
            raise UserError(
                f"--lens '{','.join(unknown)}': expected some of {', '.join(LENSES)}, such as"
                " codec,mean"
            )
        if self.layers is not None and not {"logit", "affine"} & set(self.lenses or DEFAULT):
            raise UserError(
                "--layers: codec and mean have no layers; add logit or affine to --lens"
            )
        for flag, value in (("--top", self.top), ("-n", self.n)):
            if value < 1:
                raise UserError(f"{flag} {value}: expected at least 1")


def passes(lenses: tuple[str, ...] | None) -> int:
    """How often is each trace gone through? Once for tokens, for texts and for states each."""
    asked = set(lenses or DEFAULT)
    return ("logit" in asked) + bool(asked & {"codec", "mean"}) + ("affine" in asked)
