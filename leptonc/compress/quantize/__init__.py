"""Quantization: weights and activations as integers of 8, 4 or 16 bits.

:mod:`recipe` is what users write; :mod:`units` finds what can be quantized, :mod:`ranges` looks at
activations on calibration data, :mod:`weights` and :mod:`gptq` round weights, :mod:`edits` puts the
conversions into a Function, :mod:`pools` those of means, :mod:`freezing` turns trained fake
quantizations into codes.
"""

from leptonc.compress.quantize.freezing import FreezeQuant, freeze
from leptonc.compress.quantize.recipe import Quantize

__all__ = ["FreezeQuant", "Quantize", "freeze"]
