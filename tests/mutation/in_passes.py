"""mutation > in_passes: faults in passes that are no rules: folding, merging, layout, fusion."""

from __future__ import annotations

from mutation.fault import Fault


def _pass(
    name: str, guilty: str, category: str, file: str, before: str, after: str,
    model: str, tests: tuple[str, ...] = (),
) -> Fault:  # fmt: skip
    own = tests or (f"tests/passes/test_{guilty.replace('-', '_')}.py",)
    names = (rf"\b{guilty}\b",)
    path = f"{file if '/rewrite/' in file else f'passes/{file}'}.py"
    return Fault(name, "pass", category, path, before, after, own, (model,), names)


_BN, _CSE, _MERGE = "fold-batchnorm", "cse", "merge-linear"
FAULTS: tuple[Fault, ...] = (
    _pass("bn-eps-zero", _BN, "wrong eps", "fusing/channels",
          "eps = b(Full((), float(kind.eps), DType.F64))",
          "eps = b(Full((), 0.0, DType.F64))", "conv_bn"),
    _pass("bn-shift-swapped", _BN, "swapped operands", "fusing/channels",
          "shift = b(Sub(), wb[1] if len(wb) > 1 else zero, shift)",
          "shift = b(Sub(), shift, wb[1] if len(wb) > 1 else zero)", "conv_bn"),
    _pass("bn-bias-unscaled", _BN, "wrong epilogue order", "fusing/channels",
          "shift = b(Add(), b(Mul(), b.load(bias), b.load(affine.scale)), shift)",
          "shift = b(Add(), b.load(bias), shift)", "conv_bn"),
    _pass("bn-padded-guard", _BN, "dead guard", "fold_batchnorm",
          "if padded and not is_zero(affine.shift):", "if False:", "bn_conv"),
    _pass("bn-second-reader", _BN, "dead guard", "fold_batchnorm",
          "if self.fn.use_count[x] != 1:", "if self.fn.use_count[x] > 2:", "bn_two_readers"),
    _pass("bn-inputs-no-bias", _BN, "missing residual", "fusing/channels",
          "if bias is not None:\n        extra = b(Add(), b.load(bias), extra)",
          "if bias is None:\n        extra = b(Add(), extra, extra)", "bn_conv_plain"),
    _pass("splat-ends-only", "fold-constants", "dead guard", "fold_constants",
          "same = bits.flat[0] == bits.flat[-1] and bool((bits == bits.flat[0]).all())",
          "same = bool(bits.flat[0] == bits.flat[-1])", "same_ends"),
    _pass("cse-sorts-all", _CSE, "dead guard", "cse",
          "if Trait.COMMUTATIVE in op.kind.traits and", "if Trait.PURE in op.kind.traits and",
          "both_differences"),
    _pass("cse-forgets-attributes", _CSE, "wrong cache key", "cse",
          "return op.kind, tuple(ids)", "return type(op.kind), tuple(ids)", "two_clamps"),
    _pass("merged-slices-start", _MERGE, "wrong offset", "merge_linear",
          "result=op.result, origin=op.origin)\n        at += n",
          "result=op.result, origin=op.origin)\n        at += 0 * n", "three_linears"),
    _pass("composed-bias-lost", _MERGE, "missing residual", "merge_linear",
          "shift = moved if shift is None else b(Add(), moved, shift)", "shift = moved",
          "two_linears"),
    _pass("composed-stride", _MERGE, "wrong stride", "merge_linear",
          "stride = tuple(a * b for a, b in zip(kind.stride, second.kind.stride, strict=True))",
          "stride = kind.stride", "conv_then_strided"),
    _pass("merged-bias-joined", _MERGE, "wrong axis", "merge_linear",
          "b(Full((sizes(w)[0],), 0.0, DType.F64)) if bias is None else b.load(bias)",
          "b(Full((sizes(w)[0],), 0.0, DType.F64)) if bias is not None else b.load(parts[0][1])",
          "three_linears"),
    _pass("flatten-weights-stay", "layout", "transposed weights", "fusing/flatten",
          "made = b(Reshape((n, k)), b(Transpose(channels_last(len(image))), parts))",
          "made = b(Reshape((n, k)), parts)", "conv_flatten_linear",
          ("tests/passes/test_layout.py",)),
    _pass("transposed-order", "layout", "wrong axis", "fusing/axes",
          "return tuple(perm.index(axis) for axis in order)",
          "return tuple(perm[axis] for axis in order)", "conv_rotated"),
    _pass("bn-alone-swapped", _BN, "swapped operands", "fusing/channels",
          "b.rounded(dtype, b.load(self.scale, *shape), b.load(self.shift, *shape))",
          "b.rounded(dtype, b.load(self.shift, *shape), b.load(self.scale, *shape))", "bn_alone"),
    _pass("fuse-any-pool", "fuse", "dead guard", "fusing/peaks",
          "plain = kind.kernel == kind.stride == (2, 2) and not any(kind.padding)",
          "plain = kind.stride == (2, 2) and not any(kind.padding)", "conv_pool_of_three"),
    _pass("fuse-closes-cycle", "fuse", "dead guard", "fusing/quotient",
          "if not reached.isdisjoint(self._current_preds(v)):\n            return False",
          "if False:\n            return False", "cycle",
          ("tests/passes/test_fuse.py",)),
    _pass("dead-code-alive-effects", "dce", "dead guard", "leptonc/rewrite/driver",
          "kept.append(op)\n            live.update(op.operands)",
          "kept.append(op)\n            live.update(op.operands[:1])", "dead_operand",
          ("tests/passes/test_dce.py",)),
)  # fmt: skip
