"""numba_cpu > kernels > statements: writes the LLVM IR of a kernel, its helpers included.

A variable lies in memory of its function's, one place for each type it is given; LLVM makes
registers of them. Where ways meet, a number that has different types on them is converted to one
that holds both, as numba has it; should a loop bring a variable back with another type than it had
before, the function is written again with that type from the loop on.
"""

from __future__ import annotations

import ast
import functools
import types as python
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from llvmlite import ir
from numba.core import types

from leptonc.backends.numba_cpu.kernels import operands as ops
from leptonc.backends.numba_cpu.kernels.expressions import Expressions
from leptonc.backends.numba_cpu.kernels.language import DeviceFunction
from leptonc.backends.numba_cpu.kernels.operands import NOTHING, Known, Operand, Value
from leptonc.backends.numba_cpu.kernels.syntax import KernelError, tree_of


@dataclass(frozen=True, eq=False)
class Place:
    """Where a variable lies; each type it is given has one."""

    type: types.Type
    at: ir.Value


@dataclass(frozen=True)
class Unclear:
    """Bound to things of different kinds on different ways: nothing may read it."""


Binding: TypeAlias = "Known | Place | Unclear | tuple[Binding, ...]"
Variables: TypeAlias = dict[str, Binding]
Edge: TypeAlias = tuple[ir.Block, Variables]  # a block without an end, and what is bound there
Shape: TypeAlias = "Known | types.Type | tuple[Shape, ...]"  # of an argument or a result


@dataclass
class Loop:
    """Ways out of a loop's body: to its next round, and out of it."""

    again: list[Edge] = field(default_factory=list[Edge])
    out: list[Edge] = field(default_factory=list[Edge])


class _Retyped(Exception):
    """A loop brings ``name`` back as ``kind``; None if that has nothing to do with what it was."""

    def __init__(self, loop: ast.stmt, name: str, kind: types.Type | None) -> None:
        super().__init__(name)
        self.loop, self.name, self.kind = loop, name, kind


@dataclass(frozen=True)
class _Written:
    """A helper's code, and the shape of what it returns."""

    code: ir.Function
    result: Shape


class ModuleWriter:
    """Writes a kernel and the helpers it calls into a module, each helper once for its types."""

    def __init__(self, module: ir.Module) -> None:
        self.module = module
        self._helpers: dict[tuple[DeviceFunction, Shape], _Written | None] = {}

    def kernel(
        self, fn: python.FunctionType, symbol: str, kinds: Sequence[types.Type], result: types.Type
    ) -> None:
        """Write the entry ``symbol``: ``fn`` of arguments and with a result of these types."""
        self._write(fn, symbol, tuple(kinds), NOTHING if result == types.void else result)

    def helper(self, fn: DeviceFunction, args: Sequence[Operand]) -> _Written:
        """Return the code of a helper for arguments of the types of ``args``."""
        shapes = tuple(map(shape_of, args))
        key = fn, shapes
        if key not in self._helpers:
            self._helpers[key] = None
            name = self.module.get_unique_name(fn.py_func.__qualname__)
            written = self._write(fn.py_func, name, shapes)
            written.code.linkage = "internal"
            if fn.forceinline:
                written.code.attributes.add("alwaysinline")
            self._helpers[key] = written
        found = self._helpers[key]
        if found is None:
            raise KernelError(f"{fn.py_func.__qualname__} calls itself")
        return found

    def _write(
        self,
        fn: python.FunctionType,
        name: str,
        shapes: tuple[Shape, ...],
        result: Shape | None = None,
    ) -> _Written:
        params = [ops.llvm_type(kind) for kind in leaves(shapes)]
        code = ir.Function(self.module, ir.FunctionType(ir.VoidType(), params), name)
        code.attributes.add("nounwind")
        retyped: dict[tuple[ast.stmt, str], types.Type | None] = {}
        while True:
            code.blocks.clear()
            try:
                writer = FunctionWriter(self, fn, code, retyped)
                return _Written(code, writer.write(shapes, result))
            except _Retyped as again:
                retyped[again.loop, again.name] = again.kind


class FunctionWriter(Expressions):
    """Writes the statements of one function."""

    def __init__(
        self,
        home: ModuleWriter,
        fn: python.FunctionType,
        code: ir.Function,
        retyped: Mapping[tuple[ast.stmt, str], types.Type | None],
    ) -> None:
        self._first = code.append_basic_block("variables")
        super().__init__(fn, ir.IRBuilder(code.append_basic_block("entry")))
        self._home, self._code, self._retyped = home, code, retyped
        self._places: dict[tuple[str, types.Type], Place] = {}
        self._bound: Variables | None = {}  # None where no way leads
        self._loops: list[Loop] = []
        self._returns: list[tuple[ir.Block, Operand]] = []

    def write(self, shapes: tuple[Shape, ...], result: Shape | None) -> Shape:
        """Write the function for arguments of these shapes; return the shape of its result.

        ``result``: the shape it must have; None for what its returns make of it.
        """
        tree, entry = tree_of(self.fn), self.b.block
        names = [a.arg for a in tree.args.args]
        if len(names) != len(shapes) or tree.args.vararg or tree.args.kwonlyargs:
            raise KernelError(f"{self.fn.__qualname__} takes {names}, not {len(shapes)} arguments")
        given = iter(self._code.args)
        for name, shape in zip(names, shapes, strict=True):
            self._bind(name, filled(shape, given))
        self._run(tree.body)
        if self._bound is not None:
            self._returns.append((self.b.block, NOTHING))
        found = self._end(result)
        ir.IRBuilder(self._first).branch(entry)
        return found

    # ----- variables ----------------------------------------------------------------------------
    @property
    def _here(self) -> Variables:
        assert self._bound is not None
        return self._bound

    def read(self, name: str) -> Operand:
        """Return the value of a variable."""
        bound = self._here.get(name)
        if bound is None:
            raise KernelError(f"{name} has no value here")
        return self._read(bound)

    def _read(self, bound: Binding) -> Operand:
        if isinstance(bound, tuple):
            return tuple(map(self._read, bound))
        if isinstance(bound, Known):
            return bound
        if isinstance(bound, Unclear):
            raise KernelError("a variable is read that holds one thing or another: use two names")
        kind = ops.llvm_type(bound.type)
        return Value(bound.type, self.b.load(bound.at, typ=kind))

    def _bind(self, name: str, x: Operand) -> None:
        self._here[name] = self._stored(name, x)

    def _stored(self, name: str, x: Operand) -> Binding:
        """Return the binding of a variable to ``x``, written to its place unless it is known."""
        if isinstance(x, tuple):
            return tuple(self._stored(f"{name}.{i}", part) for i, part in enumerate(x))
        if isinstance(x, Known) and not ops.is_number(x):
            return x
        value = ops.computed(x)
        place = self._place(name, value.type)
        self.b.store(value.code, place.at)
        return place

    def _place(self, name: str, kind: types.Type) -> Place:
        found = self._places.get((name, kind))
        if found is None:
            at = ir.IRBuilder(self._first).alloca(ops.llvm_type(kind), name=name)
            found = self._places[name, kind] = Place(kind, at)
        return found

    def _assign(self, target: ast.expr, x: Operand) -> None:
        if isinstance(target, ast.Name):
            self._bind(target.id, x)
        elif isinstance(target, ast.Tuple):
            parts = self.parts(x)
            if len(parts) != len(target.elts):
                raise KernelError(f"{len(parts)} values for {ast.unparse(target)}")
            for one, part in zip(target.elts, parts, strict=True):
                self._assign(one, part)
        else:
            raise KernelError(f"{ast.unparse(target)} is no variable")

    # ----- ways that meet -----------------------------------------------------------------------
    def _meet(self, edges: Sequence[Edge], block: ir.Block) -> None:
        """Lead all ``edges`` to ``block`` and go on there, with what is bound on any of them."""
        names = dict.fromkeys(name for _, bound in edges for name in bound)
        met: Variables = {}
        for name in names:
            has = [(end, bound[name]) for end, bound in edges if name in bound]
            met[name] = self._one_binding(name, has)
        for end, _ in edges:
            self.b.position_at_end(end)
            self.b.branch(block)
        self.b.position_at_end(block)
        self._bound = met if edges else None

    def _one_binding(self, name: str, has: Sequence[tuple[ir.Block, Binding]]) -> Binding:
        """Return the one binding of a variable that is bound at the ends of several blocks."""
        first = has[0][1]
        if all(other == first for _, other in has[1:]):
            return first
        if all(isinstance(one, tuple) for _, one in has):
            tuples: list[tuple[ir.Block, Any]] = list(has)
            if len({len(one) for _, one in tuples}) == 1:
                return tuple(
                    self._one_binding(f"{name}.{i}", [(end, one[i]) for end, one in tuples])
                    for i in range(len(tuples[0][1]))
                )
        kind = _kind_of_all([one for _, one in has])
        if kind is None:
            return Unclear()
        for end, one in has:
            self.b.position_at_end(end)
            self._stored(name, ops.cast(self.b, self._read(one), kind))
        return self._place(name, kind)

    def _edge(self) -> Edge:
        """Return the way from here; what follows is not reached from here any more."""
        edge = self.b.block, self._here
        self._bound = None
        return edge

    # ----- statements ---------------------------------------------------------------------------
    def _run(self, body: Iterable[ast.stmt]) -> None:
        for node in body:
            if self._bound is None:
                return
            write = _WRITE.get(type(node))
            try:
                if write is None:
                    raise KernelError(f"kernels have no {type(node).__name__}")
                write(self, node)
            except KernelError as error:
                raise self._told(error, node) from error.__cause__

    def _told(self, error: KernelError, node: ast.stmt) -> KernelError:
        """Return the error with the place in the source, unless it names one."""
        if error.place:
            return error
        place = f"{self.fn.__code__.co_filename}:{node.lineno}"
        line = ast.unparse(node).partition("\n")[0]
        told = KernelError(f"{self.fn.__qualname__}: {error}\n    {line}\n    at {place}")
        told.place = place
        return told

    def _assignment(self, node: ast.Assign) -> None:
        found = self.value(node.value)
        for target in node.targets:
            self._assign(target, found)

    def _annotated(self, node: ast.AnnAssign) -> None:
        if node.value is not None:
            self._assign(node.target, self.value(node.value))

    def _changed(self, node: ast.AugAssign) -> None:
        if not isinstance(node.target, ast.Name):
            raise KernelError(f"{ast.unparse(node.target)} is no variable")
        old = self.read(node.target.id)
        self._bind(node.target.id, self.binary(node.op, old, self.value(node.value)))

    def _expression(self, node: ast.Expr) -> None:
        if not isinstance(node.value, ast.Constant):  # a docstring
            self.value(node.value)

    def _pass(self, node: ast.Pass) -> None:
        pass

    def _if(self, node: ast.If) -> None:
        test = self.condition(node.test)
        if isinstance(test, Known):
            self._run(node.body if test.value else node.orelse)
            return
        starts = [self.block("then"), self.block("else")]
        self.b.cbranch(test.code, *starts)
        _, before = self._edge()
        edges: list[Edge] = []
        for start, body in zip(starts, (node.body, node.orelse), strict=True):
            self.b.position_at_end(start)
            self._bound = dict(before)
            self._run(body)
            if self._bound is not None:
                edges.append(self._edge())
        if edges:
            self._meet(edges, self.block("met"))

    def _return(self, node: ast.Return) -> None:
        found = NOTHING if node.value is None else self.value(node.value)
        self._returns.append((self._edge()[0], found))

    def _break(self, node: ast.Break) -> None:
        self._loops[-1].out.append(self._edge())

    def _continue(self, node: ast.Continue) -> None:
        self._loops[-1].again.append(self._edge())

    # ----- loops --------------------------------------------------------------------------------
    def _for(self, node: ast.For) -> None:
        if node.orelse:
            raise KernelError("a loop has no else")
        if isinstance(node.iter, ast.Call):
            if self.value(node.iter.func) == Known(range):
                self._range(node, self.values(node.iter.args))
                return
        self._unrolled(node, self.parts(self.value(node.iter)))

    def _unrolled(self, node: ast.For, items: Sequence[Operand]) -> None:
        """Write the body once for each item of a tuple."""
        out: list[Edge] = []
        for item in items:
            loop = Loop()
            self._loops.append(loop)
            self._assign(node.target, item)
            self._run(node.body)
            self._loops.pop()
            if self._bound is not None:
                loop.again.append(self._edge())
            out += loop.out
            if not loop.again:
                break
            self._meet(loop.again, self.block("next"))
        if out:
            if self._bound is not None:
                out.append(self._edge())
            self._meet(out, self.block("out"))

    def _range(self, node: ast.For, limits: Sequence[Operand]) -> None:
        """Write a loop over whole numbers; its variable may be changed, the count is not."""
        if not 1 <= len(limits) <= 3:
            raise KernelError(f"range takes one to three numbers, not {len(limits)}")
        start, stop = (Known(0), limits[0]) if len(limits) == 1 else limits[:2]
        step = limits[2] if len(limits) == 3 else Known(1)
        values = [ops.cast(self.b, v, types.int64).code for v in (start, stop, step)]
        counter = self._place(f"{ast.unparse(node.target)} {node.lineno}", types.int64).at
        self.b.store(values[0], counter)

        def more() -> ir.Value:
            at = self.b.load(counter, typ=ops.I64)
            if isinstance(step, Known):
                return self.b.icmp_signed("<" if step.value > 0 else ">", at, values[1])
            up = self.b.icmp_signed(">", values[2], ir.Constant(ops.I64, 0))
            ways = [self.b.icmp_signed(sign, at, values[1]) for sign in "<>"]
            return self.b.select(up, *ways)

        def begin() -> None:
            self._assign(node.target, Value(types.int64, self.b.load(counter, typ=ops.I64)))

        def proceed() -> None:
            at = self.b.load(counter, typ=ops.I64)
            self.b.store(self.b.add(at, values[2], flags=["nsw"]), counter)

        self._loop(node, lambda: Value(types.boolean, more()), begin, proceed)

    def _while(self, node: ast.While) -> None:
        if node.orelse:
            raise KernelError("a loop has no else")
        self._loop(node, lambda: self.condition(node.test), lambda: None, lambda: None)

    def _loop(
        self,
        node: ast.For | ast.While,
        more: Callable[[], Known | Value],
        begin: Callable[[], None],
        proceed: Callable[[], None],
    ) -> None:
        """Write a loop: while ``more()``, ``begin()``, the body, ``proceed()``."""
        for (loop, name), kind in self._retyped.items():
            if loop is node and kind is None:
                self._here[name] = Unclear()
            elif loop is node and kind is not None:
                self._bind(name, ops.cast(self.b, self.read(name), kind))
        head, body, done = (self.block(n) for n in ("head", "body", "done"))
        self.b.branch(head)
        self.b.position_at_end(head)
        _, before = self._edge()
        self._bound = dict(before)
        test, ways = more(), Loop()
        if isinstance(test, Known) and not test.value:
            self.b.branch(done)
            self.b.position_at_end(done)
            self._drop(body)
            return
        if isinstance(test, Known):
            self.b.branch(body)
        else:
            self.b.cbranch(test.code, body, done)
            ways.out.append((done, dict(before)))
        self.b.position_at_end(body)
        begin()
        self._loops.append(ways)
        self._run(node.body)
        self._loops.pop()
        self._close(node, ways, before, head, proceed)
        self._leave(ways, done)

    def _close(
        self,
        node: ast.stmt,
        ways: Loop,
        before: Variables,
        head: ir.Block,
        proceed: Callable[[], None],
    ) -> None:
        """Lead the ends of a loop's body back to its head."""
        if self._bound is not None:
            ways.again.append(self._edge())
        if not ways.again:
            return
        self._meet(ways.again, self.block("proceed"))
        proceed()
        self.b.branch(head)
        back = self._edge()[1]
        for name, bound in before.items():
            self._same_type(node, name, bound, back[name])
        # What the body bound first is still bound behind the loop, if it ran.
        for _, bound in ways.out:
            for name, new in back.items():
                bound.setdefault(name, new)

    def _leave(self, ways: Loop, done: ir.Block) -> None:
        """Go on behind a loop."""
        if ways.out and ways.out[0][0] is done:
            if len(ways.out) == 1:
                self.b.position_at_end(done)
                self._bound = ways.out[0][1]
                return
            self._meet(ways.out, self.block("out"))
        else:
            self._drop(done)
            if ways.out:
                self._meet(ways.out, self.block("out"))

    def _drop(self, block: ir.Block) -> None:
        self._code.blocks.remove(block)

    def _same_type(self, loop: ast.stmt, name: str, old: Binding, new: Binding) -> None:
        """See to it that a variable comes back to a loop's head as it was."""
        if old != new and not isinstance(old, Unclear):
            raise _Retyped(loop, name, _kind_of_all([old, new]))

    # ----- calls and results --------------------------------------------------------------------
    def call_function(self, fn: DeviceFunction, args: Sequence[Operand]) -> Operand:
        """Return what a helper returns."""
        written = self._home.helper(fn, args)
        x = tuple(args)
        code = self.b.call(written.code, flat(self.b, x, tuple(map(shape_of, x))))
        count = len(leaves(written.result))
        parts = [code] if count == 1 else [self.b.extract_value(code, i) for i in range(count)]
        return filled(written.result, iter(parts))

    def _end(self, asked: Shape | None) -> Shape:
        """Write the returns; return the shape of the result."""
        shape = result_of([result for _, result in self._returns]) if asked is None else asked
        kinds = [ops.llvm_type(kind) for kind in leaves(shape)]
        whole: ir.Type = ir.VoidType()
        if kinds:
            whole = kinds[0] if len(kinds) == 1 else ir.LiteralStructType(kinds)
        # llvmlite wants to know the type at first; it is known now.
        self._code.ftype = ir.FunctionType(whole, self._code.ftype.args)
        self._code.type = self._code.ftype.as_pointer()
        self._code.return_value = ir.ReturnValue(self._code, whole)
        for block, result in self._returns:
            self.b.position_at_end(block)
            codes = flat(self.b, result, shape)
            if not codes:
                self.b.ret_void()
            elif len(codes) == 1:
                self.b.ret(codes[0])
            else:
                made = ir.Constant(whole, ir.Undefined)
                for i, code in enumerate(codes):
                    made = self.b.insert_value(made, code, i)
                self.b.ret(made)
        return shape


def _kind_of_all(bound: Sequence[Binding]) -> types.Type | None:
    """Return the type of numbers that holds what all are bound to; None if there is none."""
    kinds = [one.type for one in bound if isinstance(one, Place)]
    if len(kinds) < len(bound) or not kinds:
        return None
    try:
        return functools.reduce(ops.common, kinds)
    except KernelError:
        return None


# ----- shapes -----------------------------------------------------------------------------------
def shape_of(x: Operand) -> Shape:
    """Return the shape of an argument: what is known of it stays so, except numbers by themselves.

    A helper would be written once more for each number it is called with; LLVM finds constants in
    what it puts into a caller.
    """
    if isinstance(x, tuple):
        return x if _all_known(x) else tuple(map(shape_of, x))
    return ops.type_of(x) if ops.is_number(x) or isinstance(x, Value) else x


def _all_known(x: Operand) -> bool:
    return all(map(_all_known, x)) if isinstance(x, tuple) else isinstance(x, Known)


def leaves(shape: Shape) -> list[types.Type]:
    """Return the types of what code holds of a shape, in order."""
    if isinstance(shape, tuple):
        return [kind for part in shape for kind in leaves(part)]
    return [] if isinstance(shape, Known) else [shape]


def flat(b: ir.IRBuilder, x: Operand, shape: Shape) -> list[ir.Value]:
    """Return what code holds of an operand, as the types of its shape."""
    if isinstance(shape, tuple):
        assert isinstance(x, tuple)
        return [c for one, part in zip(x, shape, strict=True) for c in flat(b, one, part)]
    return [] if isinstance(shape, Known) else [ops.cast(b, x, shape).code]


def filled(shape: Shape, codes: Iterator[ir.Value]) -> Operand:
    """Return the operand of a shape that the next of ``codes`` make."""
    if isinstance(shape, tuple):
        return tuple(filled(part, codes) for part in shape)
    return shape if isinstance(shape, Known) else Value(shape, next(codes))


def result_of(found: Sequence[Operand]) -> Shape:
    """Return the shape that holds every one of the results of a function."""
    if not found:
        return NOTHING
    first = found[0]
    if isinstance(first, tuple):
        if not all(isinstance(other, tuple) and len(other) == len(first) for other in found):
            raise KernelError("a function returns tuples of one length, or none")
        rows: list[Any] = list(found)
        return tuple(result_of([row[i] for row in rows]) for i in range(len(first)))
    if isinstance(first, Known) and not ops.is_number(first):
        if any(other != first for other in found):
            raise KernelError("a function returns something here and nothing there")
        return first
    kind = ops.type_of(first)
    for other in found[1:]:
        kind = ops.common(kind, ops.type_of(other))
    return kind


_WRITE: Mapping[type[ast.stmt], Callable[[FunctionWriter, Any], None]] = {
    ast.Assign: FunctionWriter._assignment, ast.AnnAssign: FunctionWriter._annotated,
    ast.AugAssign: FunctionWriter._changed, ast.Expr: FunctionWriter._expression,
    ast.If: FunctionWriter._if, ast.For: FunctionWriter._for, ast.While: FunctionWriter._while,
    ast.Return: FunctionWriter._return, ast.Break: FunctionWriter._break,
    ast.Continue: FunctionWriter._continue, ast.Pass: FunctionWriter._pass,
}  # fmt: skip
