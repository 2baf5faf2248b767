"""mutation > in_sharding: faults in rules, plans, programs of ranks, and what ranks exchange.

They have no models: a compile for one device runs none of this code.
"""

from __future__ import annotations

from mutation.fault import Fault

_RULES = "tests/shard/test_rules.py"


def _shard(name: str, file: str, category: str, before: str, after: str, *tests: str) -> Fault:
    return Fault(name, "sharding", category, f"{file}.py", before, after, tests, (), ())


FAULTS: tuple[Fault, ...] = (
    # rules
    _shard("bias-on-every-rank", "leptonc/shard/rules/contraction", "wrong partial sum",
           "yield Strategy(_with(ins, more, PARTIAL), (PARTIAL,))",
           "yield Strategy(_with(ins, more, REPLICATE), (PARTIAL,))", _RULES),
    _shard("causal-rows-are-cut", "leptonc/shard/rules/contraction", "dead guard",
           "if not kind.causal:\n        for s in _shards(site, rank - 2, rank):",
           "if kind is not None:\n        for s in _shards(site, rank - 2, rank):", _RULES,
           "-k", "attention"),
    _shard("groups-cut-within", "leptonc/shard/rules/contraction", "wrong offset",
           "(Shard(1),), units=groups)", "(Shard(1),))", _RULES, "-k", "conv"),
    _shard("concat-in-one-block", "leptonc/shard/rules/movement", "wrong offset",
           "(Shard(axis, s.outer * count),)", "(Shard(axis, s.outer),)", _RULES, "-k", "concat"),
    _shard("reshape-forgets-front", "leptonc/shard/rules/movement", "wrong offset",
           "blocks, run = ahead * s.outer, run // s.outer",
           "blocks, run = s.outer, run // s.outer", _RULES, "-k", "reshape or fires"),
    _shard("sum-plus-whole", "leptonc/shard/rules/elementwise", "wrong partial sum",
           "yield Strategy((PARTIAL, PARTIAL), (PARTIAL,))",
           "yield Strategy((PARTIAL, REPLICATE), (PARTIAL,))", _RULES, "-k", "any_attributes"),
    # what a rank runs
    _shard("mean-over-own-part", "leptonc/shard/localize", "wrong arithmetic",
           "kind, x = cast(reduce.Mean, op.kind), op.operands[0].type",
           "kind, x = cast(reduce.Mean, op.kind), operands[0].type", _RULES, "-k", "mean"),
    _shard("keys-of-the-first-heads", "leptonc/shard/localize", "wrong offset",
           "own = b(data.Iota(cut.size, cut.start, 1, DType.I64))",
           "own = b(data.Iota(cut.size, 0, 1, DType.I64))", _RULES),
    _shard("vocabulary-not-moved", "leptonc/shard/localize", "wrong offset",
           "own = b(binary.Sub(), index, number(cut.start))",
           "own = b(binary.Sub(), index, number(0))", _RULES, "-k", "embedding"),
    _shard("groups-of-the-whole", "leptonc/shard/localize", "stale buffer",
           "if not isinstance(x, Shard) or x.axis != 1 or kind.groups == 1:",
           "if not isinstance(x, Shard) or x.axis != 1 or kind.groups >= 1:", _RULES),
    _shard("constant-on-every-rank", "leptonc/shard/lower", "wrong partial sum",
           "local = self.b(Owned(rank), whole)", "local = whole", _RULES, "-k", "constant"),
    _shard("value-on-every-rank", "leptonc/shard/redistribute", "wrong partial sum",
           "return self.b(Owned(rank), local, hint=value.hint)", "return local",
           "tests/shard/test_random.py"),
    _shard("part-of-the-neighbour", "leptonc/shard/redistribute", "wrong offset",
           "x = self.b(Slice(axis, cut.start, as_dim(stop + cut.size)), x, hint=value.hint)",
           "x = self.b(Slice(axis, 0, cut.size), x, hint=value.hint)", _RULES),
    # parts and checks
    _shard("finished-first-gets-more", "leptonc/shard/placement", "off-by-one band",
           "key=lambda r: ((sizes[r] + 1) / speeds[r], r)",
           "key=lambda r: (sizes[r] / speeds[r], r)", "tests/shard/test_placement.py"),
    _shard("smaller-parts-first", "leptonc/shard/placement", "off-by-one band",
           "sizes = [each + (r < more) for r in range(ranks)]",
           "sizes = [each + (r >= ranks - more) for r in range(ranks)]",
           "tests/shard/test_placement.py"),
    _shard("ties-forget-lengths", "leptonc/shard/spread", "dead guard",
           "self.count[first] = math.gcd(self.count[first], self.count[root])",
           "self.count[first] = max(self.count[first], self.count[root])",
           "tests/shard/test_spread.py", _RULES),
    _shard("extremes-pass-for-sums", "leptonc/shard/check", "dead guard",
           'return "" if made[0].op == makes else', 'return "" if made else',
           "tests/shard/test_check.py"),
    _shard("cuts-not-compared", "leptonc/shard/check", "dead guard",
           "if own != list(part_sizes(cuts)):", "if len(own) != len(part_sizes(cuts)):",
           "tests/shard/test_check.py"),
    # what ranks exchange
    _shard("combines-the-first-two", "backends/numba_cpu/collective", "dropped tail",
           "for s in range(2, sources):", "for s in range(2, min(sources, 3)):",
           "tests/backends/torch_spmd/test_shared.py"),
    _shard("rows-packed-together", "backends/numba_cpu/collective", "wrong stride",
           "copy_bytes(to, start + row * step + column, n)",
           "copy_bytes(to, start + row * width + column, n)",
           "tests/backends/torch_spmd/test_shared.py"),
    _shard("nan-loses", "backends/numba_cpu/collective", "NaN swallowed",
           "return b if b > a or b != b else a", "return b if b > a else a",
           "tests/backends/torch_spmd/test_shared.py"),
    # weights of ranks, and their answers
    _shard("blocks-of-the-first", "backends/torch_spmd/weights", "wrong offset",
           "_index(rank, axis, i * block + kind.start, i * block + kind.stop)",
           "_index(rank, axis, kind.start, kind.stop)",
           "tests/backends/torch_spmd/test_programs.py", "-k", "uneven"),
    _shard("every-rank-owns", "backends/torch_spmd/weights", "wrong partial sum",
           "pieces = (_everything(const),) if kind.rank == 0 else ()",
           "pieces = (_everything(const),)", "tests/backends/torch_spmd/test_programs.py"),
    _shard("answer-of-another-call", "leptonc/runtime/group/replies", "stale cache",
           "elif message.number == number:", "elif message.number >= 0:",
           "tests/runtime/group/test_replies.py"),
    _shard("consequence-for-cause", "leptonc/runtime/group/replies", "wrong arithmetic",
           "if failures and (not all(f.peer for f in failures.values()) or not events):",
           "if failures:", "tests/runtime/group/test_replies.py"),
    # what a rank reads, and when
    _shard("weights-read-while-it-stands", "backends/torch_spmd/units", "wrong order",
           "ConstPool(fetch=weights.fetch, put_off=True)", "ConstPool(fetch=weights.fetch)",
           "tests/backends/torch_spmd/test_order.py"),
    _shard("first-weight-never-read", "backends/numba_cpu/lower/core", "stale buffer",
           "for at in list(self.waiting):", "for at in list(self.waiting)[1:]:",
           "tests/backends/torch_spmd/test_order.py"),
    _shard("fetched-from-the-start", "leptonc/runtime/weights", "wrong offset",
           "self.buffer[: high - low], begin)", "self.buffer[: high - low], 0)",
           "tests/runtime/test_weights_fetch.py"),
    _shard("fetched-all-at-once", "backends/numba_cpu/kernels/pack", "unbounded memory",
           "if not steps or some >= source.shape[axis]:", "if not steps or some:",
           "tests/backends/numba_cpu/test_pack_fetch.py"),
)  # fmt: skip
