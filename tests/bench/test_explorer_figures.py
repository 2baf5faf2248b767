"""Opening and scrolling of a report is measured in the system's Chromium, where there is one."""

from __future__ import annotations

import importlib.util
import shutil

import pytest

from leptonc.bench import explorer
from leptonc.errors import LeptoncError

PRESENT = (shutil.which("chromium") or shutil.which("chromium-browser")) is not None


def test_without_a_browser_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(LeptoncError, match=r"chromium|playwright"), explorer.chromium():
        pass


@pytest.mark.skipif(
    not PRESENT or importlib.util.find_spec("playwright") is None, reason="no chromium, playwright"
)
def test_a_report_is_opened_scrolled_and_pictured(tmp_path) -> None:
    file = explorer.write("mlp", tmp_path)
    with explorer.chromium() as browser:
        row = explorer.measure(browser, "mlp", file, repeats=1)
        made = explorer.pictures(browser, file, tmp_path / "pictures")
    assert row.file_bytes == file.stat().st_size
    assert row.painted_ms > 0 and row.ready_ms > 0
    assert 0 < row.frame_p50_ms <= row.frame_p95_ms <= row.frame_longest_ms
    assert len(made) == 5 and all(p.stat().st_size > 1000 for p in made)
