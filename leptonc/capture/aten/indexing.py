"""Importers of look-ups: embedding, index, gather, index_select."""

from __future__ import annotations

from collections.abc import Mapping

from leptonc.capture.aten.base import Importer, named
from leptonc.capture.context import Args, Context, axis_of, want
from leptonc.ir.core import Value
from leptonc.ir.kinds.data import Embedding, Gather, IndexSelect


def _embedding(c: Context, a: Args) -> Value:
    return c(Embedding(), a.weight, a.indices)


def _index(c: Context, a: Args) -> Value:
    """Import ``x[:, i]``: one integer tensor; several would need their own range checks."""
    given = [(axis, i) for axis, i in enumerate(a.indices) if i is not None]
    want(len(given) == 1, "an index by several tensors has no kind")
    axis, index = given[0]
    want(index.type.dtype.is_int, "an index by a mask has no kind")
    return c(IndexSelect(axis, wrap=True), a.self, index)


def _index_select(c: Context, a: Args) -> Value:
    want(a.self.type.rank > 0, "an index of a 0-d tensor")
    index = a.index if a.index.type.rank else c.reshape(a.index, (1,))
    return c(IndexSelect(axis_of(a.dim, a.self.type.rank)), a.self, index)


def _gather(c: Context, a: Args) -> Value:
    want(a.self.type.rank > 0 and a.index.type.rank > 0, "a gather of a 0-d tensor")
    return c(Gather(axis_of(a.dim, a.self.type.rank)), a.self, a.index)


IMPORTERS: Mapping[str, Importer] = {
    **named(_embedding, "embedding.default"),
    **named(_index, "index.Tensor", "_unsafe_index.Tensor"),
    **named(_index_select, "index_select.default"),
    **named(_gather, "gather.default"),
}
