"""parts > saved: a part on disk: its compiled net, and its names in a small JSON beside."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def save_part(part: Any, directory: Path) -> None:
    """Write ``part`` to ``directory``."""
    raise NotImplementedError
