"""compress > finetune: trains a module, by labels or by a teacher."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from leptonc.compress import checkpoint as checkpoints
from leptonc.compress.losses import (
    Taps,
    hidden_loss,
    label_loss,
    logits_of,
    soft_loss,
    split_batch,
)
from leptonc.compress.recipe import CompressError
from leptonc.show.progress import Progress

Loss = Callable[[Any, Any], Tensor]
SCHEDULES: Mapping[str, Callable[[float], float]] = {
    "constant": lambda done: 1.0,
    "cosine": lambda done: 0.5 * (1 + math.cos(math.pi * done)),
    "linear": lambda done: 1 - done,
}


@dataclass(frozen=True)
class Report:
    """What a training came to.

    Attributes:
        losses: the mean loss of every epoch.
        metrics: the metric after every epoch; empty without ``validate``.
        best: number of the epoch whose weights the student has now, from 0.
        seconds: that it took, those of earlier runs that were resumed included.
        stopped: whether it ended early, because the metric no longer grew.
        resumed: epochs that were taken from a checkpoint.
    """

    losses: tuple[float, ...]
    metrics: tuple[float, ...]
    best: int
    seconds: float
    stopped: bool = False
    resumed: int = 0

    def __str__(self) -> str:
        lines = [f"{'epoch':>5}  {'loss':>9}  {'metric':>9}"]
        for i, loss in enumerate(self.losses):
            metric = f"{self.metrics[i]:9.4f}" if self.metrics else f"{'':9}"
            lines.append(f"{i:5}  {loss:9.4f}  {metric}{'  <- kept' if i == self.best else ''}")
        return "\n".join([*lines, f"{self.seconds:.1f} s{', stopped early' * self.stopped}"])


@dataclass(frozen=True)
class Aim:
    """What is minimized.

    Attributes:
        loss: of result and label; None: by the type of the label.
        temperature: of the teacher's and the student's scores.
        alpha: the part of the teacher's loss where there are labels, too.
        hidden: pairs of module paths, of the student and of the teacher.
        beta: the weight of the hidden values' loss.
    """

    loss: Loss | None = None
    temperature: float = 4.0
    alpha: float = 0.9
    hidden: tuple[tuple[str, str], ...] = ()
    beta: float = 1.0


@dataclass
class _Run:
    """The state of one training between epochs."""

    student: nn.Module
    optimizer: torch.optim.Optimizer
    on_step: Callable[[], object] | None
    losses: list[float] = field(default_factory=list[float])
    metrics: list[float] = field(default_factory=list[float])
    best: int = -1
    weights: dict[str, Tensor] = field(default_factory=dict[str, Tensor])
    seconds: float = 0.0

    @property
    def scheduler(self) -> Any:
        """Whatever ``on_step`` is a method of, if it has a state."""
        owner = getattr(self.on_step, "__self__", None)
        return owner if hasattr(owner, "state_dict") else None

    @property
    def settled(self) -> bool:
        """Whether a schedule of masks is over: weights before that are no candidates."""
        owner = self.scheduler
        return getattr(owner, "at", 0) >= getattr(owner, "steps", 0)

    def note(self, loss: float, metric: float | None) -> None:
        """Note the end of an epoch; its weights are kept if they are the best so far."""
        self.losses.append(loss)
        if metric is not None:
            self.metrics.append(metric)
        epoch, first = len(self.losses) - 1, self.best < 0
        if first or metric is None or (self.settled and not metric <= self._best_metric()):
            self.best, self.weights = epoch, checkpoints.on_cpu(self.student.state_dict())
            self.best_settled = self.settled

    best_settled: bool = False

    def _best_metric(self) -> float:
        return self.metrics[self.best] if self.best_settled else -math.inf

    def tree(self, key: str) -> dict[str, Any]:
        """Return everything that a checkpoint keeps."""
        return {
            "key": key, "losses": self.losses, "metrics": self.metrics, "best": self.best,
            "best_settled": self.best_settled, "seconds": self.seconds,
            "best_weights": self.weights,
            "weights": dict(self.student.state_dict()), "optimizer": self.optimizer.state_dict(),
            "schedule": self.scheduler.state_dict() if self.scheduler is not None else None,
        }  # fmt: skip

    def resume(self, tree: Mapping[str, Any]) -> None:
        """Go on where a checkpoint ended."""
        self.losses, self.metrics = tree["losses"], tree["metrics"]
        self.best, self.best_settled = tree["best"], tree["best_settled"]
        self.seconds, self.weights = tree["seconds"], tree["best_weights"]
        checkpoints.restore(self.student.state_dict(), tree["weights"])
        self.optimizer.load_state_dict(tree["optimizer"])
        if self.scheduler is not None:
            self.scheduler.load_state_dict(tree["schedule"])


def finetune(
    student: nn.Module,
    data: Iterable[Any],
    teacher: nn.Module | None = None,
    loss: Loss | None = None,
    hidden: Sequence[tuple[str, str]] = (),
    epochs: int = 1,
    lr: float = 1e-3,
    optimizer: Callable[[Any], torch.optim.Optimizer] | None = None,
    device: str | torch.device = "cpu",
    validate: Callable[[nn.Module], float] | Iterable[Any] | None = None,
    patience: int | None = None,
    checkpoint: str | Path | None = None,
    resume: bool = True,
    seed: int = 0,
    amp: bool | None = None,
    schedule: str | Callable[[float], float] = "constant",
    on_step: Callable[[], object] | None = None,
    *,
    temperature: float = 4.0,
    alpha: float = 0.9,
    beta: float = 1.0,
) -> Report:
    """Train ``student`` in place and return how it went; it ends with its best weights.

    With the same arguments on the CPU the weights are the same to the bit, also when the training
    was interrupted after an epoch and resumed.

    Args:
        student: any module; what ``leptonc.compress`` returned keeps its ledger.
        data: batches ``(input, label)``, iterated anew each epoch; a DataLoader that shuffles does
            so by ``seed``. With a teacher a batch may be the input alone.
        teacher: whose results the student learns, by ``temperature``; trained by nothing here.
        loss: of result and label; by default cross entropy for class numbers, else squared error.
        hidden: pairs of module paths ``(student's, teacher's)`` whose values shall be alike.
        epochs: how often the data are seen.
        lr: step size of AdamW, at the start.
        optimizer: makes another optimizer of the parameters; its own step sizes hold then.
        device: where to train; the student returns to where it was.
        validate: after each epoch, a function of the student, higher is better, or data: the part
            of classes that are right, or less the squared error.
        patience: epochs without a better metric after which training stops.
        checkpoint: file that is written after each epoch (safetensors).
        resume: whether to go on from ``checkpoint`` if it is there.
        seed: of everything drawn.
        amp: whether products are computed in bfloat16; None: on a CUDA device that can.
        schedule: step size over time, as a part of ``lr``: ``"constant"``, ``"cosine"``,
            ``"linear"``, or a function of the part of the training that is done.
        on_step: called after each step of the optimizer, e.g. ``PruneSchedule(...).step``.
        temperature: see :class:`Aim`.
        alpha: see :class:`Aim`.
        beta: see :class:`Aim`.

    Raises:
        CompressError: nothing to train, data that are empty or lack labels, options that do not go
            together, a loss that is not finite, a checkpoint of another model.
    """
    aim = Aim(loss, temperature, alpha, tuple(hidden), beta)
    trained = [p for p in student.parameters() if p.requires_grad]
    where = torch.device(device)
    _check(aim, trained, teacher, epochs, patience, validate, amp, where)
    home = next(iter(trained)).device
    student.to(where)
    teacher_home = where
    if teacher is not None and teacher is not student:
        teacher_home = next((t.device for t in teacher.state_dict().values()), where)
        teacher.to(where)
    made = (optimizer or partial(torch.optim.AdamW, lr=lr))(trained)
    run = _Run(student, made, on_step)
    try:
        return _trained(
            run, _Step(student, teacher, aim, where, _amp(amp, where)), data, epochs,
            _factor(schedule), validate, patience, None if checkpoint is None else Path(checkpoint),
            resume, seed,
        )  # fmt: skip
    finally:
        student.eval().to(home)
        if teacher is not None and teacher is not student:
            teacher.to(teacher_home)


def _check(aim, trained, teacher, epochs, patience, validate, amp, device) -> None:
    rules = (
        (trained, "the student has no parameter that requires a gradient"),
        (epochs >= 1, f"epochs={epochs}: must be 1 or more"),
        (aim.temperature > 0, f"temperature={aim.temperature}: must be above 0"),
        (0 <= aim.alpha <= 1, f"alpha={aim.alpha}: must be between 0 and 1"),
        (teacher is not None or not aim.hidden, "hidden values need a teacher"),
        (patience is None or (validate is not None and patience >= 1),
         "patience, 1 or more epochs, needs validate="),
        (not (amp and not _has_bf16(device)), f"amp: {device} has no bfloat16"),
    )  # fmt: skip
    for good, text in rules:
        if not good:
            raise CompressError(f"finetune: {text}")


def _has_bf16(device: torch.device) -> bool:
    return device.type == "cpu" or (device.type == "cuda" and torch.cuda.is_bf16_supported())


def _amp(asked: bool | None, device: torch.device) -> bool:
    return (device.type == "cuda" and _has_bf16(device)) if asked is None else asked


def _factor(schedule: str | Callable[[float], float]) -> Callable[[float], float]:
    if callable(schedule):
        return schedule
    if schedule not in SCHEDULES:
        raise CompressError(f"finetune: schedule={schedule!r}: must be one of "
                            f"{', '.join(SCHEDULES)} or a function")  # fmt: skip
    return SCHEDULES[schedule]


class _Step:
    """What one batch gives: the loss of the student."""

    def __init__(
        self, student: nn.Module, teacher: nn.Module | None, aim: Aim, device: torch.device,
        amp: bool,
    ) -> None:  # fmt: skip
        self.student, self.teacher, self.aim = student, teacher, aim
        self.device, self.amp = device, amp
        self.mine = Taps(student, [a for a, _ in aim.hidden], "student")
        self.theirs = None
        if teacher is not None:
            self.theirs = Taps(teacher, [b for _, b in aim.hidden], "teacher")

    def __call__(self, batch: Any) -> Tensor:
        """Return the loss of a batch."""
        batch = moved(batch, self.device)
        args, kwargs, label = split_batch(batch, self.teacher is None)
        cast = torch.autocast(self.device.type, torch.bfloat16, enabled=self.amp)
        with factories(self.device), cast, self.mine.open():
            output = self.student(*args, **kwargs)
            parts = [] if label is None else [(self.aim.loss or label_loss)(output, label)]
            if self.teacher is None or self.theirs is None:
                return parts[0]
            with torch.no_grad(), self.theirs.open():
                wanted = self.teacher.eval()(*args, **kwargs)
            soft = soft_loss(output, wanted, self.aim.temperature)
            share = self.aim.alpha if parts else 1.0
            total = share * soft + sum((1 - share) * p for p in parts)
            if self.aim.hidden:
                total = total + self.aim.beta * hidden_loss(self.mine, self.theirs, self.aim.hidden)
            return total


def factories(device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """Return what makes new tensors come to be on ``device``; on the CPU they do anyway."""
    return contextlib.nullcontext() if device.type == "cpu" else device


def moved(tree: Any, device: torch.device) -> Any:
    """Return a batch with its tensors on ``device``."""
    if isinstance(tree, Tensor):
        return tree.to(device)
    if isinstance(tree, Mapping):
        return {k: moved(v, device) for k, v in tree.items()}
    return type(tree)(moved(v, device) for v in tree) if isinstance(tree, (tuple, list)) else tree


def _trained(
    run: _Run, step: _Step, data: Iterable[Any], epochs: int, factor: Callable[[float], float],
    validate: Any, patience: int | None, path: Path | None, resume: bool, seed: int,
) -> Report:  # fmt: skip
    key = repr([(n, list(t.shape), str(t.dtype)) for n, t in run.student.state_dict().items()])
    base = [group["lr"] for group in run.optimizer.param_groups]
    resumed = 0
    if path is not None and resume and path.exists():
        tree = checkpoints.load(path)
        if tree.get("key") != key:
            raise CompressError(f"checkpoint {path} is of another model; pass another path, or "
                                "resume=False to write it anew")  # fmt: skip
        run.resume(tree)
        resumed = len(run.losses)
    devices = [step.device] if step.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), Progress("fine-tuning") as progress:
        while len(run.losses) < epochs and not _tired(run, patience):
            start, epoch = time.perf_counter(), len(run.losses)
            torch.manual_seed(seed * 1_000_003 + epoch)
            loss = _epoch(run, step, data, epochs, factor, base, progress)
            metric = None if validate is None else _metric(run.student, validate, step)
            run.note(loss, metric)
            run.seconds += time.perf_counter() - start
            if path is not None:
                checkpoints.save(path, run.tree(key))
    checkpoints.restore(run.student.state_dict(), run.weights)
    return Report(tuple(run.losses), tuple(run.metrics), run.best, run.seconds,
                  len(run.losses) < epochs, resumed)  # fmt: skip


def _tired(run: _Run, patience: int | None) -> bool:
    last = len(run.losses) - 1
    return patience is not None and run.best_settled and last - run.best >= patience


def _epoch(
    run: _Run, step: _Step, data: Iterable[Any], epochs: int, factor: Callable[[float], float],
    base: Sequence[float], progress: Progress,
) -> float:  # fmt: skip
    """Train on all of ``data`` once and return the mean loss."""
    epoch, total, count = len(run.losses), 0.0, 0
    batches = len(data) if hasattr(data, "__len__") else 0  # type: ignore[arg-type]
    run.student.train()
    for i, batch in enumerate(data):
        done = (epoch + (i / batches if batches else 0.0)) / epochs
        for group, lr in zip(run.optimizer.param_groups, base, strict=True):
            group["lr"] = lr * factor(done)
        run.optimizer.zero_grad()
        loss = step(batch)
        loss.backward()
        run.optimizer.step()
        if run.on_step is not None:
            run.on_step()
        value = float(loss.detach())
        if not math.isfinite(value):
            raise CompressError(f"finetune: the loss is {value} at step {i} of epoch {epoch}; "
                                "take a smaller lr, or look for NaN in the data")  # fmt: skip
        total, count = total + value, count + 1
        progress(f"epoch {epoch + 1}/{epochs}, step {i + 1}, loss {total / count:.4f}")
    run.student.eval()
    if not count:
        raise CompressError("finetune: the data are empty" + (
            f" in epoch {epoch}: pass a list or a DataLoader, which can be read again"
            if epoch else ""))  # fmt: skip
    return total / count


def _metric(student: nn.Module, validate: Any, step: _Step) -> float:
    with torch.no_grad(), factories(step.device):
        if callable(validate):
            return float(cast(Any, validate(student)))
        return score(student, validate, step.device)


def score(module: nn.Module, data: Iterable[Any], device: torch.device | str = "cpu") -> float:
    """Return the part of classes that are right (labels of whole numbers), or less the mean
    squared error.

    Raises:
        CompressError: no data, or batches without labels.
    """  # noqa: D205
    total, count, home = 0.0, 0, torch.device(device)
    with torch.no_grad():
        for batch in data:
            args, kwargs, label = split_batch(moved(batch, home), True)
            found = logits_of(module(*args, **kwargs))
            real = label.is_floating_point()
            total += -(found - label).square().sum() if real else (found.argmax(1) == label).sum()
            count += label.numel()
    if not count:
        raise CompressError("finetune: the validation data are empty")
    return float(total) / count
