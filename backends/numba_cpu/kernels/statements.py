"""numba_cpu > kernels > statements: writes the LLVM IR of a kernel, its helpers included.

Should a loop bring a variable back with another type than it had before, the function is written
again with that type from the loop on.
"""

from __future__ import annotations

import ast
import types as python
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llvmlite import ir
from numba.core import types
from numba.core.errors import NumbaError

from leptonc.backends.numba_cpu.kernels import operands as ops
from leptonc.backends.numba_cpu.kernels.language import DeviceFunction
from leptonc.backends.numba_cpu.kernels.operands import NOTHING, Known, Operand, Value
from leptonc.backends.numba_cpu.kernels.shapes import (
    Shape,
    filled,
    flat,
    leaves,
    result_of,
    shape_of,
)
from leptonc.backends.numba_cpu.kernels.syntax import KernelError, tree_of
from leptonc.backends.numba_cpu.kernels.variables import (
    Bindings,
    Edge,
    Loop,
    Unclear,
    Variables,
    kind_of_all,
)


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
        self, fn: python.FunctionType, symbol: str, kinds: Sequence[types.Type], result: Shape
    ) -> None:
        """Write the entry ``symbol``: ``fn`` on as many arguments of these types as it takes."""
        self._write(fn, symbol, tuple(kinds), result, fn.__code__.co_argcount)

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
        taken: int | None = None,
    ) -> _Written:
        params = [ops.llvm_type(kind) for kind in leaves(shapes)]
        code = ir.Function(self.module, ir.FunctionType(ir.VoidType(), params), name)
        code.attributes.add("nounwind")
        retyped: dict[tuple[ast.stmt, str], types.Type | None] = {}
        while True:
            code.blocks.clear()
            try:
                writer = FunctionWriter(self, fn, code, retyped)
                return _Written(code, writer.write(shapes[:taken], result))
            except _Retyped as again:
                retyped[again.loop, again.name] = again.kind


class FunctionWriter(Variables):
    """Writes the statements of one function."""

    def __init__(
        self,
        home: ModuleWriter,
        fn: python.FunctionType,
        code: ir.Function,
        retyped: Mapping[tuple[ast.stmt, str], types.Type | None],
    ) -> None:
        super().__init__(fn, code)
        self._home, self._code, self._retyped = home, code, retyped
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
            self.bind(name, filled(shape, given))
        self._run(tree.body)
        if self.bound is not None:
            self._returns.append((self.b.block, NOTHING))
        try:
            found = self._end(result)
        except KernelError as error:
            raise self._told(error, tree) from error
        ir.IRBuilder(self.first).branch(entry)
        return found

    # ----- statements ---------------------------------------------------------------------------
    def _run(self, body: Iterable[ast.stmt]) -> None:
        for node in body:
            if self.bound is None:
                return
            write = _WRITE.get(type(node))
            try:
                if write is None:
                    raise KernelError(f"kernels have no {type(node).__name__}")
                write(self, node)
            except KernelError as error:
                raise self._told(error, node) from error.__cause__
            except (TypeError, ValueError, IndexError, NumbaError) as error:
                raise self._told(KernelError(f"{error}"), node) from error

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
            self.assign(target, found)

    def _annotated(self, node: ast.AnnAssign) -> None:
        if node.value is not None:
            self.assign(node.target, self.value(node.value))

    def _changed(self, node: ast.AugAssign) -> None:
        if not isinstance(node.target, ast.Name):
            raise KernelError(f"{ast.unparse(node.target)} is no variable")
        old = self.read(node.target.id)
        self.bind(node.target.id, self.binary(node.op, old, self.value(node.value)))

    def _expression(self, node: ast.Expr) -> None:
        if not isinstance(node.value, ast.Constant):  # a docstring
            self.value(node.value)

    def _if(self, node: ast.If) -> None:
        test = self.condition(node.test)
        if isinstance(test, Known):
            self._run(node.body if test.value else node.orelse)
            return
        starts = [self.block("then"), self.block("else")]
        self.b.cbranch(test.code, *starts)
        _, before = self.edge()
        edges: list[Edge] = []
        for start, body in zip(starts, (node.body, node.orelse), strict=True):
            self.b.position_at_end(start)
            self.bound = dict(before)
            self._run(body)
            if self.bound is not None:
                edges.append(self.edge())
        if edges:
            self.meet(edges, self.block("met"))

    def _return(self, node: ast.Return) -> None:
        found = NOTHING if node.value is None else self.value(node.value)
        self._returns.append((self.edge()[0], found))

    def _break(self, node: ast.Break) -> None:
        self._loops[-1].out.append(self.edge())

    def _continue(self, node: ast.Continue) -> None:
        self._loops[-1].again.append(self.edge())

    # ----- loops --------------------------------------------------------------------------------
    def _for(self, node: ast.For) -> None:
        if node.orelse:
            raise KernelError("a loop has no else")
        if isinstance(node.iter, ast.Call) and self.value(node.iter.func) == Known(range):
            self._range(node, self.values(node.iter.args))
            return
        self._unrolled(node, self.parts(self.value(node.iter)))

    def _unrolled(self, node: ast.For, items: Sequence[Operand]) -> None:
        """Write the body once for each item of a tuple."""
        out: list[Edge] = []
        for item in items:
            loop = Loop()
            self._loops.append(loop)
            self.assign(node.target, item)
            self._run(node.body)
            self._loops.pop()
            if self.bound is not None:
                loop.again.append(self.edge())
            out += loop.out
            if not loop.again:
                break
            self.meet(loop.again, self.block("next"))
        if out:
            if self.bound is not None:
                out.append(self.edge())
            self.meet(out, self.block("out"))

    def _range(self, node: ast.For, limits: Sequence[Operand]) -> None:
        """Write a loop over whole numbers; its variable may be changed, the count is not.

        A computed step of 0 makes none; Python would raise.
        """
        if not 1 <= len(limits) <= 3:
            raise KernelError(f"range takes one to three numbers, not {len(limits)}")
        start, stop = (Known(0), limits[0]) if len(limits) == 1 else limits[:2]
        step = limits[2] if len(limits) == 3 else Known(1)
        if step == Known(0):
            raise KernelError("a range has a step")
        values = [ops.whole(self.b, v).code for v in (start, stop, step)]
        counter = self.place(f"{ast.unparse(node.target)} {node.lineno}", types.int64).at
        self.b.store(values[0], counter)

        def more() -> ir.Value:
            at = self.b.load(counter, typ=ops.I64)
            if isinstance(step, Known):
                return self.b.icmp_signed("<" if step.value > 0 else ">", at, values[1])
            up, down = (self.b.icmp_signed(x, values[2], ops.computed(Known(0)).code) for x in "><")
            ways = [self.b.icmp_signed(sign, at, values[1]) for sign in "<>"]
            return self.b.or_(self.b.and_(up, ways[0]), self.b.and_(down, ways[1]))

        def begin() -> None:
            self.assign(node.target, Value(types.int64, self.b.load(counter, typ=ops.I64)))

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
                self.here[name] = Unclear()
            elif loop is node and kind is not None:
                self.bind(name, ops.cast(self.b, self.read(name), kind))
        head, body, done = (self.block(n) for n in ("head", "body", "done"))
        self.b.branch(head)
        self.b.position_at_end(head)
        _, before = self.edge()
        self.bound = dict(before)
        test, ways = more(), Loop()
        if isinstance(test, Known) and not test.value:
            self.b.branch(done)
            self.b.position_at_end(done)
            self._code.blocks.remove(body)
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
        before: Bindings,
        head: ir.Block,
        proceed: Callable[[], None],
    ) -> None:
        """Lead the ends of a loop's body back to its head."""
        if self.bound is not None:
            ways.again.append(self.edge())
        if not ways.again:
            return
        self.meet(ways.again, self.block("proceed"))
        proceed()
        for name, bound in before.items():
            if not self.restore(name, bound):
                raise _Retyped(node, name, kind_of_all([bound, self.here[name]]))
        self.b.branch(head)
        back = self.edge()[1]
        # What the body bound first is still bound behind the loop, if it ran.
        for _, bound in ways.out:
            for name, new in back.items():
                bound.setdefault(name, new)

    def _leave(self, ways: Loop, done: ir.Block) -> None:
        """Go on behind a loop."""
        if ways.out and ways.out[0][0] is done:
            if len(ways.out) == 1:
                self.b.position_at_end(done)
                self.bound = ways.out[0][1]
                return
            self.meet(ways.out, self.block("out"))
        else:
            self._code.blocks.remove(done)
            if ways.out:
                self.meet(ways.out, self.block("out"))

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


_WRITE: Mapping[type[ast.stmt], Callable[[FunctionWriter, Any], None]] = {
    ast.Assign: FunctionWriter._assignment, ast.AnnAssign: FunctionWriter._annotated,
    ast.AugAssign: FunctionWriter._changed, ast.Expr: FunctionWriter._expression,
    ast.If: FunctionWriter._if, ast.For: FunctionWriter._for, ast.While: FunctionWriter._while,
    ast.Return: FunctionWriter._return, ast.Break: FunctionWriter._break,
    ast.Continue: FunctionWriter._continue, ast.Pass: lambda *_: None,
}  # fmt: skip
