"""mutation > in_runtime: faults in planner, executor, caches and calls.

A wrong schedule is named by a unit that it harms. Where no unit is harmed (a missing barrier) there
is nothing to name; where a compile cannot see the fault at all (a call with other arguments, a
second compile), there are no models.
"""

from __future__ import annotations

from mutation.fault import UNIT, Fault

_NUMBA = "backends/numba_cpu"
_TESTS = "tests/backends/numba_cpu"


def _planner(
    name: str, file: str, category: str, before: str, after: str, tests: tuple[str, ...],
    *models: str, names: tuple[str, ...] = (), threads: int = 1,
) -> Fault:  # fmt: skip
    path = f"{_NUMBA}/{file}.py"
    return Fault(name, "planner", category, path, before, after, tests, models, names, threads)


def _runtime(
    name: str, file: str, category: str, before: str, after: str, tests: tuple[str, ...]
) -> Fault:
    return Fault(name, "runtime", category, file, before, after, tests, (), ())


FAULTS: tuple[Fault, ...] = (
    _planner("live-at-first-step-only", "memory", "arena overlap",
             "for t in steps:\n                self.live", "for t in steps[:1]:\n                "
             "self.live", (f"{_TESTS}/test_memory.py",), "residual_around", names=UNIT),
    _planner("gap-too-small", "memory", "arena overlap",
             "if gap >= size and (best < 0", "if gap > 0 and (best < 0",
             (f"{_TESTS}/test_memory.py",), "two_widths", names=UNIT),
    _planner("lifetime-ends-at-first-read", "scheduler", "stale buffer",
             "first.setdefault(b, i)\n                last[b] = i",
             "first.setdefault(b, i)\n                last.setdefault(b, i)",
             (f"{_TESTS}/test_batch.py", "tests/test_api.py"), "residual_around", names=UNIT),
    _planner("joined-parts-on-top", "joined", "wrong offset",
             "view.slice(join.axis, at, at + size)", "view.slice(join.axis, 0, size)",
             (f"{_TESTS}/test_joined.py",), "concat_of_convs", names=UNIT),
    _planner("batch-part-twice", "scheduler", "off-by-one band",
             "return view.slice(0, index * size, (index + 1) * size)",
             "return view.slice(0, max(index - 1, 0) * size, max(index, 1) * size)",
             (f"{_TESTS}/test_batch.py",), "large_batch", names=UNIT),
    _planner("sliced-along-other-axis", "sliceable", "wrong axis",
             "if 0 in (axes if isinstance(axes, tuple) else (axes,)):",
             "if -1 in (axes if isinstance(axes, tuple) else (axes,)):",
             (f"{_TESTS}/test_batch.py",), "large_batch_softmax", names=UNIT),
    _planner("scratch-of-thread-zero", "emit", "scratch shared between threads",
             'return "_"', 'return "0"', (f"{_TESTS}/test_assemble.py",), "large_products",
             names=UNIT, threads=2),
    _planner("no-barrier", "context", "missing barrier",
             "if found and before & native.NO_BARRIER and len(made) <= room:",
             "if found and len(made) <= room:", (f"{_TESTS}/test_executor.py",),
             "large_products", threads=2),
    _planner("strict-takes-winograd", "lower/conv_choice", "precision setting ignored",
             'if precision != "strict" and _winograd_fits(shape):', "if _winograd_fits(shape):",
             (f"{_TESTS}/test_conv_choice.py",)),
    _planner("winograd-of-dilated", "lower/conv_choice", "dead guard",
             "        and s.dilation == (1, 1)\n", "", (f"{_TESTS}/test_conv_choice.py",),
             "dilated_wide_conv", names=UNIT),
    _planner("winograd-of-any-kernel", "lower/conv_choice", "dead guard",
             "if s.kernel == f.kernel and s.stride", "if s.stride",
             (f"{_TESTS}/test_conv_choice.py",), "line_conv", names=UNIT),
    _runtime("key-forgets-settings", "leptonc/stored.py", "wrong cache key",
             "return cache_key(dump(captured.function), *parts, here())",
             "return cache_key(dump(captured.function), here())", ("tests/test_stored_keys.py",)),
    _runtime("key-forgets-weights", "leptonc/stored.py", "stale cache",
             "return cache_key(dump(captured.function), *parts",
             "return cache_key(len(captured.function.ops), *parts",
             ("tests/test_stored_keys.py",)),
    _runtime("entry-digest-ignored", "leptonc/runtime/cache.py", "stale cache",
             "if hashlib.sha256(raw).hexdigest() != digest:", "if not raw:",
             ("tests/runtime/test_cache.py",)),
    _runtime("size-bound-ignored", "leptonc/ir/specialize.py", "wrong dynamic size bound",
             "if n < d.min or (d.max is not None and n > d.max):", "if n < d.min:",
             ("tests/ir/test_specialize.py",)),
    _runtime("input-not-contiguous", "leptonc/compiled.py", "input alias",
             "return t.detach().resolve_conj().resolve_neg().contiguous()",
             "return t.detach().resolve_conj().resolve_neg()", ("tests/test_api.py",)),
    _runtime("road-takes-strided", "leptonc/road.py", "wrong stride",
             'f" or {name}.requires_grad or not {name}.is_contiguous()"',
             'f" or {name}.requires_grad"', ("tests/test_road.py",)),
    _runtime("mutation-alias-ignored", "leptonc/capture/alias.py", "input alias",
             "self.order[n] < here < self.last_use[n] and self.same[n] is not me",
             "self.order[n] < here > self.last_use[n] and self.same[n] is not me",
             ("tests/capture/test_refusals.py", "tests/capture/test_nets.py")),
    _runtime("cut-unit-not-joined", "leptonc/inplace.py", "dead guard",
             "if at.part and at.part + 1 == self.plan.units[at.unit].parts:", "if False:",
             ("tests/test_inplace.py",)),
    _runtime("part-read-as-the-first", "leptonc/inplace.py", "wrong offset",
             "return whole.chunk(parts)[index]", "return whole.chunk(parts)[0]",
             ("tests/test_inplace.py",)),
    _runtime("runs-of-the-last-part", "backends/numba_cpu/scheduler.py", "off-by-one band",
             "runs = [(*before, *info.runs) for before, info in zip(runs, infos, strict=True)]",
             "runs = [info.runs for before, info in zip(runs, infos, strict=True)]",
             ("tests/test_inplace.py",)),
    _runtime("values-of-another-specialization", "leptonc/inplace.py", "stale cache",
             "self.same.get(v, v): _Made", "v: _Made", ("tests/test_inplace.py",)),
    _runtime("quota-rounds-up", "leptonc/runtime/governor.py", "wrong thread share",
             "whole = max(1, math.floor(quota.cores + _ROUNDING))",
             "whole = max(1, math.ceil(quota.cores))", ("tests/runtime/test_governor.py",)),
    _runtime("road-results-turned", "leptonc/road.py", "wrong stride",
             "{tuple(like.shape)}, {like.stride()}", "{tuple(like.shape)}, {like.stride()[::-1]}",
             ("tests/test_road.py",)),
    _runtime("door-keeps-the-lock", "backends/numba_cpu/native.py", "lock held too long",
             "    state = call_one(load(words + 24), 0)\n"
             "    left = call_one(load(words + 8), segment)\n"
             "    call_one(load(words + 32), state)\n",
             "    left = call_one(load(words + 8), segment)\n", (f"{_TESTS}/test_door.py",)),
    _runtime("door-loses-none", "backends/numba_cpu/native.py", "reference lost",
             "    call_one(load(words + 40), told)\n", "", (f"{_TESTS}/test_door.py",)),
    _runtime("door-of-no-workers", "backends/numba_cpu/native.py", "dead guard",
             "    if load(team + READY) == 0:\n        _release(team)\n        return 1\n", "",
             (f"{_TESTS}/test_door.py",)),
    _runtime("callers-share-a-team", "backends/numba_cpu/native.py", "dead guard",
             "    while seen != VACANT:\n", "    while seen == WANTED:\n",
             (f"{_TESTS}/test_door.py",)),
    _runtime("child-of-a-busy-team", "backends/numba_cpu/pool.py", "stale cache",
             "        self._words[:] = 0  # a thread of the parent may have run on it\n",
             "", (f"{_TESTS}/test_door.py",)),
    _runtime("true-for-none", "backends/numba_cpu/native.py", "wrong constant",
             "told = load(words + 48) if left == 0 else load(words + 56)",
             "told = load(words + 48)", (f"{_TESTS}/test_door.py",)),
    _runtime("tuner-counts-the-first-run", "backends/numba_cpu/tune.py", "cold cache timed",
             "runs = max(1, SETTLING // distance)", "runs = 1", (f"{_TESTS}/test_tune.py",)),
    _runtime("slab-given-twice", "leptonc/runtime/slabs.py", "arena overlap",
             "self._free[:nbytes], self._free[taken:]", "self._free[:nbytes], self._free[LINE:]",
             ("tests/runtime/test_slabs.py",)),
    _runtime("no-line-behind-weights", "leptonc/runtime/slabs.py", "off-by-one band",
             "-(-nbytes // LINE) * LINE + LINE", "-(-nbytes // LINE) * LINE",
             ("tests/runtime/test_slabs.py",)),
    _runtime("huge-pages-not-asked-for", "leptonc/runtime/slabs.py", "dead guard",
             "block.madvise(mmap.MADV_HUGEPAGE)", "block.madvise(mmap.MADV_NORMAL)",
             ("tests/runtime/test_slabs.py",)),
    _runtime("tables-among-weights", "backends/numba_cpu/lower/core.py", "dead guard",
             "return array if owner is None else self.slabs.placed(array)",
             "return self.slabs.placed(array)", ("tests/runtime/test_slabs.py",)),
    _runtime("door-for-any-tensor", "leptonc/road.py", "dead guard",
             '            f" or not holds_data({name})"\n', "", ("tests/test_road.py",)),
    _runtime("ready-without-parts", "backends/numba_cpu/kernels/base.py", "dead guard",
             "(file.path.exists() and all(part.ready for part in self.parts))",
             "file.path.exists()", ("tests/backends/numba_cpu/test_part.py",)),
    _runtime("stamp-forgets-parts", "backends/numba_cpu/kernels/base.py", "stale cache",
             "*(part._stamp for part in self.parts)", "*()",
             ("tests/backends/numba_cpu/test_part.py",)),
    _runtime("part-not-named", "backends/numba_cpu/kernels/winograd.py", "dead guard",
             "@kernel(parts=(MULTIPLY, *PARTS))", "@kernel(parts=(MULTIPLY, *PARTS[1:]))",
             ("tests/backends/numba_cpu/test_part.py",)),
    _runtime("language-without-contract", "backends/numba_cpu/kernels/language.py", "dead guard",
             "if self.fastmath:", "if False:", ("tests/backends/numba_cpu/test_language.py",)),
    _runtime("forecast-ignores-strict", "backends/numba_cpu/forecast.py", "dead guard",
             'unlikely = {winograd} if precision == "strict" else set[Kernel]()',
             "unlikely = set[Kernel]()",
             ("tests/backends/numba_cpu/test_forecast.py",)),
)  # fmt: skip
