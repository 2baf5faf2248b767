"""Placements that a user asks for: by name, by pattern, refused with what is possible."""

from __future__ import annotations

import pytest
from strategies.sharding import agrees, whole_numbers

from leptonc.cost.cluster import Cluster, Device, Link
from leptonc.errors import PlanError
from leptonc.ir.core import Builder, Function, Origin, Value
from leptonc.ir.kinds import binary, contract, data, shape, unary
from leptonc.ir.types import DType, TensorType
from leptonc.meaning import const_of
from leptonc.shard.hints import Hints
from leptonc.shard.placement import Partial, Placement, Replicate, Shard
from leptonc.shard.plan import Plan, plan


def _weight(b: Builder, module: str, name: str, *dims: int) -> Value:
    b.origin = Origin(module)
    return b(data.Constant(const_of(whole_numbers(TensorType(DType.F32, dims), 3, -1, 1))),
             hint=name)  # fmt: skip


def net() -> Function:
    """Return two layers of a column and a row product, 5 heads of 4 between them."""
    b = Builder("net")
    x = b.param(TensorType(DType.F32, (3, 12)), "x")
    for i in range(2):
        up = _weight(b, f"layers.{i}.mlp.up", f"layers_{i}_up_weight", 20, 12)
        bias = _weight(b, f"layers.{i}.mlp.up", f"layers_{i}_up_bias", 20)
        y = b(shape.Reshape((3, 5, 4)), b(contract.Linear(), x, up, bias))
        y = b(shape.Reshape((3, 20)), b(unary.Relu(), y))
        down = _weight(b, f"layers.{i}.mlp.down", f"layers_{i}_down_weight", 12, 20)
        x = b(binary.Add(), x, b(contract.Linear(), y, down))
    return b.finish(x)


def planned(hints: Hints, ranks: int = 2, fn: Function | None = None) -> Plan:
    """Return a plan on a cluster where sharing never pays: what is cut was asked for."""
    device = Device("core", {"f32": 1e12}, 1e12, launch_s=1e-9)
    alphas = dict.fromkeys(("all_reduce", "all_gather", "reduce_scatter", "all_to_all"), 1e-3)
    fn = fn or net()
    made = plan(fn, Cluster("dear", device, ranks, Link("wire", 1e9, alphas)), hints=hints)
    agrees(fn, made.program, [whole_numbers(p.type, 0, -1, 1) for p in fn.params])
    return made


def placed(made: Plan) -> dict[str, Placement]:
    """Return where each weight of two axes is."""
    pairs = zip(made.function.ops, made.strategies, strict=True)
    return {
        op.result.hint: s.outs[0] for op, s in pairs
        if isinstance(op.kind, data.Constant) and op.result.type.rank == 2
    }  # fmt: skip


def test_without_hints_nothing_is_cut_here() -> None:
    assert set(placed(planned({})).values()) == {Replicate()}


@pytest.mark.parametrize("name", ["layers.0.mlp.up", "layers_0_up_weight"])
def test_one_weight_by_its_module_or_its_name(name: str) -> None:
    where = placed(planned({name: Shard(0)}))
    assert where.pop("layers_0_up_weight") == Shard(0)
    assert set(where.values()) == {Replicate()}


def test_a_pattern_takes_all_that_it_matches() -> None:
    where = placed(planned({"layers.*.mlp.up": Shard(0), "*down_weight": Shard(1)}))
    assert where == {
        "layers_0_up_weight": Shard(0),
        "layers_1_up_weight": Shard(0),
        "layers_0_down_weight": Shard(1),
        "layers_1_down_weight": Shard(1),
    }


def test_of_two_that_match_the_later_holds() -> None:
    where = placed(planned({"*up": Shard(0), "layers.1.*": Replicate()}))
    assert where["layers_0_up_weight"] == Shard(0)
    assert where["layers_1_up_weight"] == Replicate()


def test_whole_on_request() -> None:
    device = Device("core", {"f32": 1e3}, 1e3)
    fast = Cluster("slow", device, 2, Link("wire", 1e12))
    free = placed(plan(net(), fast))
    assert any(isinstance(p, Shard) for p in free.values())
    kept = placed(plan(net(), fast, hints={"*": Replicate()}))
    assert set(kept.values()) == {Replicate()}


def test_heads_are_units_of_a_part() -> None:
    made = planned({"*up": Shard(0)}, ranks=3)
    assert made.program.tables["len5"] == (2, 2, 1)


def test_a_name_that_matches_nothing_lists_those_that_are_near() -> None:
    with pytest.raises(PlanError) as found:
        planned({"layers.0.mlp.upp": Shard(0)})
    assert "'layers.0.mlp.upp' matches no weight" in str(found.value)
    assert "layers.0.mlp.up" in str(found.value).split("for example:")[1]


def test_a_name_like_no_other_lists_some() -> None:
    with pytest.raises(PlanError, match="matches no weight; there are, for example: layers_0_up"):
        planned({"@": Shard(0)})


def test_a_vector_has_no_placement_of_its_own() -> None:
    with pytest.raises(PlanError, match="'layers_0_up_bias' matches no weight"):
        planned({"layers_0_up_bias": Shard(0)})


def test_fewer_units_than_ranks_are_refused_with_what_is_possible() -> None:
    b = Builder("heads")
    x = b.param(TensorType(DType.F32, (3, 8)), "x")
    w = _weight(b, "up", "up_weight", 3, 8)
    fn = b.finish(b(contract.Linear(), x, w))
    with pytest.raises(PlanError) as found:
        planned({"up": Shard(0)}, ranks=4, fn=fn)
    text = str(found.value)
    assert text.startswith("up_weight (f32[3,8]) cannot be placed as Shard(0)")
    assert "that axis has 3 units, fewer than 4 ranks" in text
    assert text.endswith("it can be: Replicate(), Shard(1)")


@pytest.mark.parametrize("want", [Shard(2), Shard(0, 7), Partial("max"), Shard(-1)])
def test_what_a_weight_can_never_be_is_refused(want: Placement) -> None:
    with pytest.raises(PlanError, match=r"layers_0_up_weight .* cannot be placed as .*it can be:"):
        planned({"layers.0.mlp.up": want})


def test_a_part_that_a_reader_cannot_take_is_refused() -> None:
    """A table read by an op without such a rule: the weight alone could be cut so."""
    b = Builder("tied")
    x = b.param(TensorType(DType.F32, (3, 8)), "x")
    w = _weight(b, "up", "up_weight", 8, 8)
    cut = b(shape.Flip((0,)), w)
    fn = b.finish(b(contract.Linear(), x, cut))
    with pytest.raises(PlanError, match="no plan keeps all hints"):
        planned({"up_weight": Shard(0)}, fn=fn)


def test_a_table_that_is_read_twice_is_cut_once() -> None:
    b = Builder("tied")
    i = b.param(TensorType(DType.I64, (3,)), "i")
    w = _weight(b, "token", "token_weight", 11, 8)
    fn = b.finish(b(contract.Linear(), b(data.Embedding(), w, i), w))
    device = Device("core", {"f32": 1e12}, 1e12)
    cluster = Cluster("dear", device, 3, Link("wire", 1e9))
    made = plan(fn, cluster, hints={"token": Shard(0)})
    assert made.program.tables["len11"] == (4, 4, 3)
    agrees(fn, made.program, [whole_numbers(fn.params[0].type, 0, 0, 10)])
