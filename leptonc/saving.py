"""What ``net.save(directory)`` writes: every signature as text, its constants, and one probe.

A saved net must be lowered anew where it is loaded, so all plain constants are kept. A compiled
net has let most of them go (kernels read packed ones): then the model is captured once more, which
it must be alive for. The format is that of :mod:`leptonc.runtime.artifact`::

    manifest.json     kind "compiled"; name, number of signatures, ``here()`` of who saved it
    program<i>.lir    the optimized program of signature i
    captured<i>.lir   the program as captured, for reports; its constants are not kept
    net<i>.json       how it is called, settings, measured choices, remarks, probe
    weights*          constants and probes, by digest
"""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import torch

from leptonc import meaning
from leptonc.backends.numba_cpu.lower.core import ConstPool
from leptonc.capture import CaptureRemark
from leptonc.capture.plain import encode
from leptonc.capture.portable import origin_json, to_json
from leptonc.errors import ArtifactError, InputError, LeptoncError
from leptonc.here import here
from leptonc.ir.constants import PREFIX, Const, ConstantStore
from leptonc.ir.core import Function
from leptonc.ir.text import constants, dump, every_constant, parse
from leptonc.passes import pipeline as passes_of
from leptonc.pipeline import PassManager, Recorder
from leptonc.rewrite.trace import Remark
from leptonc.runtime.artifact import refuse_other, write_artifact
from leptonc.specialization import Specialization, output_types, random_op, run_program

KIND = "compiled"
Said = Remark | CaptureRemark


def program_file(index: int) -> str:
    """Return the file of a signature's optimized program."""
    return f"program{index}.lir"


def captured_file(index: int) -> str:
    """Return the file of a signature's captured program."""
    return f"captured{index}.lir"


def net_file(index: int) -> str:
    """Return the file of everything else that belongs to a signature."""
    return f"net{index}.json"


def save(name: str, specs: Sequence[Specialization], directory: Path | str) -> Path:
    """Write a compiled net and return the directory. It appears complete or not at all.

    Raises:
        InputError: nothing is compiled yet.
        ArtifactError: weights that are gone with the model or changed since, arguments that cannot
            be saved, something else in ``directory``.
    """
    if not specs:
        raise InputError(f"{name} is compiled at its first call; call it once, then save it")
    refuse_other(Path(directory).resolve())  # before the work, not after it
    store, texts = ConstantStore(), dict[str, str]()
    with torch.no_grad():
        for i, spec in enumerate(specs):
            texts |= _texts(name, i, spec, store)
    about = {"kind": KIND, "name": name, "specializations": len(specs), "here": here()}
    return write_artifact(directory, about, texts, store)


def _texts(name: str, index: int, spec: Specialization, store: ConstantStore) -> dict[str, str]:
    """Return the files of one signature; its constants and its probe go to ``store``."""
    # Hashed as it was compiled; else a weight may have been trained since and nothing tells.
    hashed = all("digest" in vars(c) for c in every_constant(spec.function))
    found, remarks = _plain(name, spec)
    for const in found:
        store.add(const)
    probe = _probe(spec, store)
    if not hashed and probe is not None:
        _check_again(name, spec, store, probe)
    captured = spec.captured
    types = {c.digest[:PREFIX]: str(c.type) for c in constants(captured.function).values()}
    try:
        call = to_json(captured)
    except ArtifactError as error:
        raise ArtifactError(f"{name}: {error}") from None
    about = {
        "call": call,
        "captured_types": types,
        "threads": spec.threads,
        "precision": spec.precision,
        "retreat": spec.retreat,
        "answers": {key: asdict(a) for key, a in spec.answers.items()},
        "errors": {
            unit: [encode(e.error), encode(e.tolerance), e.probe] for unit, e in spec.errors.items()
        },
        "remarks": [_remark(r) for r in remarks],
        "probe": probe,
    }
    return {
        program_file(index): dump(spec.function),
        captured_file(index): dump(captured.function),
        net_file(index): json.dumps(about, indent=1),
    }


def _remark(r: Said) -> list[str]:
    if isinstance(r, CaptureRemark):
        return ["capture", r.op, r.reason, *origin_json(r.origin)]
    return ["pass", r.pass_, r.kind.value, r.what, r.reason, *origin_json(r.origin), r.rule]


def _probe(spec: Specialization, store: ConstantStore) -> dict[str, list[str]] | None:
    """Return the digests of operands and of what the program makes of them; no results if random.

    None where nothing is known to run it on.
    """
    if spec.example is None:
        return None
    program = spec.bind(meaning.bind_dims(spec.function, [t.shape for t in spec.example]))
    drawn = random_op(spec.captured.function) is not None
    results = [] if drawn else run_program(program, spec.example, output_types(program))

    def kept(tensors: Iterable[torch.Tensor]) -> list[str]:
        # A copy: the caller's tensors may change before they are written.
        return [store.add(meaning.const_of(t.clone())).digest for t in tensors]

    return {"inputs": kept(spec.example), "results": kept(results)}


def _check_again(
    name: str, spec: Specialization, store: ConstantStore, probe: Mapping[str, list[str]]
) -> None:
    """Lower what is to be saved and hold it to the probe. Raises ArtifactError."""
    again = replace(
        spec,
        function=parse(dump(spec.function), store),
        pool=ConstPool(),
        bindings=OrderedDict(),
        roads={},
        lock=threading.Lock(),
    )
    inputs = [meaning.tensor_of(store[d]) for d in probe["inputs"]]
    program = again.bind(meaning.bind_dims(again.function, [t.shape for t in inputs]))
    results = run_program(program, inputs, output_types(program))
    if probe["results"] and [meaning.const_of(t).digest for t in results] != probe["results"]:
        raise _changed(f"{name} cannot be saved: with its weights as they are its results differ")


def _changed(what: str) -> ArtifactError:
    return ArtifactError(
        f"{what}; the model's weights changed since. Compile the model again, then save the net"
    )


# ----- plain constants ----------------------------------------------------------------------------


def _plain(name: str, spec: Specialization) -> tuple[list[Const], Sequence[Said]]:
    """Return the constants of a program, bytes and all, and its remarks.

    Raises:
        ArtifactError: the model they come from is gone, or has other weights by now.
    """
    wanted = {c.digest[:PREFIX]: c for c in constants(spec.function).values()}
    found = _sound(wanted.values(), wanted)
    if len(found) == len(wanted) and (spec.remarks or spec.replay is None):
        return list(found.values()), spec.remarks
    try:
        again, remarks = _once_more(spec)
    except LeptoncError as error:
        if len(found) == len(wanted):
            return list(found.values()), spec.captured.remarks
        raise ArtifactError(
            f"{name} cannot be saved: a compiled net keeps packed weights only, and the plain ones "
            "are gone with the model. Keep the model until the net is saved"
        ) from error
    found |= _sound(constants(again).values(), wanted)
    if missing := [c for prefix, c in wanted.items() if prefix not in found]:
        raise _changed(
            f"{name} cannot be saved: {len(missing)} of {len(wanted)} constants, the first a "
            f"{missing[0].type}, are no longer what they were when it was compiled"
        )
    return list(found.values()), spec.remarks or remarks


def _sound(consts: Iterable[Const], wanted: Mapping[str, Const]) -> dict[str, Const]:
    """Return by prefix the wanted ones whose bytes are there and as they were, of full digest."""
    found: dict[str, Const] = {}
    for const in consts:
        prefix = const.digest[:PREFIX]
        if prefix in wanted and not const.released:
            # Hashed anew: a weight may have been trained since its digest was taken.
            hasher = meaning.const_of(meaning.tensor_of(const)).hasher
            fresh = Const(const.type, const.payload, hasher)
            if fresh.digest[:PREFIX] == prefix:
                found[prefix] = fresh
    return found


def _once_more(spec: Specialization) -> tuple[Function, Sequence[Said]]:
    """Return the optimized program, made anew from the model. Raises LeptoncError: it is gone."""
    if spec.replay is None:
        raise ArtifactError("how it was compiled is not known")
    captured, recorder = spec.replay.capture(), Recorder()
    manager = PassManager(passes_of(spec.replay.pipeline), (recorder,))
    return manager.run(captured.function), [*captured.remarks, *recorder.remarks]
