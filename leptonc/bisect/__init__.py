"""Bisect: from a wrong result to the pass, the rule or the unit that made it, and a test of it."""

from leptonc.bisect.case import Case
from leptonc.bisect.search import bisect
from leptonc.bisect.subject import Replay, Subject, subject
from leptonc.bisect.verdict import Verdict

__all__ = ["Case", "Replay", "Subject", "Verdict", "bisect", "subject"]
