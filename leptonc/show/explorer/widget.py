"""show > explorer > widget: the explorer as a Jupyter widget. Needs the extra ``notebook``."""

from __future__ import annotations

import json
from typing import Any

import anywidget  # pyright: ignore[reportMissingImports]
import traitlets  # pyright: ignore[reportMissingImports]

from leptonc.show.explorer.page import look, script

_RENDER = """
export default {
  render({ model, el }) {
    mount(el, JSON.parse(model.get("document"))).root.style.height = `${model.get("height")}px`;
  },
};
"""
SOURCE = script() + _RENDER  # the module that a notebook imports


class Explorer(anywidget.AnyWidget):
    """Shows a document (see ``document``); ``height`` in pixels."""

    _esm = SOURCE
    _css = look()
    document = traitlets.Unicode("{}").tag(sync=True)
    height = traitlets.Int(640).tag(sync=True)


def widget(document: dict[str, Any], height: int = 640) -> Explorer:
    """Return the explorer of a document as a widget."""
    return Explorer(document=json.dumps(document, allow_nan=False), height=height)
