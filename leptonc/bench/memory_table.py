"""The tables of :mod:`leptonc.bench.memory`: who holds how much, the arena and its bound."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.table import Table

MIB = 1 << 20
PEERS = ("onnxruntime", "openvino")
Row = Mapping[str, Mapping[str, int]]  # figures by contestant (``memory.Held``'s fields)


def bytes_table(rows: Mapping[str, Row], who: Sequence[str]) -> Table:
    """Return MiB by network and contestant, and ours against the best of the peers.

    A cell is "steady / anonymous / peak"; one that was not measured is blank.
    """
    title = "MiB above the imports: steady / anonymous / peak"
    made = Table("net", *who, "again : best peer", title=title)
    for name, row in rows.items():
        cells = [_cell(row[w]) if w in row else "" for w in who]
        made.add_row(name, *cells, against_best(row))
    made.add_section()
    for label, key in (("the imports", "imports"), ("making the model alone", "making")):
        found = [[r[w][key] for r in rows.values() if r.get(w, {}).get(key)] for w in who]
        made.add_row(label, *map(_spread, found), "")
    return made


def against_best(row: Row, ours: str = "again") -> str:
    """Return steady bytes of ``ours`` over those of the peer that holds least, blank without."""
    found = {w: row[w]["steady"] for w in PEERS if w in row}
    if ours not in row or not found:
        return ""
    best = min(found, key=lambda w: found[w])
    return f"{row[ours]['steady'] / found[best]:.2f} {best}"


def arena_table(rows: Mapping[str, Row]) -> Table:
    """Return, by network, constants and arena in MiB, the largest live set, their ratio."""
    made = Table("net", "constants", "arena", "largest live set", "ratio", title="MiB planned")
    for name, row in rows.items():
        found = next((row[w] for w in row if row[w]["bound"]), None)
        if found is not None:
            sizes = [f"{found[k] / MIB:.2f}" for k in ("constants", "arena", "bound")]
            made.add_row(name, *sizes, f"{found['arena'] / found['bound']:.3f}")
    return made


def _cell(held: Mapping[str, int]) -> str:
    return " / ".join(f"{held[k] / MIB:.0f}" for k in ("steady", "anonymous", "peak"))


def _spread(values: Sequence[int]) -> str:
    if not values:
        return ""
    low, high = (f"{v / MIB:.0f}" for v in (min(values), max(values)))
    return low if low == high else f"{low} to {high}"
