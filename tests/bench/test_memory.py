"""The memory table: what was measured, and ours against the peer that holds least."""

from __future__ import annotations

import io

from rich.console import Console

from leptonc.bench import memory, memory_table

MIB = 1 << 20


def held(mib: int, **more: int) -> dict[str, int]:
    names = ("imports", "steady", "anonymous", "peak", "kept")
    return {n: mib * MIB for n in names} | {n: 0 for n in ("constants", "arena", "bound")} | more


ROW = {
    "again": held(20, arena=3 * MIB, bound=2 * MIB),
    "onnxruntime": held(10),
    "openvino": held(40),
}


def text(table: object) -> str:
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(table)
    return console.export_text()


def test_ours_against_the_peer_that_holds_least():
    assert memory_table.against_best(ROW) == "2.00 onnxruntime"
    assert memory_table.against_best({"again": held(20), "openvino": held(40)}) == "0.50 openvino"


def test_what_the_model_alone_leaves_has_a_row():
    shown = text(memory_table.bytes_table({"net": {"again": held(20, making=5 * MIB)}}, ("again",)))
    (line,) = [n for n in shown.splitlines() if "making the model" in n]
    assert line.split("│")[2].strip() == "5"


def test_nothing_to_compare_is_blank():
    assert memory_table.against_best({"onnxruntime": held(10)}) == ""
    assert memory_table.against_best({"again": held(10)}) == ""


def test_who_was_not_measured_has_a_blank_cell():
    shown = text(memory_table.bytes_table({"net": ROW}, memory.CONTESTANTS))
    (line,) = [n for n in shown.splitlines() if "2.00 onnxruntime" in n]
    assert line.count("20 / 20 / 20") == 1 and line.count("40 / 40 / 40") == 1


def test_the_arena_against_its_bound():
    assert "1.500" in text(memory_table.arena_table({"net": ROW}))
    assert "peer" not in text(memory_table.arena_table({"peer": {"openvino": held(1)}}))


def test_figures_that_are_known_are_not_measured_again():
    assert memory.row("mlp", ("again", "onnxruntime"), ROW) == ROW
