"""numba_cpu > kernels > syntax: the syntax tree of a kernel's function, and what its names mean."""

from __future__ import annotations

import ast
import builtins
import functools
import linecache
import types

from leptonc.errors import TargetError


class KernelError(TargetError):
    """A kernel was declared, written or called in a way that cannot work.

    Attributes:
        place: file and line of the kernel's source, empty where it is none of a statement.
    """

    place: str = ""


def tree_of(fn: types.FunctionType) -> ast.FunctionDef:
    """Return the syntax tree of ``fn``.

    Raises:
        KernelError: its source is not there, or is not what ``fn`` was made from.
    """
    code = fn.__code__
    lines = linecache.getlines(code.co_filename, fn.__globals__)
    for found in _functions("".join(lines)).get(code.co_firstlineno, ()):
        if found.name == code.co_name and _compiled(found, fn) == code.co_code:
            return found
    raise KernelError(
        f"{fn.__module__}.{fn.__qualname__}: {code.co_filename}:{code.co_firstlineno} does not "
        "hold its source; a kernel is a function with `def`, in a file that has not changed since "
        "it was imported: start Python again"
    )


@functools.lru_cache(maxsize=64)
def _functions(text: str) -> dict[int, list[ast.FunctionDef]]:
    """Return the functions of a source by their first line, that of a decorator if there is one."""
    found: dict[int, list[ast.FunctionDef]] = {}
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            first = min([node.lineno, *(d.lineno for d in node.decorator_list)])
            found.setdefault(first, []).append(node)
    return found


def _compiled(tree: ast.FunctionDef, fn: types.FunctionType) -> bytes:
    """Return the bytecode of a function in surroundings as ``fn`` has them.

    The file may have changed since ``fn`` was made of it. What is around a function decides about
    its code: free names are variables there, and Python loads an imported module's attributes in
    another way.
    """
    bare = ast.FunctionDef(
        name=tree.name, args=tree.args, body=tree.body, decorator_list=[], returns=None,
        type_comment=None, type_params=[], lineno=tree.lineno, col_offset=0,
    )  # fmt: skip
    code, named = fn.__code__, fn.__globals__
    modules = [n for n in code.co_names if isinstance(named.get(n), types.ModuleType)]
    imports = "".join(f"import {name}\n" for name in modules)
    around = ast.parse(f"{imports}def around({', '.join(code.co_freevars)}): pass")
    outer = around.body[-1]
    assert isinstance(outer, ast.FunctionDef)
    outer.body = [bare]
    made = compile(around, code.co_filename, "exec", dont_inherit=True)
    for _ in range(2):
        made = next(c for c in made.co_consts if isinstance(c, types.CodeType))
    return made.co_code


def meaning(fn: types.FunctionType, name: str) -> object:
    """Return what a name that is no variable of ``fn`` stands for.

    Raises:
        NameError: for nothing.
    """
    if name in fn.__code__.co_freevars:
        assert fn.__closure__ is not None
        return fn.__closure__[fn.__code__.co_freevars.index(name)].cell_contents
    for place in (fn.__globals__, vars(builtins)):
        if name in place:
            return place[name]
    raise NameError(name)
