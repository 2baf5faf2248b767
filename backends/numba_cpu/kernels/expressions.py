"""numba_cpu > kernels > expressions: writes the LLVM IR of a kernel's expressions.

What is known is computed while the code is written, and only that branch of a known condition is
written. An expression changes no variable. A chain of comparisons evaluates all its operands.
"""

from __future__ import annotations

import abc
import ast
import functools
import operator
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

from llvmlite import ir
from numba.core import types
from numba.core.extending import _Intrinsic

from leptonc.backends.numba_cpu.kernels import operands as ops
from leptonc.backends.numba_cpu.kernels.language import TARGET, DeviceFunction
from leptonc.backends.numba_cpu.kernels.operands import Known, Operand, Value
from leptonc.backends.numba_cpu.kernels.syntax import KernelError, meaning

CHEAP = (
    ast.Name, ast.Constant, ast.Compare, ast.BoolOp, ast.UnaryOp, ast.BinOp, ast.expr_context,
    ast.operator, ast.unaryop, ast.cmpop, ast.boolop, ast.Attribute, ast.Tuple,
)  # fmt: skip
_DEAR = (ast.FloorDiv, ast.Mod, ast.Div)


class Expressions(abc.ABC):
    """Writes expressions of one function at the end of the builder's block.

    Attributes:
        fn: the function.
        b: where its code is written.
    """

    def __init__(self, fn: Any, b: ir.IRBuilder) -> None:
        self.fn, self.b = fn, b
        self._variables = frozenset(fn.__code__.co_varnames + fn.__code__.co_cellvars)

    @abc.abstractmethod
    def read(self, name: str) -> Operand:
        """Return the value of a variable."""

    @abc.abstractmethod
    def call_function(self, fn: DeviceFunction, args: Sequence[Operand]) -> Operand:
        """Return what a helper returns."""

    def value(self, node: ast.expr) -> Operand:
        """Return the value of an expression.

        Raises:
            KernelError: it is nothing that kernels know.
        """
        write = _WRITE.get(type(node))
        if write is None:
            raise KernelError(f"kernels have no {type(node).__name__}: {ast.unparse(node)}")
        return write(self, node)

    def condition(self, node: ast.expr, strict: bool = False) -> Known | Value:
        """Return whether an expression is true, as a boolean.

        ``strict``: for what it is in Python, where ``and`` and ``or`` of numbers are one of them.
        """
        if isinstance(node, ast.BoolOp):
            return self._chain(isinstance(node.op, ast.And), node.values, strict)
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            return self._not(self.condition(node.operand))
        found = self.value(node)
        if strict and ops.type_of(found) != types.boolean:
            raise KernelError(f"{ast.unparse(node)} is {ops.describe(found)}, no truth: use bool()")
        return ops.truth(self.b, found)

    # ----- conditions ---------------------------------------------------------------------------
    def _chain(self, every: bool, nodes: Sequence[ast.expr], strict: bool) -> Known | Value:
        """Return ``and`` (``every``) or ``or`` of conditions; those behind may not be evaluated."""
        first, rest, b = self.condition(nodes[0], strict), nodes[1:], self.b
        if not rest or (isinstance(first, Known) and bool(first.value) is not every):
            return first
        if isinstance(first, Known):
            return self._chain(every, rest, strict)
        if all(map(is_cheap, rest)):
            second = self._chain(every, rest, strict)
            if isinstance(second, Known):
                return first if second.value is every else second
            both = b.and_ if every else b.or_
            return Value(types.boolean, both(first.code, second.code))
        before, more, done = b.block, self.block("more"), self.block("known")
        b.cbranch(first.code, *((more, done) if every else (done, more)))
        b.position_at_end(more)
        code = ops.computed(self._chain(every, rest, strict)).code
        after = b.block
        b.branch(done)
        b.position_at_end(done)
        phi = b.phi(ops.I1)
        phi.add_incoming(ir.Constant(ops.I1, not every), before)
        phi.add_incoming(code, after)
        return Value(types.boolean, phi)

    def _bool_op(self, node: ast.BoolOp) -> Operand:
        return self.condition(node, strict=True)

    def _if_exp(self, node: ast.IfExp) -> Operand:
        test, b = self.condition(node.test), self.b
        if isinstance(test, Known):
            return self.value(node.body if test.value else node.orelse)
        if is_cheap(node.body) and is_cheap(node.orelse):
            x, y = self._alike([self.value(node.body), self.value(node.orelse)], [b.block] * 2)
            return _leaves(lambda u, v: Value(u.type, b.select(test.code, u.code, v.code)), x, y)
        starts, done = [self.block("then"), self.block("else")], self.block("chosen")
        b.cbranch(test.code, *starts)
        found: list[Operand] = []
        ends: list[ir.Block] = []
        for start, branch in zip(starts, (node.body, node.orelse), strict=True):
            b.position_at_end(start)
            found.append(self.value(branch))
            ends.append(b.block)
        x, y = self._alike(found, ends)
        for end in ends:
            b.position_at_end(end)
            b.branch(done)
        b.position_at_end(done)
        return _leaves(lambda u, v: self._phi(u, v, ends), x, y)

    def _phi(self, x: Value, y: Value, ends: Sequence[ir.Block]) -> Value:
        phi = self.b.phi(x.code.type)
        for value, end in zip((x, y), ends, strict=True):
            phi.add_incoming(value.code, end)
        return Value(x.type, phi)

    def _alike(self, found: Sequence[Operand], blocks: Sequence[ir.Block]) -> list[Operand]:
        """Return operands converted to a type they share, each at the end of its block."""
        x, y = found
        if isinstance(x, tuple) and isinstance(y, tuple) and len(x) == len(y):
            pairs = [self._alike(pair, blocks) for pair in zip(x, y, strict=True)]
            return [tuple(p[side] for p in pairs) for side in range(2)]
        if isinstance(x, Known) and isinstance(y, Known) and not ops.is_number(x) and x == y:
            return [x, y]
        kind = ops.common(ops.type_of(x), ops.type_of(y))
        made: list[Operand] = []
        for value, block in zip(found, blocks, strict=True):
            self.b.position_at_end(block)
            made.append(ops.cast(self.b, value, kind))
        return made

    def block(self, name: str) -> ir.Block:
        """Return a new block of the function."""
        return self.b.append_basic_block(name)

    # ----- values -------------------------------------------------------------------------------
    def _constant(self, node: ast.Constant) -> Operand:
        return Known(node.value)

    def _name(self, node: ast.Name) -> Operand:
        if node.id in self._variables:
            return self.read(node.id)
        try:
            return ops.known(meaning(self.fn, node.id))
        except NameError:
            raise KernelError(f"nothing is named {node.id}") from None

    def _tuple(self, node: ast.Tuple) -> Operand:
        return self.values(node.elts)

    def values(self, nodes: Sequence[ast.expr]) -> tuple[Operand, ...]:
        """Return the values of expressions; one behind a star is a tuple that is spread."""
        found: list[Operand] = []
        for node in nodes:
            if isinstance(node, ast.Starred):
                found += self.parts(self.value(node.value))
            else:
                found.append(self.value(node))
        return tuple(found)

    def parts(self, x: Operand) -> tuple[Operand, ...]:
        """Return what is in a tuple."""
        if not isinstance(x, tuple):
            raise KernelError(f"{ops.describe(x)} is no tuple")
        return x

    def _attribute(self, node: ast.Attribute) -> Operand:
        base = self.value(node.value)
        if not isinstance(base, Known) or not hasattr(base.value, node.attr):
            raise KernelError(f"{ast.unparse(node.value)} has no {node.attr}")
        return ops.known(getattr(base.value, node.attr))

    def _subscript(self, node: ast.Subscript) -> Operand:
        base = self.parts(self.value(node.value))
        if isinstance(node.slice, ast.Slice):
            limits = (node.slice.lower, node.slice.upper, node.slice.step)
            return base[slice(*(None if n is None else self._index(n) for n in limits))]
        place = self.value(node.slice)
        if isinstance(place, Value):
            return ops.looked_up(self.b, base, place)
        return base[self._index(node.slice)]

    def _index(self, node: ast.expr) -> int:
        found = self.value(node)
        if not isinstance(found, Known) or not isinstance(found.value, int):
            raise KernelError(f"{ast.unparse(node)}: the place in a tuple must be known")
        return found.value

    def _unary(self, node: ast.UnaryOp) -> Operand:
        if isinstance(node.op, ast.Not):
            return self.condition(node)
        return ops.unary(self.b, ops.OPERATORS[type(node.op)], self.value(node.operand))

    def _binary(self, node: ast.BinOp) -> Operand:
        return self.binary(node.op, self.value(node.left), self.value(node.right))

    def binary(self, op: ast.operator, x: Operand, y: Operand) -> Operand:
        """Return ``x op y``."""
        if type(op) not in ops.OPERATORS:
            raise KernelError(f"kernels have no {type(op).__name__}")
        return ops.binary(self.b, ops.OPERATORS[type(op)], x, y)

    def _compare(self, node: ast.Compare) -> Operand:
        found = self.values([node.left, *node.comparators])
        made: Known | Value = Known(True)
        for op, x, y in zip(node.ops, found, found[1:], strict=False):
            made = self._both(made, self._one_comparison(op, x, y))
        return made

    def _one_comparison(self, op: ast.cmpop, x: Operand, y: Operand) -> Known | Value:
        if isinstance(op, ast.In | ast.NotIn):
            made: Known | Value = Known(False)
            for one in self.parts(y):
                made = self._either(made, ops.compare(self.b, operator.eq, x, one))
            return made if isinstance(op, ast.In) else self._not(made)
        if isinstance(op, ast.Is | ast.IsNot):
            if not isinstance(x, Known) or not isinstance(y, Known):
                raise KernelError("`is` is for what is known while the code is written")
            return Known((x.value is y.value) == isinstance(op, ast.Is))
        return ops.compare(self.b, ops.OPERATORS[type(op)], x, y)

    def _not(self, x: Known | Value) -> Known | Value:
        if isinstance(x, Known):
            return Known(not x.value)
        return Value(x.type, self.b.not_(x.code))

    def _both(self, x: Known | Value, y: Known | Value) -> Known | Value:
        if isinstance(x, Known):
            return y if x.value else x
        if isinstance(y, Known):
            return x if y.value else y
        return Value(types.boolean, self.b.and_(x.code, y.code))

    def _either(self, x: Known | Value, y: Known | Value) -> Known | Value:
        return self._not(self._both(self._not(x), self._not(y)))

    # ----- calls --------------------------------------------------------------------------------
    def _call(self, node: ast.Call) -> Operand:
        called = self.value(node.func)
        if not isinstance(called, Known):
            raise KernelError(f"{ast.unparse(node.func)} is computed: nothing to call")
        fn, args = called.value, self.values(node.args)
        if isinstance(fn, DeviceFunction):
            given = {str(k.arg): self.value(k.value) for k in node.keywords}  # "None" behind **
            return self.call_function(fn, arguments_of(fn, args, given))
        if node.keywords:
            raise KernelError(f"{ast.unparse(node)}: only helpers take arguments by name")
        if isinstance(fn, _Intrinsic):
            return self._intrinsic(fn, args)
        if isinstance(fn, Hashable) and fn in ops.NUMBER_TYPES and len(args) == 1:
            return self._converted(fn, args[0])
        own = _FUNCTIONS.get(fn) if isinstance(fn, Hashable) else None
        if own is not None:
            return own(self.b, *args)
        if not callable(fn):
            raise KernelError(f"{ast.unparse(node.func)} is no function")
        return ops.function_of_math(self.b, fn, *args)

    def _intrinsic(self, fn: Any, args: tuple[Operand, ...]) -> Operand:
        sig, write = _signature(fn, tuple(map(ops.type_of, args)))
        if len(sig.args) != len(args):
            raise KernelError(f"{fn} takes {len(sig.args)} arguments, not {len(args)}")
        codes = [ops.packed(self.b, v, t) for v, t in zip(args, sig.args, strict=True)]
        code = write(TARGET.target_context, self.b, sig, codes)
        return ops.operand_of(self.b, sig.return_type, code)

    def _converted(self, to: Any, x: Operand) -> Operand:
        """Return ``int(x)``, ``np.float32(x)`` and the like."""
        kind = ops.NUMBER_TYPES[to]
        if kind == types.boolean:
            return ops.truth(self.b, x)
        if isinstance(x, Known) and to in (int, float):
            return Known(to(x.value))
        return ops.cast(self.b, x, kind)


@functools.cache
def _signature(fn: Any, kinds: tuple[types.Type, ...]) -> tuple[Any, Callable[..., Any]]:
    """Return numba's signature of an intrinsic for arguments of these types, and what writes it."""
    try:
        found = fn._defn(TARGET.typing_context, *kinds)
    except TypeError as error:
        raise KernelError(f"{fn}: {error}") from error
    if found is None:
        raise KernelError(f"{fn} takes no ({', '.join(map(str, kinds))})")
    return found


def arguments_of(
    fn: DeviceFunction, args: Sequence[Operand], given: Mapping[str, Operand]
) -> tuple[Operand, ...]:
    """Return an operand for each parameter of a helper: given, by name, or its default."""
    code, defaults = fn.py_func.__code__, fn.py_func.__defaults__ or ()
    names = code.co_varnames[: code.co_argcount]
    found = dict(zip(names[len(names) - len(defaults) :], map(ops.known, defaults), strict=True))
    found.update(zip(names, args, strict=False))
    found.update(given)
    if len(args) > len(names) or set(found) != set(names) or set(given) & set(names[: len(args)]):
        told = f"{fn.py_func.__qualname__}({', '.join(names)})"
        raise KernelError(f"{told} is called with {len(args)} arguments and {sorted(given)}")
    return tuple(found[name] for name in names)


def is_cheap(node: ast.expr) -> bool:
    """Return whether it costs less to evaluate an expression than to branch around it."""
    return all(isinstance(n, CHEAP) and not isinstance(n, _DEAR) for n in ast.walk(node))


def _leaves(make: Callable[[Value, Value], Operand], x: Operand, y: Operand) -> Operand:
    """Return ``make`` of each pair of values in two operands of one shape."""
    if isinstance(x, tuple) and isinstance(y, tuple):
        return tuple(_leaves(make, u, v) for u, v in zip(x, y, strict=True))
    return make(x, y) if isinstance(x, Value) and isinstance(y, Value) else x


def _extreme(op: Callable[..., Any]) -> Callable[..., Operand]:
    def write(b: ir.IRBuilder, *args: Operand) -> Operand:
        every = args[0] if len(args) == 1 and isinstance(args[0], tuple) else args
        return functools.reduce(functools.partial(ops.extreme, b, op), every)

    return write


def _length(b: ir.IRBuilder, x: Operand) -> Operand:
    if not isinstance(x, tuple):
        raise KernelError(f"{ops.describe(x)} has no length")
    return Known(len(x))


def _numbered(b: ir.IRBuilder, x: tuple[Operand, ...]) -> Operand:
    return tuple((Known(i), one) for i, one in enumerate(x))


_FUNCTIONS: Mapping[object, Callable[..., Operand]] = {
    min: _extreme(operator.lt), max: _extreme(operator.gt), abs: ops.absolute, len: _length,
    enumerate: _numbered,
}  # fmt: skip
_WRITE: Mapping[type[ast.expr], Callable[[Expressions, Any], Operand]] = {
    ast.Constant: Expressions._constant, ast.Name: Expressions._name,
    ast.Tuple: Expressions._tuple, ast.Attribute: Expressions._attribute,
    ast.Subscript: Expressions._subscript, ast.UnaryOp: Expressions._unary,
    ast.BinOp: Expressions._binary, ast.Compare: Expressions._compare,
    ast.BoolOp: Expressions._bool_op, ast.IfExp: Expressions._if_exp, ast.Call: Expressions._call,
}  # fmt: skip
