"""The ``leptonc`` command: compile, explore, profile, bisect, ir, passes, doctor, bench, plan."""

from leptonc.cli import compiling, looking, measuring, planning
from leptonc.cli.app import app, main

__all__ = ["app", "compiling", "looking", "main", "measuring", "planning"]
