"""runtime > caches: how much memory lies near a core, for plans that want to stay in it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

from leptonc.runtime.governor import affinity_cores

_UNITS = {"K": 2**10, "M": 2**20, "G": 2**30}


@dataclass(frozen=True)
class Caches:
    """Bytes of a core's second-level cache, and of the largest cache that cores share."""

    l2: int
    l3: int


# What is assumed where the system does not tell: a small machine.
SMALL = Caches(l2=512 * 2**10, l3=8 * 2**20)


# What a core gets of a cache that the whole processor shares, at most. A virtual machine is told of
# all of it (260 MiB for two cores were seen), and its neighbours use it, too.
SHARE = 16 * 2**20


@cache
def read_caches(folder: Path = Path("/sys/devices/system/cpu/cpu0/cache")) -> Caches:
    """Return the sizes that Linux tells for the first core; ``SMALL`` where it tells nothing.

    Of the third level it is what the usable cores may count on.
    """
    sizes: dict[int, int] = {}
    for entry in folder.glob("index*"):
        try:
            level, kind, size = ((entry / n).read_text().strip() for n in ("level", "type", "size"))
            if kind != "Instruction":
                sizes[int(level)] = int(size.rstrip("KMG")) * _UNITS.get(size[-1:], 1)
        except (OSError, ValueError):
            continue
    l2 = sizes.get(2, SMALL.l2)
    l3 = min(sizes.get(3, SMALL.l3 if 2 not in sizes else l2), SHARE * affinity_cores())
    return Caches(l2, max(l3, l2))
