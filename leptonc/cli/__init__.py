"""The ``leptonc`` command: compile, explore, profile, bisect, ir, passes, doctor, bench."""

from leptonc.cli import compiling, looking, measuring
from leptonc.cli.app import app, main

__all__ = ["app", "compiling", "looking", "main", "measuring"]
