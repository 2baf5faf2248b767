"""One call for all that can be simulated: a plan, a program, or requests of several programs."""

from __future__ import annotations

from leptonc.cost.cluster import Cluster
from leptonc.cost.presets import parse_cluster
from leptonc.errors import PlanError
from leptonc.ir.core import Function
from leptonc.shard.hints import weight_names
from leptonc.shard.plan import Plan
from leptonc.shard.simulate.layout import Layout, Prediction
from leptonc.shard.simulate.predict import Study
from leptonc.shard.simulate.work import Work, single
