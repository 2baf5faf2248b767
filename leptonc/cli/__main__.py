"""``python -m leptonc.cli``."""

from leptonc.cli import main

if __name__ == "__main__":
    main()
