"""Torch's warnings, logs and prints while it traces: kept off the user's terminal."""

from __future__ import annotations

import logging
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

# What these say on the way to a failure, CaptureError says better.
_NOISY = (
    "torch._subclasses.fake_tensor",
    "torch.export",
    "torch.fx.experimental.symbolic_shapes",
    "torch.fx.experimental.proxy_tensor",
)


class _OthersOnly:
    """A standard error that drops what one thread writes (torch prints partial graphs there)."""

    def __init__(self, stream: Any) -> None:
        self.stream, self.muted = stream, threading.get_ident()

    def write(self, text: str) -> int:
        return len(text) if threading.get_ident() == self.muted else self.stream.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


@contextmanager
def quiet() -> Iterator[None]:
    """Mute torch's tracing in this thread; what other threads print still appears."""
    loggers = [logging.getLogger(name) for name in _NOISY]
    levels = [log.level for log in loggers]
    stderr = sys.stderr
    for log in loggers:
        log.setLevel(logging.CRITICAL + 1)
    sys.stderr = _OthersOnly(stderr)  # type: ignore[assignment]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        sys.stderr = stderr
        for log, level in zip(loggers, levels, strict=True):
            log.setLevel(level)
