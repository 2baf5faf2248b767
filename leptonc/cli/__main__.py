"""``python -m leptonc.cli``."""

from leptonc.cli import main

main()
