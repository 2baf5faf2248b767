"""The simulator: what a work takes on 1 to 1,024 devices, from the same sharded programs."""

from leptonc.shard.simulate.api import simulate
from leptonc.shard.simulate.layout import Layout, Prediction, Stage
from leptonc.shard.simulate.predict import Study
from leptonc.shard.simulate.search import OBJECTIVES, Found, best_layout
from leptonc.shard.simulate.work import Phase, Work, generation, single

__all__ = [
    "OBJECTIVES", "Found", "Layout", "Phase", "Prediction", "Stage", "Study", "Work",
    "best_layout", "generation", "simulate", "single",
]  # fmt: skip
