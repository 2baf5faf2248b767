"""The sweep over torch's operator database, safe against crashes: chunks in subprocesses.

    python -m tests.conformance.run --samples 1 --json out.jsonl     one sample an entry
    python -m tests.conformance.run --shard 0/4 --json out.jsonl     every sample, a quarter of them

A child process runs a chunk of entries and writes a line before and after each sample, so that the
sample that killed it (or outlasted ``--timeout``) is known; the chunk goes on behind it.
"""

from __future__ import annotations

import argparse
import json
import os
import select
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TextIO

_CHUNK = 2000  # samples before a child is replaced, whatever it may have leaked
_ENDED = "ended"
_ROOT = Path(__file__).parents[2]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the sweep (or, with ``--child``, a part of it). Returns 1 if anything is bad."""
    args = _arguments(argv)
    if args.child:
        _child(args)
        return 0
    names = _entries(args)
    began = time.time()
    if not args.resume:
        args.json.write_text("")
    with args.json.open("a") as out:
        rows = [*_rows(args.json), *_sweep(names, args, out)]
    print(f"{len(rows)} samples of {len(names)} entries in {time.time() - began:.0f} s")
    return summarize(rows)


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    p.add_argument("--shard", default="0/1", help="which of how many equal parts of the entries")
    p.add_argument("--samples", type=int, help="at most so many samples an entry; default all")
    p.add_argument("--match", default="", help="only entries whose name contains this")
    p.add_argument("--timeout", type=float, default=120.0, help="seconds for one sample")
    p.add_argument("--json", type=Path, default=Path("opinfo.jsonl"), help="one line a sample")
    p.add_argument("--verify", default="off", help="as leptonc.compile takes it")
    p.add_argument("--threads", type=int, default=1, help="as leptonc.compile takes it")
    p.add_argument("--pipeline", default="O2", help="as leptonc.compile takes it")
    p.add_argument("--dtype", default="float32", help="of the samples, as torch names it")
    p.add_argument("--special", action="store_true", help="also with NaN, infinities, -0.0 ...")
    p.add_argument("--resume", action="store_true", help="keep what --json holds, run the rest")
    p.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    p.add_argument("--start", type=int, default=0, help=argparse.SUPPRESS)
    p.add_argument("entries", nargs="*", help="only these entries")
    return p.parse_args(argv)


def _entries(args: argparse.Namespace) -> list[str]:
    import torch

    from tests.conformance.opinfo import database

    names = args.entries or [n for n in database(getattr(torch, args.dtype)) if args.match in n]
    part, parts = map(int, args.shard.split("/"))
    return names[part::parts]


def _rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


# ----- the parent -----------------------------------------------------------------------------


def _sweep(names: list[str], args: argparse.Namespace, out: TextIO) -> Iterator[Any]:
    """Yield the outcome of every sample; children that die are replaced behind the culprit."""
    at, start = 0, 0
    while at < len(names):
        begun: dict[str, Any] = {}
        done, why = False, ""
        for line in _lines(names[at:], args, start):
            if line.get("begin"):
                begun, why = line, ""
                at = names.index(line["entry"])
            elif line.get("failed"):
                why = line["failed"]
            elif line.get(_ENDED):
                done, start = True, line["start"]
                at = names.index(line["entry"]) if line["entry"] else len(names)
            else:
                yield _written(line, out)
        if not (done or begun):
            raise SystemExit(f"the child process did not come up ({why})")
        if not done:
            row = {"entry": begun["entry"], "index": begun["index"], "status": "crash", "why": why}
            yield _written(row, out)
            start = begun["index"] + 1


def _written(row: dict[str, Any], out: TextIO) -> dict[str, Any]:
    out.write(json.dumps(row) + "\n")
    out.flush()
    return row


def _lines(names: list[str], args: argparse.Namespace, start: int) -> Iterator[dict[str, Any]]:
    """Yield what a child reports; lastly how it failed, if it did."""
    command = [
        sys.executable,
        "-W",
        "ignore",
        "-m",
        "tests.conformance.run",
        "--child",
        "--start",
        str(start),
    ]
    options = ("verify", "threads", "pipeline", "dtype", *(["samples"] if args.samples else []))
    command += [text for name in options for text in (f"--{name}", str(getattr(args, name)))]
    command += ["--special"] * args.special
    command += ["--json", str(args.json.resolve())]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    child = subprocess.Popen([*command, *names], cwd=_ROOT, stdout=subprocess.PIPE, env=env)
    stream = child.stdout
    assert stream is not None
    buffer = b""
    try:
        while True:
            if not select.select([stream], [], [], args.timeout)[0]:
                yield {"failed": f"no answer within {args.timeout:.0f} s"}
                return
            data = os.read(stream.fileno(), 1 << 16)
            if not data:
                break
            *whole, buffer = (buffer + data).split(b"\n")
            yield from (json.loads(text) for text in whole if text.startswith(b"{"))
    finally:
        child.kill()
        code = child.wait()
    if code:
        yield {"failed": f"the process ended with {code}"}


# ----- the child ------------------------------------------------------------------------------


def _child(args: argparse.Namespace) -> None:
    import torch

    from tests.conformance.opinfo import database, run, samples

    torch.set_num_threads(1)
    out = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what operators print is not ours
    known = {(r["entry"], r["index"]) for r in _rows(args.json)}
    options = {"verify": args.verify, "threads": args.threads, "pipeline": args.pipeline}
    options |= {"special": args.special}
    dtype = getattr(torch, args.dtype)
    ops, done = database(dtype), 0
    for n, name in enumerate(args.entries):
        start = args.start if n == 0 else 0
        print(json.dumps({"begin": True, "entry": name, "index": start}), file=out)
        for index, sample in samples(ops[name], args.samples, start, dtype):
            if (name, index) in known:
                continue
            if done >= _CHUNK:
                print(json.dumps({_ENDED: True, "entry": name, "start": index}), file=out)
                return
            print(json.dumps({"begin": True, "entry": name, "index": index}), file=out)
            print(json.dumps(asdict(run(name, ops[name], index, sample, **options))), file=out)
            done += 1
    print(json.dumps({_ENDED: True, "entry": "", "start": 0}), file=out)


# ----- what it came to ------------------------------------------------------------------------

_ORDER = ("crash", "error", "wrong", "native", "torch", "refused", "skipped")


def summarize(rows: Sequence[dict[str, Any]]) -> int:
    """Print the counts of samples and entries and everything bad. Returns 1 if there is any."""
    by_entry: dict[str, set[str]] = {}
    for r in rows:
        by_entry.setdefault(r["entry"], set()).add(r["status"])
    counts = Counter(r["status"] for r in rows)
    entries = Counter(next(s for s in _ORDER if s in found) for found in by_entry.values())
    some = sum("native" in found for found in by_entry.values())
    print(f"{'':10}{'samples':>9}{'entries':>9}")
    for s in ("native", "torch", "refused", "skipped", "wrong", "error", "crash"):
        print(f"{s:10}{counts[s]:9}{entries[s]:9}")
    print(f"entries with some native sample: {some}")
    bad = [r for r in rows if r["status"] in ("wrong", "error", "crash")]
    for r in bad:
        print(f"{r['status']}: {r['entry']}[{r['index']}] {r['why']}")
    return int(bool(bad))


if __name__ == "__main__":
    sys.exit(main())
