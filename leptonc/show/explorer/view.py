"""show > explorer > view: what ``net.explore`` gives: a file, a widget, or a frame."""

from __future__ import annotations

import importlib
import importlib.util
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from leptonc.errors import InputError
from leptonc.show import summary
from leptonc.show.explorer import export
from leptonc.show.explorer.document import document
from leptonc.show.explorer.page import frame, page
from leptonc.show.profile import Profile


@dataclass(frozen=True)
class Frame:
    """The explorer inside a notebook's cell where widgets are not installed."""

    document: dict[str, Any] = field(repr=False)
    name: str = ""

    def _repr_html_(self) -> str:
        """Return the page in a frame of its own."""
        return frame(self.document)


def explore(net: Any, path: str | Path | None, profile: Profile | None) -> Any:
    """Return a widget (or a frame), or write ``path`` and return it.

    The suffix says what is written: ``.html`` the explorer, ``.json`` Model Explorer's graphs,
    ``.dot`` the optimized program for Graphviz.

    Raises:
        InputError: another suffix, or a model that has not been compiled yet.
    """
    if path is None:
        return _shown(document(net, profile))
    file = Path(path)
    file.write_text(writer(file)(net, profile), encoding="utf-8")
    return file


def writer(file: Path) -> Callable[[Any, Profile | None], str]:
    """Return what makes the text of a file with this suffix. Raises InputError for another one."""
    if file.suffix not in _WRITERS:
        raise InputError(f"{file.name}: expected a name that ends in {', '.join(_WRITERS)}")
    return _WRITERS[file.suffix]


def _shown(doc: dict[str, Any]) -> Any:
    if importlib.util.find_spec("anywidget") is None:
        return Frame(doc, doc["name"])
    return importlib.import_module("leptonc.show.explorer.widget").widget(doc)


def _graphs(net: Any, profile: Profile | None) -> str:
    steps, _ = summary.stages(net)
    stages = [("captured", steps[0].before)] if steps else []
    stages += [(f"{s.index + 1} {s.name}", s.after) for s in steps if s.changed]
    return json.dumps(export.model_explorer(net.name, stages or [("optimized", net.ir)]))


_WRITERS: dict[str, Callable[[Any, Profile | None], str]] = {
    ".html": lambda net, profile: page(document(net, profile)),
    ".json": _graphs,
    ".dot": lambda net, profile: export.dot(net.ir),
}
