"""Compiled programs on disk: what a second process loads instead of optimizing and packing again.

An entry holds the optimized IR as text, the packed constants in the order lowering asks for them,
and one probe: inputs and the results they gave. A loaded program must repeat the probe's results
bit for bit; anything else counts as a miss. Large constants that only kernels read (packed) are not
stored a second time; a program with symbolic sizes stores them, as other sizes may pack anew.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from torch import Tensor

from leptonc import meaning
from leptonc.backends.numba_cpu.lower.choices import Answer
from leptonc.backends.numba_cpu.lower.core import ALIGN, aligned
from leptonc.backends.numba_cpu.lower.questions import MOST_DENSE
from leptonc.backends.numba_cpu.release import SMALL, nbytes, read_by_torch
from leptonc.capture import Captured
from leptonc.errors import LeptoncError
from leptonc.here import here
from leptonc.ir.constants import Const, ConstantStore
from leptonc.ir.core import Function
from leptonc.ir.literal import literal
from leptonc.ir.text import constants, dump, parse
from leptonc.ir.types import DType, parse_type
from leptonc.runtime.cache import CompileCache, Entry, cache_key
from leptonc.runtime.pages import let_go
from leptonc.specialization import Specialization, output_types, run_program


def key_of(captured: Captured, parts: Sequence[object]) -> str:
    """Return the key: program and weights, settings, versions, machine, and our own sources.

    The sizes of the caches belong to the machine: they decide how a batch is cut, and a program of
    other steps would ask for the stored constants in another order.
    """
    return cache_key(dump(captured.function), *parts, here())


def save(
    cache: CompileCache,
    key: str,
    spec: Specialization,
    inputs: Sequence[Tensor],
    results: Sequence[Tensor] | None = None,
) -> None:
    """Store ``spec``, which was compiled for ``inputs`` and gave ``results`` when it was checked.

    The files of a static program are written behind: its packed constants are its own. Whatever
    else the caller could still write to is copied before.
    """
    program = spec.bind(meaning.bind_dims(spec.function, [t.shape for t in inputs]))
    if results is None:
        results = run_program(program, inputs, output_types(program))
    store = constants(spec.function)
    arrays = {f"pack{i}": a for i, a in enumerate(spec.pool.arrays)}
    for i, t in enumerate((*inputs, *results)):
        arrays[f"probe{i}"] = meaning.raw_tensor(t)
    # Kernels may load a vector beyond an array: no pack is the last in its file.
    arrays["~"] = np.zeros(2 * ALIGN, np.uint8)
    for const in _needed(spec, program.schedule.steps, store):
        arrays[f"const{_name(const)}"] = meaning.raw_array(const)
    head = {
        "retreat": spec.retreat,
        "types": {_name(c): str(c.type) for c in store.values()},
        "packs": len(spec.pool.arrays),
        # what lowering asks of constants whose bytes are not stored
        "shares": {_name(c): meaning.nonzero_share(c, MOST_DENSE) for c in store.values()},
        "uneven": {_name(c): meaning.unevenness(c) for c in store.values() if _is_matrix(c)},
        "peaks": {
            _name(c): x for c in store.values() if (x := meaning.known_peak_to_mean(c)) is not None
        },
        "reaches": {_name(c): meaning.row_reach(c) for c in store.values() if _is_kernel(c)},
        "answers": {k: asdict(a) for k, a in spec.answers.items()},
    }
    texts = {
        "program.lir": dump(spec.function),
        "schedule.py": program.source.text,
        "head.json": json.dumps(head),
    }
    if spec.function.dims:  # every constant is stored, and a copy of all of them may be large
        cache.put(key, texts, {name: _real(array) for name, array in arrays.items()})
        return
    own = {n: a if n.startswith("pack") else a.copy() for n, a in arrays.items()}
    cache.put_behind(key, texts, {name: _real(array) for name, array in own.items()})


def load(
    cache: CompileCache, key: str, captured: Captured, inputs: Sequence[Tensor], **made: Any
) -> tuple[Specialization | None, str]:
    """Return the stored specialization if there is one and its probe still holds.

    The text is empty, or says why a program that was there cannot be trusted: it is dropped.
    """
    there = cache.holds(key)
    entry = cache.get(key)
    if entry is None:
        return None, "its files are not what was stored" if there else ""
    try:
        spec = _revive(entry, captured, made)
        wrong = _probe_problem(entry, spec)
        for array in (a for name, a in entry.arrays.items() if name.startswith("probe")):
            let_go(array)
    except (LeptoncError, LookupError, ValueError, TypeError, RuntimeError) as e:
        spec, wrong = None, f"it does not load ({type(e).__name__}: {e})"
    if wrong:
        cache.drop(key)
        return None, wrong
    return spec, ""


def _real(array: np.ndarray) -> np.ndarray:
    """Return complex numbers, which the file format lacks, as pairs along one axis more."""
    if not np.iscomplexobj(array):
        return array
    return np.stack([np.real(array), np.imag(array)], axis=-1)


def _name(const: Const) -> str:
    return literal(const)[len("const<sha256:") : -1]


def _is_matrix(const: Const) -> bool:
    """Return whether it may be the weight of a linear layer or of a 1x1 convolution."""
    flat = const.type.rank >= 2 and all(d == 1 for d in const.type.shape[2:])
    return const.type.dtype is DType.F32 and flat


def _is_kernel(const: Const) -> bool:
    """Return whether it may be the weight of a convolution of codes."""
    return const.type.dtype is DType.I8 and const.type.rank > 2


def _needed(
    spec: Specialization, steps: Sequence[Any], store: Mapping[str, Const]
) -> Sequence[Const]:
    """Return the constants whose plain bytes a loaded program may read."""
    if spec.function.dims:
        return list(store.values())
    found = {c.digest: c for c in store.values() if nbytes(c) <= SMALL}
    found.update({c.digest: c for c in read_by_torch(steps)})
    return list(found.values())


def _revive(entry: Entry, captured: Captured, made: Mapping[str, Any]) -> Specialization:
    head = json.loads(entry.texts["head.json"])
    store = ConstantStore()
    for name, text in head["types"].items():
        type_ = parse_type(text)
        raw = entry.arrays.get(f"const{name}")
        payload = meaning.stand_in(type_) if raw is None else meaning.tensor_from_raw(raw, type_)
        const = Const(type_, payload, lambda _, name=name: name, released=raw is None)
        store.items_[name] = const
        meaning.set_nonzero_share(const, head["shares"][name])
        if name in head["uneven"]:
            meaning.set_unevenness(const, head["uneven"][name])
        if name in head["peaks"]:
            meaning.set_peak_to_mean(const, head["peaks"][name])
        if name in head["reaches"]:
            meaning.set_row_reach(const, head["reaches"][name])
    fn: Function = parse(entry.texts["program.lir"], store)
    spec = Specialization(captured=captured, function=fn, remarks=[], **made)
    spec.retreat.update(head["retreat"])
    spec.answers.update({k: Answer(**a) for k, a in head["answers"].items()})
    # Mapped, not read: pages come in as kernels touch them. Few sizes are no multiple of 64 bytes.
    packs = (entry.arrays[f"pack{i}"] for i in range(head["packs"]))
    spec.pool.stored.extend(a if a.ctypes.data % ALIGN == 0 else aligned(a) for a in packs)
    return spec


def _probe_problem(entry: Entry, spec: Specialization) -> str:
    """Return what is wrong with the results on the stored probe, "" if every bit is right."""
    types = [p.type for p in spec.function.params]
    raw = [entry.arrays[f"probe{i}"] for i in range(len(types))]
    probe = [
        meaning.tensor_from_raw(r, t.with_shape(r.shape)) for r, t in zip(raw, types, strict=True)
    ]
    program = spec.bind(meaning.bind_dims(spec.function, [t.shape for t in probe]))
    if program.source.text != entry.texts["schedule.py"]:
        # Its kernels would read constants that were packed for others.
        return "its steps are not those that were stored"
    got = run_program(program, [t.contiguous() for t in probe], output_types(program))
    for i, g in enumerate(got):
        found, want = meaning.raw_tensor(g), entry.arrays[f"probe{len(types) + i}"]
        if found.tobytes() != want.tobytes():
            return f"on the stored probe, output {i} is not what it was when it was checked"
    return ""
