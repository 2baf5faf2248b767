"""Capture: a PyTorch model -> a Function, by way of torch.export's high-level ATen graph."""

from torch.export import Dim

from leptonc.capture.captured import Captured, CaptureRemark, InputSpec, OutputSpec
from leptonc.capture.frontend import capture

__all__ = ["CaptureRemark", "Captured", "Dim", "InputSpec", "OutputSpec", "capture"]
