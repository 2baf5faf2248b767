"""mutation > in_compression: faults in what makes models smaller, and in kernels on codes.

No compile of the uncompressed model sees them, so they have no models: what a compile compares a
compressed program with is the compressed program.
"""

from __future__ import annotations

from mutation.fault import Fault

_COMPRESS = "leptonc/compress"
_TESTS = "tests/compress"


def _compress(name: str, file: str, category: str, before: str, after: str, *tests: str) -> Fault:
    own = tuple(f"{_TESTS}/{t}" if t.startswith(("test_", "prune/", "quantize/")) else t
                for t in tests)  # fmt: skip
    path = f"{_COMPRESS}/{file}.py"
    return Fault(name, "compression", category, path, before, after, own, (), ())


def _codes(name: str, file: str, category: str, before: str, after: str, *tests: str) -> Fault:
    return Fault(name, "compression", category, file, before, after, tests, (), ())


_GROUPS, _KINDS = "prune/test_groups.py", "prune/test_kinds.py"
_WEIGHTS, _QUANTIZE = "quantize/test_weights.py", "quantize/test_quantize.py"
_WINOGRAD = "tests/backends/numba_cpu/test_int8_winograd.py"
_KERNELS = "backends/numba_cpu/kernels"
_INT8 = "tests/backends/numba_cpu/test_int8.py"
_STRIP = "tests/backends/numba_cpu/test_int8_strip.py"
_DEPTHWISE = "tests/backends/numba_cpu/test_int8_depthwise.py"

FAULTS: tuple[Fault, ...] = (
    # what goes together
    _compress("keys-of-other-heads", "prune/rules", "wrong offset",
              "[h * shared // heads for h in range(heads)]",
              "[h % shared for h in range(heads)]", _GROUPS, _KINDS),
    _compress("concat-all-at-front", "prune/rules", "wrong offset",
              "out, axis, range(start, start + n))", "out, axis, range(n))", _GROUPS, _KINDS),
    _compress("merged-axes-swapped", "prune/relations", "wrong axis",
              "at, to = math.prod(self.before[i + 1 :]), math.prod(self.after[j + 1 :])",
              "at, to = math.prod(self.before[:i]), math.prod(self.after[:j])",
              _GROUPS, _KINDS),
    _compress("results-may-go", "prune/groups", "dead guard",
              'at.pin_all(fn.returns, "a result of the network")', "at.pin_all((), \"\")",
              _GROUPS),
    # masks and choices
    _compress("mask-channels-outside", "prune/masks", "wrong axis",
              "return moved.movedim(1, -1).reshape(len(moved), -1) if weight.dim() > 1",
              "return moved.reshape(len(moved), -1) if weight.dim() > 1",
              "prune/test_sparse.py"),
    _compress("one-weight-too-few", "prune/masks", "off-by-one band",
              "torch.argsort(worth.flatten(), stable=True)[:count]",
              "torch.argsort(worth.flatten(), stable=True)[: max(count - 1, 0)]",
              "prune/test_sparse.py"),
    _compress("smallest-of-four-stay", "prune/masks", "wrong sign",
              "torch.argsort(runs, dim=1, descending=True, stable=True)",
              "torch.argsort(runs, dim=1, descending=False, stable=True)",
              "prune/test_sparse.py"),
    _compress("most-important-go", "prune/select", "wrong sign",
              "torch.argsort(worth, stable=True)[: group.units - stay]",
              "torch.argsort(-worth, stable=True)[: group.units - stay]",
              "prune/test_recipe.py"),
    _compress("kept-rounds-down", "prune/select", "wrong arithmetic",
              "math.floor(units * (1 - ratio) / step + 0.5)",
              "math.floor(units * (1 - ratio) / step)", "prune/test_recipe.py"),
    _compress("what-went-comes-back", "prune/schedule", "dead guard",
              "masks.smallest(worth.masked_fill(~kept, -1.0), count)",
              "masks.smallest(worth, count)", "prune/test_schedule.py", "-k", "however_far"),
    # the rebuilt program
    _compress("slice-start-stays", "prune/rebuild", "wrong offset",
              "start=start - sum(g < start for g in gone)", "start=start",
              _KINDS, "prune/test_masked.py"),
    _compress("groups-stay", "prune/rebuild", "stale buffer",
              "left = groups * (size - len(gone)) // size", "left = groups",
              _GROUPS, _KINDS),
    # ranges, rounding, zero points
    _compress("range-without-zero", "quantize/ranges", "wrong arithmetic",
              "low, high = min(low, 0.0), max(high, 0.0)",
              "low, high = min(low, high), max(high, 0.0)", _WEIGHTS, "-k", "hold_zero"),
    _compress("zero-point-sign", "quantize/ranges", "wrong sign",
              "round(self.low - low / scale)", "round(self.low + low / scale)", _WEIGHTS, "-k",
              "hold_zero"),
    _compress("weights-round-down", "quantize/weights", "wrong rounding",
              "return torch.round(blocks * (1.0 / scale)[..., None]).clamp(low, high)",
              "return torch.floor(blocks * (1.0 / scale)[..., None]).clamp(low, high)",
              _WEIGHTS),
    _compress("nibbles-swapped", "quantize/weights", "swapped operands",
              "return wide[:, ::2] | (wide[:, 1::2] << 4)",
              "return wide[:, 1::2] | (wide[:, ::2] << 4)", _WEIGHTS),
    _compress("groups-across-columns", "quantize/weights", "wrong scale",
              "scale = (clipped_scale if clip else largest_scale)(blocks, bits)",
              "scale = (clipped_scale if clip else largest_scale)(blocks, bits).flip(1)",
              _WEIGHTS, _QUANTIZE),
    _compress("gptq-scales-interleaved", "quantize/gptq", "wrong scale",
              "steps = scale.repeat_interleave(k // groups, 1)",
              "steps = scale.repeat(1, k // groups)", _WEIGHTS),
    _compress("gptq-order-not-undone", "quantize/gptq", "wrong axis",
              "back = codes.take_along_dim(along.argsort(-1), 2)",
              "back = codes.take_along_dim(along, 2)", _WEIGHTS),
    _compress("gptq-blocks-apart", "quantize/gptq", "missing residual",
              "w[..., stop:] -= errors @ upper[:, start:stop, stop:]",
              "w[..., stop:] -= 0 * errors @ upper[:, start:stop, stop:]", _WEIGHTS),
    _codes("gradient-outside-range", "leptonc/meaning/quantized.py", "dead guard",
           "return grad * inside, None, None", "return grad, None, None",
           "tests/meaning/test_quantized.py"),
    # low rank
    _compress("whitened-twice", "factors", "transposed weights",
              "return rows if self.unwhiten is None else rows @ self.unwhiten",
              "return rows if self.unwhiten is None else rows @ self.unwhiten.T",
              "test_lowrank.py"),
    _compress("rank-one-short", "factors", "off-by-one band",
              "return max(1, int((tails > allowed * squares.sum()).sum()))",
              "return max(1, int((tails > allowed * squares.sum()).sum()) - 1)",
              "test_lowrank.py"),
    _compress("moment-of-every-pixel", "factors", "wrong stride",
              "(slice(None, None, s) for s in kind.stride)",
              "(slice(None, None, 1) for s in kind.stride)", "test_lowrank.py", "-k", "moment"),
    # training, ledger
    _compress("gradients-pile-up", "finetune", "stale buffer",
              "run.optimizer.zero_grad()\n        loss = step(batch)",
              "loss = step(batch)", "test_finetune.py", "-k", "reproducible"),
    _compress("last-epoch-is-kept", "finetune", "dead guard",
              "self.settled and not metric <= self._best_metric()", "self.settled",
              "test_finetune.py", "-k", "early"),
    _compress("soft-loss-unscaled", "losses", "wrong scale",
              "return temperature**2 * F.kl_div(", "return temperature * F.kl_div(",
              "test_finetune.py", "-k", "soft_loss"),
    _compress("undo-drops-the-rest", "road", "off-by-one band",
              "left, anew = [s for i, s in enumerate(steps) if i != index]",
              "left, anew = [s for i, s in enumerate(steps) if i < index]",
              "test_road.py"),
    _compress("undo-forgets-training", "road", "stale cache",
              "_keep_trained(made, other)\n        return other", "return other",
              "test_road.py"),
    # products of codes and their kernels
    _codes("product-without-zero-point", "passes/rules/quants.py", "wrong offset",
           "conv.padding_after, _zero(m)", "conv.padding_after, 0",
           "tests/passes/test_fold_quant.py"),
    _codes("linear-without-zero-point", "passes/rules/quants.py", "wrong offset",
           "kind = IntLinear(_zero(m))", "kind = IntLinear(0)",
           "tests/passes/test_fold_quant.py"),
    _codes("other-zero-point-cancels", "passes/rules/quants.py", "dead guard",
           'scale == _scale(m, "s2") and _zero(m) == _zero(m, "z2")',
           'scale == _scale(m, "s2")', "tests/passes/test_fold_quant.py"),
    _codes("residual-zero-point", "backends/numba_cpu/lower/int8_job.py", "wrong offset",
           '"res_zero": end.res_scale.zero, ', '"res_zero": 0, ', _INT8, "-k", "units_give"),
    _codes("residual-scale", "backends/numba_cpu/lower/int8_job.py", "wrong scale",
           '"res_scale": end.res_scale.scale}', '"res_scale": 1.0}', _INT8, "-k", "units_give"),
    _codes("codes-wrap-around", "backends/numba_cpu/lower/int8_job.py", "wrong saturation",
           '"code_high": end.codes.high - zero}', '"code_high": end.codes.high + 256.0 - zero}',
           _INT8, "-k", "units_give"),
    _codes("signed-codes-off-by-one", "backends/numba_cpu/lower/int8_job.py", "wrong offset",
           "(128 if op.operands[0].type.dtype is DType.I8 else 0)",
           "(127 if op.operands[0].type.dtype is DType.I8 else 0)", _INT8, "-k", "units_give"),
    _codes("late-residual-early", "backends/numba_cpu/lower/int8_unit.py",
           "wrong epilogue order",
           "mode = Res.AFTER if mode is Res.BEFORE and end.act[0] is not Act.NONE else mode",
           "mode = mode", _INT8, "-k", "units_give"),
    _codes("rows-of-128-steps", "backends/numba_cpu/kernels/int8_finish.py", "wrong scale",
           "np.float32(vhmax(most)) / np.float32(127.0)",
           "np.float32(vhmax(most)) / np.float32(128.0)",
           "tests/backends/numba_cpu/test_code_rows.py", "-k", "rows"),
    _codes("tiles-without-proof", f"{_KERNELS}/int8_winograd_forms.py", "dead guard",
           "return reach < 1 << (31 - self.shift)", "return reach < 1 << 31", _WINOGRAD),
    _codes("tiles-padded-alike", f"{_KERNELS}/int8_winograd.py", "wrong padding side",
           "x - arg(args, PAD_X)", "x - arg(args, PAD_Y)", _WINOGRAD),
    _codes("tiles-lines-in-order", f"{_KERNELS}/int8_winograd_places.py", "wrong offset",
           "lambda f: f.m, lambda f: f.lines", "lambda f: f.m, lambda f: range(f.m)", _WINOGRAD),
    _codes("tiles-beyond-the-image", f"{_KERNELS}/int8_winograd_places.py", "off-by-one band",
           "b.add(splat(b, x, kind), ramp), splat(b, width, kind))",
           "b.add(splat(b, x, kind), ramp), splat(b, b.add(width, i64(1)), kind))", _WINOGRAD),
    _codes("reach-of-one-sign", "leptonc/meaning/constants.py", "dead guard",
           "return max(int(above.max()), -int(below.min()))", "return int(above.max())",
           _WINOGRAD),
    _codes("tiles-at-any-memory", "backends/numba_cpu/lower/conv_choice.py",
           "precision setting ignored",
           'small = precision != "strict" or _held(s, form) < STRICT_HELD',
           'small = precision != "" or _held(s, form) < STRICT_HELD', _WINOGRAD),
    _codes("strip-residual-read-again", "backends/numba_cpu/kernels/int8_gemm.py", "dead guard",
           "count -= count % STRIP_ROWS_RES", "count -= 0", _STRIP, "-k", "any_number"),
    _codes("strip-without-proof", "backends/numba_cpu/lower/int8_job.py", "dead guard",
           "MOST_RESULT = 2.0**30", "MOST_RESULT = 2.0**90", _STRIP, "-k", "leave_int32"),
    _codes("strip-upper-bound-lost", "backends/numba_cpu/kernels/int8_strip.py",
           "wrong saturation", "(_LEAST, t.code_low), (_MOST, t.code_high)",
           "(_LEAST, t.code_low), (_MOST, ir.Constant(F32, 255.0))", _STRIP, "-k", "any_number"),
    _codes("strip-of-the-next-panel", "backends/numba_cpu/kernels/int8_strip.py", "wrong offset",
           "i64(max(1, self.nv // VECTORS))", "i64(1)", _STRIP, "-k", "any_number"),
    _codes("bare-whatever-the-residual", "backends/numba_cpu/kernels/int8_strip.py", "dead guard",
           'b.or_(t.zero, t.res_zero), i64(0))', 't.zero, i64(0))', _STRIP, "-k", "any_number"),
    _codes("bare-whatever-the-bounds", "backends/numba_cpu/kernels/int8_strip.py",
           "wrong saturation", "ir.Constant(F32, 255.0))\n    return b.and_(",
           "ir.Constant(F32, 1.0))\n    return b.and_(", _STRIP, "-k", "any_number"),
    _codes("gathered-line-below", "backends/numba_cpu/kernels/int8_gemm.py", "off-by-one band",
           "0 <= at_y < arg(args, IN_H)", "0 <= at_y <= arg(args, IN_H)", _STRIP, "-k",
           "gathered"),
    _codes("second-move-of-a-line", "backends/numba_cpu/kernels/int8_gather.py", "wrong offset",
           "second = b.sub(size, i64(8))", "second = i64(8)", _STRIP, "-k", "gathered"),
    # depthwise
    _codes("depthwise-left-columns", "backends/numba_cpu/kernels/int8_depthwise.py",
           "off-by-one band", "min((stride - 1 - start) // stride, slots)",
           "min(-start // stride, slots)", _DEPTHWISE, "-k", "units_give"),
    _codes("depthwise-reads-behind", "backends/numba_cpu/kernels/int8_depthwise.py",
           "dead guard", "needed = (PIECE - left + step - 1) // step if step > 0 else count",
           "needed = 0", _DEPTHWISE, "-k", "behind_the_image"),
    _codes("depthwise-other-channels", "backends/numba_cpu/kernels/int8_depthwise_plan.py",
           "wrong axis", "at = PIECE * (lane // 4 % (size // PIECE)) + 4 * part + lane % 4",
           "at = PIECE * (lane // 4) + 4 * part + lane % 4", _DEPTHWISE, "-k", "packed_weights"),
    _codes("depthwise-beyond-int32", "backends/numba_cpu/lower/int8_depthwise.py", "dead guard",
           "_largest(job) * float(inverse) > _FITS or abs(zero) > _MOST_ZERO",
           "abs(zero) > _MOST_ZERO", _DEPTHWISE, "-k", "end_in_registers"),
    _codes("depthwise-lower-bound", "backends/numba_cpu/kernels/int8_depthwise_tile.py",
           "wrong saturation", '(("sadd.sat", zero), ("smax", low), ("smin", high))',
           '(("sadd.sat", zero), ("smin", high))', _DEPTHWISE, "-k", "end_in_registers"),
    _codes("depthwise-short-planes", "backends/numba_cpu/kernels/int8_depthwise_plan.py",
           "stale buffer", "size = (outputs + (span - 1) // stride) * block + VECTOR",
           "size = (outputs + (span - 1) // stride) * block", _DEPTHWISE, "-k", "units_give"),
)  # fmt: skip
