"""compress > prune: channels, heads, neurons, blocks and single weights removed from IR.

:mod:`groups` finds what must go together, :mod:`importance` ranks it, :mod:`select` chooses,
:mod:`rebuild` makes the smaller Function; :mod:`blocks` removes residual branches; :mod:`sparse`
sets single weights to zero in one shot, :mod:`schedule` while a module trains.
"""

from leptonc.compress.prune.groups import Group, groups_of
from leptonc.compress.prune.recipe import Prune
from leptonc.compress.prune.schedule import PruneSchedule

__all__ = ["Group", "Prune", "PruneSchedule", "groups_of"]
