"""The importer table: ATen overload -> function that builds kinds, by topic."""

from leptonc.capture.aten.table import IMPORTERS

__all__ = ["IMPORTERS"]
