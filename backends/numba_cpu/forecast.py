"""numba_cpu > forecast: the large kernels that a model will need, told by its modules.

Which kernels a network needs is known when it has been captured, rewritten and scheduled, half a
second after its compile begins. What takes longest to compile can be told at once, by a glance at
the types of the modules. A wrong guess costs nothing but a helper's time, and what it has compiled
is there for the next network.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from leptonc.backends.numba_cpu.kernels.amx import AMX
from leptonc.backends.numba_cpu.kernels.attention import attention
from leptonc.backends.numba_cpu.kernels.banded import banded
from leptonc.backends.numba_cpu.kernels.base import Native
from leptonc.backends.numba_cpu.kernels.bf16x3 import bf16x3
from leptonc.backends.numba_cpu.kernels.depthwise import depthwise
from leptonc.backends.numba_cpu.kernels.igemm import igemm
from leptonc.backends.numba_cpu.kernels.lines import lines
from leptonc.backends.numba_cpu.kernels.microkernel import TILES
from leptonc.backends.numba_cpu.kernels.norm import norm_rows
from leptonc.backends.numba_cpu.kernels.pool import pool
from leptonc.backends.numba_cpu.kernels.strassen import strassen
from leptonc.backends.numba_cpu.kernels.winograd import winograd
from leptonc.backends.numba_cpu.kernels.winograd_calls import TRANSFORMS
from leptonc.backends.numba_cpu.kernels.winograd_late import LATE
from leptonc.backends.numba_cpu.kernels.winograd_points import FORMS, Form
from leptonc.backends.numba_cpu.lower.conv_choice import folded_form
from leptonc.backends.numba_cpu.peak import read_all
from leptonc.passes.fusing.policy import FEW_CHANNELS

Sign = Callable[[Any], bool]
_NOT_STRICT = {
    strassen, bf16x3, winograd, read_all, *(t for form in FORMS for t in TRANSFORMS[form].needed),
    *(part for lates in LATE.values() for late in lates for part in late.parts),
}  # fmt: skip


def _is_conv(m: Any) -> bool:
    return isinstance(m, nn.Conv2d)


def _multiplies(m: Any) -> bool:
    return isinstance(m, nn.Linear | nn.Conv2d | nn.Conv1d)


def _is_square(m: Any) -> bool:
    """Return whether it is a 3x3 convolution that Winograd fits; other forms seldom come alone."""
    many = _is_conv(m) and m.groups == 1 and m.in_channels > FEW_CHANNELS
    return many and (m.kernel_size, m.dilation) == ((3, 3), (1, 1)) and max(m.stride) <= 2


def _is_depthwise(m: Any) -> bool:
    return _is_conv(m) and m.groups == m.in_channels > 1


def _reads_few(m: Any) -> bool:
    return _is_conv(m) and m.in_channels <= FEW_CHANNELS


def _attends(m: Any) -> bool:
    return "attention" in type(m).__name__.lower()


def _sign_of(form: Form) -> Sign:
    """Return the sign of a convolution that a form of Winograd fits."""
    stride = (form.stride,) * 2

    def sign(m: Any) -> bool:
        many = _is_conv(m) and m.groups == 1 and m.in_channels > FEW_CHANNELS
        return many and (m.kernel_size, m.stride, m.dilation) == (form.kernel, stride, (1, 1))

    return sign


def _deep(form: Form) -> Sign:
    """Return the sign of a wide convolution that a form fits: its images are small as a rule."""
    fits = _sign_of(form)
    return lambda m: fits(m) and min(m.in_channels, m.out_channels) >= _WIDE


def _is_between_wide(m: Any) -> bool:
    """Return whether it is a norm between the wide linear layers of encoders, or a wide 1x1.

    The linear layers do not tell: those of a CNN's classifier have a single row.
    """
    if _is_conv(m):
        wide = m.groups == 1 and min(m.in_channels, m.out_channels) >= _WIDE
        return wide and m.kernel_size == (1, 1)
    return isinstance(m, nn.LayerNorm) and m.normalized_shape[-1] >= _WIDE


def _has_many_rows(m: Any) -> bool:
    """Return whether tile registers pay for it or its neighbours: wide, and not of a single row."""
    wide = _is_conv(m) and m.groups == 1 and min(m.in_channels, m.out_channels) >= _WIDE // 2
    norm = isinstance(m, nn.LayerNorm) and m.normalized_shape[-1] >= _WIDE
    return norm or (wide and m.kernel_size == (1, 1))


def _folds(form: Form | None = None) -> Sign:
    """Return the sign of a strided convolution of an image that a form fits, by default any."""

    def sign(m: Any) -> bool:
        if not _reads_few(m) or m.groups > 1 or m.dilation != (1, 1):
            return False
        found = folded_form(m.kernel_size, m.stride)
        return found is not None and form in (None, found)

    return sign


_WIDE = 256  # channels
_POOLS = (nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d)

#: What a module looks like that needs a kernel or a part of one that is named in a record; those
#: that take longest to compile come first.
SIGNS: tuple[tuple[Sign, Native], ...] = (
    (lambda m: _is_square(m) or _folds()(m), winograd),
    (_attends, attention),
    (_is_depthwise, depthwise),
    (_multiplies, TILES),
    (_multiplies, igemm),
    (lambda m: isinstance(m, _POOLS), pool),
    (_has_many_rows, bf16x3) if AMX else (_is_between_wide, strassen),
    (_is_depthwise, banded),
    (_reads_few, lines),
    (lambda m: isinstance(m, nn.LayerNorm), norm_rows),
    *((_sign_of(form), t) for form in FORMS for t in TRANSFORMS[form].needed),
    *((_folds(form), t) for form in FORMS for t in TRANSFORMS[form].inside),
    *((_deep(form), part) for form, lates in LATE.items() for late in lates for part in late.parts),
    # What sweeps the caches when ways of a product are timed.
    (lambda m: _is_square(m) or _is_between_wide(m) or (AMX and _has_many_rows(m)), read_all),
)


def forecast(model: Any, precision: str = "fp32") -> tuple[Native, ...]:
    """Return the large kernels that ``model`` will probably need; none if it is no module."""
    if not isinstance(model, nn.Module):
        return ()
    modules = list(model.modules())
    found = [kernel for sign, kernel in SIGNS if any(map(sign, modules))]
    # Where depthwise convolutions are, the first one runs in their bands.
    other = banded in found or (precision != "strict" and any(map(_folds(), modules)))
    unlikely = {*(_NOT_STRICT if precision == "strict" else ()), *((lines,) * other)}
    return tuple(k for k in found if k not in unlikely)
