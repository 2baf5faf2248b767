"""mutation > run: every fault in copies of the checkout, two at a time; then the table.

``python -m mutation.run [--only PATTERN] [--fresh] [--tests own] ...``. An interrupted run
continues: faults that have a row are not judged again, unless they changed.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from mutation.catalogue import FAULTS
from mutation.fault import Fault
from mutation.table import write_table
from mutation.worker import digest

ROOT = Path(__file__).resolve().parents[2]


def main(argv: Sequence[str] | None = None) -> None:
    """Run what is asked for and write ``docs/mutation.{json,md}``."""
    parser = argparse.ArgumentParser(prog="mutation.run")
    parser.add_argument("--only", default="", help="regular expression: name, layer or category")
    parser.add_argument("--fresh", action="store_true", help="judge again what has a row")
    parser.add_argument(
        "--tests", choices=("own", "all", "none"), default="all",
        help="a fault's own tests, broader ones too, or the self-check alone",
    )  # fmt: skip
    parser.add_argument("--turn", type=float, default=150.0, help="seconds of a worker process")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "mutation")
    parser.add_argument("--prefix", default="", help="command that runs the workers' commands")
    parser.add_argument("--kernels", type=Path, default=None, help="cache to start from")
    parser.add_argument("--json", type=Path, default=ROOT / "docs" / "mutation.json")
    args = parser.parse_args(argv)
    rows = _merged(_rows(args.json), _unwritten(args.work))
    wanted = [
        f.name for f in FAULTS
        if re.search(args.only, f"{f.name} {f.layer} {f.category}")
        and (args.fresh or _stale(rows.get(f.name), f, args.tests))
    ]  # fmt: skip
    works = [args.work / str(i) for i in range(max(1, min(args.workers, len(wanted))))]
    if wanted:
        args.json.write_text(json.dumps(list(rows.values()), indent=1) + "\n")
        for work in works:
            _prepare(work, args.kernels)
        prefix, turn = shlex.split(args.prefix), [str(args.turn), args.tests]
        with ThreadPoolExecutor(len(works)) as pool:
            shares = [wanted[i :: len(works)] for i in range(len(works))]
            list(pool.map(lambda w, s: _work(w, s, prefix, turn), works, shares))
    rows = _merged(rows, _unwritten(args.work))
    known = {f.name for f in FAULTS}
    kept = [rows[f.name] for f in FAULTS if f.name in rows and rows[f.name]["name"] in known]
    args.json.write_text(json.dumps(kept, indent=1) + "\n")
    print(write_table(kept, args.json.with_suffix(".md")))


def _rows(path: Path) -> dict[str, dict[str, Any]]:
    return {r["name"]: r for r in json.loads(path.read_text())} if path.exists() else {}


def _unwritten(work: Path) -> dict[str, dict[str, Any]]:
    """Return the rows that workers left, of a run that was interrupted too."""
    found = (json.loads(x) for p in work.glob("*/results.jsonl") for x in _lines(p))
    return {r["name"]: r for r in found}


def _merged(
    old: dict[str, dict[str, Any]], new: dict[str, dict[str, Any]]
) -> dict[str, dict[str, Any]]:
    """Return all rows, the new ones first; what only the self-check judged keeps its tests."""
    rows = dict(old)
    for name, row in new.items():
        if row["tests"] is None:
            before = old.get(name, {"tests": "", "which": "none", "tests_s": 0.0})
            row = row | {k: before[k] for k in ("tests", "which", "tests_s")}
        rows[name] = row
    return rows


def _stale(row: dict[str, Any] | None, fault: Fault, tests: str) -> bool:
    """Return whether a fault must be judged (again)."""
    if row is None or row["digest"] != digest(fault):
        return True
    if row["which"] == "none" != tests:
        return True
    return tests == "all" and row["which"] != "all" and not row["tests"]


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def _prepare(work: Path, kernels: Path | None) -> None:
    """Make a fresh copy of the checkout; keep the worker's caches."""
    tree = work / "tree"
    shutil.rmtree(tree, ignore_errors=True)
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, check=True,
        capture_output=True, text=True,
    ).stdout.splitlines()  # fmt: skip
    for name in listed:
        source, target = ROOT / name, tree / name
        if source.is_symlink() or source.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target, follow_symlinks=False)
    cache = work / "cache"
    if not cache.exists():
        cache.mkdir(parents=True, mode=0o700)
        start = kernels or Path(os.environ.get("LEPTONC_CACHE_DIR", "/nowhere"))
        if (start / "kernels").is_dir():
            shutil.copytree(start / "kernels", cache / "kernels")
    (work / "results.jsonl").unlink(missing_ok=True)


def _work(work: Path, names: list[str], prefix: list[str], turn: list[str]) -> None:
    """Run workers until every name has a row; one that dies without a row is skipped."""
    env = {**os.environ, "PYTHONPATH": str(ROOT / "tests")}
    left = list(names)
    while left:
        command = [*prefix, sys.executable, "-m", "mutation.worker", str(work), *turn, *left]
        subprocess.run(command, cwd=ROOT, env=env, check=False)
        done = {json.loads(line)["name"] for line in _lines(work / "results.jsonl")}
        rest = [n for n in left if n not in done]
        if len(rest) == len(left):
            print(f"{left[0]}: the worker died", file=sys.stderr)
            rest = left[1:]
            _prepare_again(work)
        left = rest
        print(f"{work.name}: {len(done)} judged, {len(left)} left", flush=True)


def _prepare_again(work: Path) -> None:
    """Restore the tree of a worker that died in the midst of a fault; keep its rows."""
    rows = _lines(work / "results.jsonl")
    _prepare(work, None)
    (work / "results.jsonl").write_text("".join(f"{r}\n" for r in rows))


if __name__ == "__main__":
    main()
