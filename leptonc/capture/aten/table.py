"""The one table of importers, joined from the topics."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from leptonc.capture.aten import (
    activation,
    arithmetic,
    contract,
    data,
    indexing,
    movement,
    norm,
    pool,
    quantized,
    recurrent,
    reduce,
    shape,
)
from leptonc.capture.aten.base import Importer

IMPORTERS: Mapping[str, Importer] = MappingProxyType(
    {
        **activation.IMPORTERS,
        **arithmetic.IMPORTERS,
        **contract.IMPORTERS,
        **norm.IMPORTERS,
        **reduce.IMPORTERS,
        **pool.IMPORTERS,
        **shape.IMPORTERS,
        **movement.IMPORTERS,
        **indexing.IMPORTERS,
        **data.IMPORTERS,
        **recurrent.IMPORTERS,
        **quantized.IMPORTERS,
    }
)
"""``"aten.conv2d.default"`` -> ``(context, args) -> value | tuple of values and None``.

In-place overloads are looked up under the name of their plain twin.
"""
