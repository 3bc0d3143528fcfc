"""Planted anomalies of known place and strength: what an audit can see, and what it cannot."""

from analyses.plants.recorded import Planting, Recorded, record, seeds_of
from analyses.plants.registry import PLANTS
from analyses.plants.spec import Plant

__all__ = ["PLANTS", "Plant", "Planting", "Recorded", "record", "seeds_of"]
