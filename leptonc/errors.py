"""Every error class of leptonc: one a layer, all under ``LeptoncError``."""

from __future__ import annotations


class LeptoncError(Exception):
    """Anything leptonc refuses; the text names the op, what was expected and got, what to do."""


class CaptureError(LeptoncError):
    """A model that cannot be turned into IR; names the user's source line."""


class InferError(LeptoncError, ValueError):
    """Operand types or attributes that a kind rejects."""


class VerifyError(LeptoncError):
    """A Function that breaks an IR invariant; the text names the op."""


class ParseError(LeptoncError, ValueError):
    """Text that is not IR; the message gives the line number."""


class PipelineError(LeptoncError):
    """A pipeline that cannot run: unknown pass or option, or an order that cannot hold."""


class PassError(LeptoncError):
    """A pass that raised: names the pass, the rule and the op where they are known, the cause."""


class ClaimError(LeptoncError):
    """A backend that was asked to run an op it has not claimed."""


class ArtifactError(LeptoncError):
    """A cached or saved artifact that cannot be used."""


class TargetError(LeptoncError):
    """An unknown or absent compile target."""


class PlanError(LeptoncError, ValueError):
    """A sharding plan that cannot be: a hint, a size, a limit of memory."""


class PartError(LeptoncError):
    """A model that cannot be split as asked, or a part, worker or pool member that failed."""


class InputError(LeptoncError, ValueError):
    """Arguments of a call that do not fit the compiled model."""


class CheckError(LeptoncError):
    """A compiled result that is not the reference's within the tolerance."""


class WorkerError(LeptoncError):
    """A rank of a worker group that failed: names the rank, what happened to it, what to do."""
