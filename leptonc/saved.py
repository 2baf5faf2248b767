"""``leptonc.load(directory)``: a net that ``net.save`` wrote, ready to call, without its model.

The program comes as text, which is parsed and verified, and is lowered for this machine from plain
constants. Then it must repeat the stored probe: bit for bit where nothing that it depends on has
changed (:func:`leptonc.here.here`), else within the tolerance of the self-check.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor

from leptonc import check, meaning, selfcheck, sharded_build
from leptonc.backends.numba_cpu.lower.choices import Answer
from leptonc.backends.numba_cpu.runtime import ahead
from leptonc.backends.torch_spmd import store
from leptonc.capture import CaptureRemark
from leptonc.capture.plain import decode
from leptonc.capture.portable import from_json
from leptonc.capture.structure import Reader, class_name
from leptonc.check import UnitError
from leptonc.compiled import CompiledModel
from leptonc.compiler import figures
from leptonc.errors import ArtifactError, InputError, LeptoncError
from leptonc.here import here
from leptonc.ir.constants import Const, ConstantStore
from leptonc.ir.core import Function, Origin
from leptonc.ir.kinds.region import TorchOp, Unit
from leptonc.ir.text import parse
from leptonc.ir.types import parse_type
from leptonc.ir.verify import verify as verify_function
from leptonc.meaning.opaque import resolve
from leptonc.pipeline import Step
from leptonc.rewrite.trace import Remark, RemarkKind
from leptonc.runtime.artifact import Artifact, open_artifact
from leptonc.runtime.governor import Governor
from leptonc.saving import KIND, captured_file, net_file, program_file
from leptonc.show.progress import Progress
from leptonc.show.report import describe
from leptonc.specialization import Specialization, output_types, random_op, run_marked

OPS = ("aten", "leptonc", "prims", "torchvision")
"""Namespaces of torch operators that a saved net may use without being asked about."""

_NEVER = ("aten.from_file.",)  # reads files that its arguments name
_OPTIONAL = ("torchvision",)  # imported where a net needs its operators
_PRECISIONS = tuple(check.FACTORS)
# What text of another form makes the readers below raise.
_UNREADABLE = (KeyError, ValueError, TypeError, AttributeError, IndexError, RecursionError)


def load(
    directory: str | Path,
    *,
    threads: int | None = None,
    verify: str | None = None,
    classes: Sequence[type] = (),
    ops: Sequence[str] = (),
) -> Any:
    """Return the net that ``net.save(directory)`` wrote; call it as the model was called.

    On the machine that saved it results are the same, bit for bit; elsewhere kernels are made
    anew and what was measured is forgotten. No code comes with a saved net, and none is imported:
    results of a class that is neither loaded and registered with torch's pytrees nor among
    ``classes`` come as a record with the same fields, and a remark of the report says so.

    Args:
        directory: the saved net.
        threads: at most this many; default those of the compile on the machine that saved it,
            elsewhere what affinity and CPU quota allow.
        verify: how weights are compared with their hashes: ``"full"``, ``"sampled"`` or ``"off"``;
            default full below 1 GiB, else sampled.
        classes: dataclasses and other containers that arguments and results may be of.
        ops: namespaces of torch operators that may run besides ``OPS``, e.g. of your own library,
            which must be imported.

    Raises:
        ArtifactError: no saved net, a damaged one, or one that cannot run here; the text names the
            file, what was expected and got, and what to do.
    """
    start = time.perf_counter()
    artifact = open_artifact(directory, verify)
    if artifact.manifest.kind == store.KIND:
        return sharded_build.load(artifact)
    name = _about(artifact)
    reader = Reader({class_name(c): c for c in classes})
    same = artifact.manifest.about.get("here") == here()
    decision = Governor(threads).decision
    limit = None if same and threads is None else decision.cores
    loading = _Loading(artifact, reader, frozenset((*OPS, *ops)), same, decision.cores, limit)
    with Progress(f"loading {name}"), torch.no_grad(), ahead():
        specs = [loading.spec(i) for i in range(artifact.manifest.about["specializations"])]
    artifact.let_go()

    def refuse(args: tuple[Any, ...], kwargs: dict[str, Any]) -> NoReturn:
        raise InputError(
            f"{name} was loaded from {directory} and takes the signatures it was saved with; "
            "compile the model for another one"
        )

    net = CompiledModel(name, refuse, respecialize=False, describe=describe, specializations=specs)
    net.stats = {
        "governor": str(decision),
        "loaded": str(directory),
        "load_s": time.perf_counter() - start,
        "specializations": len(specs),
        **(figures(next(iter(specs[0].bindings.values()))) if specs[0].bindings else {}),
    }
    return net


def _about(artifact: Artifact) -> str:
    """Return the name of a saved net. Raises ArtifactError: the artifact is something else."""
    kind, about = artifact.manifest.kind, artifact.manifest.about
    if kind != KIND:
        raise ArtifactError(
            f"{artifact.path}: holds {kind!r}, expected {KIND!r}, which net.save() writes"
        )
    count, name = about.get("specializations"), about.get("name")
    if type(count) is not int or count < 1 or not isinstance(name, str):
        raise ArtifactError(f"{artifact.path}: names no net; save it again")
    return name


@dataclass
class _Loading:
    """One artifact on its way to being a net."""

    artifact: Artifact
    reader: Reader
    ops: frozenset[str]
    same: bool  # whether everything its bits depend on is as where it was saved
    cores: int
    limit: int | None  # threads; None: as saved
    store: Mapping[str, Const] = field(init=False)

    def __post_init__(self) -> None:
        self.store = self.artifact.constants()

    def spec(self, index: int) -> Specialization:
        """Return one signature, lowered and checked. Raises ArtifactError."""
        try:
            return self._spec(index)
        except ArtifactError:
            raise
        except (LeptoncError, *_UNREADABLE) as error:
            version = self.artifact.manifest.leptonc
            raise ArtifactError(
                f"{self.artifact.path}: signature {index} cannot be loaded "
                f"({type(error).__name__}: {error}); it was saved by leptonc {version}: load it "
                "with that version, or compile and save the model again"
            ) from error

    def _spec(self, index: int) -> Specialization:
        data = self.artifact.json(net_file(index))
        fn = self._function(program_file(index), self.store)
        self._check_ops(fn)
        captured = self._function(captured_file(index), _stand_ins(data["captured_types"]))
        known = len(self.reader.missing)
        call = from_json(data["call"], captured, self.reader)
        if [p.type for p in captured.params] != [p.type for p in fn.params]:
            raise ValueError("the optimized program takes other arguments than the captured one")
        spec = Specialization(
            captured=call,
            function=fn,
            stages=tuple,
            remarks=[*_remarks(data["remarks"]), *map(_missing, self.reader.missing[known:])],
            threads=self._threads(data["threads"]),
            precision=_one_of(data["precision"], _PRECISIONS),
            retreat={_text(k): _text(v) for k, v in data["retreat"].items()},
            answers=self._answers(data["answers"]),
            errors={k: UnitError(*map(decode, row)) for k, row in data["errors"].items()},
            # Not the first: programs after the first are not built by running their emitted text,
            # into which names of a saved net would go.
            bound=1,
        )
        if data["probe"] is not None:
            self._check(spec, data["probe"], data["threads"])
        spec.stages = _no_stages(self.artifact.path)
        return spec

    def _function(self, name: str, store: Mapping[str, Const]) -> Function:
        fn = parse(self.artifact.text(name), store)
        verify_function(fn)
        return fn

    def _threads(self, saved: Any) -> int:
        if type(saved) is not int or saved < 1:
            raise ValueError(f"{saved!r} threads")
        return min(saved, self.cores) if self.limit is None else self.limit

    def _answers(self, rows: Any) -> dict[str, Answer]:
        """Return what was measured where it was saved; times of another machine mean nothing."""
        found = {_text(k): Answer(**row) for k, row in rows.items()}
        return found if self.same else {}

    def _check_ops(self, fn: Function) -> None:
        """Raise ArtifactError for a torch operator that is not allowed or not there."""
        for target in sorted({op.target for op in _torch_ops(fn)}):
            space = target.partition(".")[0]
            if space not in self.ops or target.startswith(_NEVER):
                raise ArtifactError(
                    f"{self.artifact.path}: runs the operator {target}, expected one of "
                    f"{', '.join(sorted(self.ops))}; if you trust the artifact, import the library "
                    f"that registers it and load with ops=[{space!r}]"
                )
            if space in _OPTIONAL:
                with suppress(ImportError, RuntimeError):
                    importlib.import_module(space)
            resolve(target)

    # -- the probe --------------------------------------------------------------------------------

    def _check(self, spec: Specialization, probe: Mapping[str, Any], threads: int) -> None:
        """Run the stored probe. Raises ArtifactError: results are not those of who saved it."""
        inputs, wanted = ([self._tensor(d) for d in probe[k]] for k in ("inputs", "results"))
        spec.example = tuple(inputs)
        fn = spec.function
        sizes = meaning.bind_dims(fn, [t.shape for t in inputs])
        self._check_types(fn, inputs)
        program = spec.bind(sizes)
        if random_op(spec.captured.function) is not None:
            return
        got = run_marked(program, inputs, output_types(program))
        if _same_types(wanted, got) and all(map(_same_bits, wanted, got)):
            return
        if not _same_types(wanted, got) or not _repaired(spec, sizes, inputs, wanted, got):
            raise ArtifactError(
                f"{self.artifact.path}: on the stored probe the loaded program does not give what "
                "the saved one gave; compile and save the model again"
            )
        if self.same and spec.threads == threads:
            text = "the last bits of results are not those of the saved net"
            spec.remarks.append(Remark("load", RemarkKind.MISSED, "the stored probe", text))

    def _tensor(self, digest: Any) -> Tensor:
        return meaning.tensor_of(self.store[_text(digest)])

    def _check_types(self, fn: Function, inputs: Sequence[Tensor]) -> None:
        want = [meaning.TORCH_DTYPES[p.type.dtype] for p in fn.params]
        if [t.dtype for t in inputs] != want:
            raise ValueError(f"a probe of {[t.dtype for t in inputs]} for {want}")


def _stand_ins(types: Mapping[str, str]) -> ConstantStore:
    """Return constants without data, for a program that is only looked at."""
    store = ConstantStore()
    for name, text in types.items():
        type_ = parse_type(text)
        store.add(Const(type_, meaning.stand_in(type_), lambda _, name=name: name, released=True))
    return store


def _torch_ops(fn: Function) -> Iterator[TorchOp]:
    for op in fn.ops:
        if isinstance(op.kind, TorchOp):
            yield op.kind
        elif isinstance(op.kind, Unit):
            yield from _torch_ops(op.kind.body)


def _remarks(rows: Any) -> list[Remark | CaptureRemark]:
    return [_remark(*map(_text, row)) for row in rows]


def _remark(by: str, *words: str) -> Remark | CaptureRemark:
    if by == "capture":
        op, reason, module, source = words
        return CaptureRemark(op, reason, Origin(module, source))
    name, kind, what, reason, module, source, rule = words
    return Remark(name, RemarkKind(kind), what, reason, Origin(module, source), rule)


def _missing(name: str) -> Remark:
    text = (
        "no such class is loaded and registered: a record or tuple of the same fields stands in; "
        "import it before leptonc.load, or pass it there as classes=[...]"
    )
    return Remark("load", RemarkKind.MISSED, name, text)


def _no_stages(path: Path) -> Any:
    def stages() -> tuple[Step, ...]:
        raise LeptoncError(
            f"the net was loaded from {path}: its passes ran before it was saved, and what they "
            "saw is not kept; compile the model to see them"
        )

    return stages


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"expected text, got {value!r}")
    return value


def _one_of(value: Any, known: Sequence[str]) -> str:
    if value not in known:
        raise ValueError(f"{value!r}, expected one of {', '.join(known)}")
    return value


def _same_types(wanted: Sequence[Tensor], got: Sequence[Tensor]) -> bool:
    types = [[(t.shape, t.dtype) for t in ts] for ts in (wanted, got)]
    return types[0] == types[1]


def _same_bits(a: Tensor, b: Tensor) -> bool:
    return meaning.bytes_of(a).tobytes() == meaning.bytes_of(b).tobytes()


def _repaired(
    spec: Specialization,
    sizes: Mapping[str, int],
    inputs: Sequence[Tensor],
    wanted: Sequence[Tensor],
    got: Sequence[Tensor],
) -> bool:
    """Return whether results are within the tolerance, if need be with units sent to torch.

    What the saved program gave is held to the same reference: it must be that of this program.
    """
    if check.surely_within(wanted, got, spec.precision):
        return True
    fn = spec.function
    ref = check.reference(fn, inputs, spec.precision)

    def right(results: Sequence[Tensor]) -> bool:
        return check.furthest(check.differences(ref, fn, results)) is None

    if not right(wanted):
        return False
    if right(got):
        return True
    selfcheck.units(spec, sizes, inputs)
    program = spec.bind(sizes)
    return right(run_marked(program, inputs, output_types(program)))
