"""The built wheel: it holds the passes and backends, adds one name, and compiles a model alone."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LEAVE = shutil.ignore_patterns(".*", "build", "dist", "*.egg-info", "__pycache__")
PROGRAM = """
import sys, torch, leptonc
model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.ReLU()).eval()
x = torch.randn(2, 8)
with torch.no_grad():
    net = leptonc.compile(model, x, threads=1, cache=False)
    assert torch.allclose(net(x), model(x), atol=1e-5)
print(leptonc.__file__)
"""


def _run(*command: str, **options: object) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, **options)  # type: ignore[call-overload]
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_wheel_compiles_a_model_on_its_own(tmp_path: Path) -> None:
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "-q")
    # A copy, because setuptools leaves a build folder in the tree that would feed the next wheel.
    tree = shutil.copytree(ROOT, tmp_path / "tree", symlinks=True, ignore=LEAVE)
    _run(*pip, "wheel", "--no-deps", "-w", str(tmp_path), str(tree))
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    tops = {n.split("/")[0] for n in names}
    assert {t for t in tops if not t.endswith(".dist-info")} == {"leptonc"}
    assert "leptonc/passes/fuse.py" in names and "leptonc/backends/numba_cpu/emit.py" in names
    site = tmp_path / "site"
    _run(*pip, "install", "--no-deps", "--target", str(site), str(wheel))
    env = {**os.environ, "PYTHONPATH": str(site)}
    out = _run(sys.executable, "-P", "-c", PROGRAM, cwd=tmp_path, env=env)
    assert out.strip().startswith(str(site)), "the installed wheel, not the checkout, must have run"
