"""The ``leptonc`` command: compile, compress, explore, profile, bisect, ir, passes, bench, ..."""

from leptonc.cli import compiling, compressing, looking, measuring, planning
from leptonc.cli.app import app, main

__all__ = ["app", "compiling", "compressing", "looking", "main", "measuring", "planning"]
