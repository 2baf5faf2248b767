"""Artifacts: what goes in comes out, by slices too; damage and interruptions are seen."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor

from leptonc import meaning
from leptonc.errors import ArtifactError, LeptoncError
from leptonc.ir.constants import Const, ConstantStore
from leptonc.ir.types import DType, TensorType
from leptonc.runtime import artifact, manifest, tensorfile
from leptonc.runtime.artifact import open_artifact, write_artifact
from leptonc.runtime.manifest import MANIFEST

DTYPES = [d for d in DType if d is not DType.OTHER]
TEXTS = {"program.lir": "func @f() {\n  return\n}\n", "head.json": '{"é": [1, null]}'}


def random_tensor(seed: int, dtype: DType, shape: tuple[int, ...]) -> Tensor:
    """Return any bit patterns at all, NaN with payloads included."""
    count = dtype.nbytes
    for n in shape:
        count *= n
    raw = torch.randint(0, 256, (count,), generator=torch.Generator().manual_seed(seed)).byte()
    if dtype is DType.BOOL:
        return (raw > 127).reshape(shape)
    want = meaning.TORCH_DTYPES[dtype]
    if want.is_complex:
        return torch.view_as_complex(raw.view(want.to_real()).reshape(*shape, 2))
    return raw.view(want).reshape(shape)


def store_of(*tensors: Tensor) -> ConstantStore:
    store = ConstantStore()
    for t in tensors:
        store.add(meaning.const_of(t))
    return store


def same_bits(a: Tensor, b: Tensor) -> bool:
    same = a.dtype is b.dtype and a.shape == b.shape
    return same and meaning.bytes_of(a).tobytes() == meaning.bytes_of(b).tobytes()


def write(path: Path, *tensors: Tensor, **about: Any) -> list[str]:
    store = store_of(*tensors)
    write_artifact(path, {"kind": "test", **about}, TEXTS, store)
    return list(store)


tensors = st.builds(
    random_tensor,
    st.integers(0, 999),
    st.sampled_from(DTYPES),
    st.lists(st.integers(0, 7), max_size=4).map(tuple),
)


@given(st.lists(tensors, max_size=6), st.integers(1, 300))
def test_what_goes_in_comes_out(given_: list[Tensor], shard_bytes: int) -> None:
    store = store_of(*given_)
    with tempfile.TemporaryDirectory() as home:
        path = Path(home) / "a"
        about = {"numbers": [1, 2.5, None], "name": "é"}
        write_artifact(path, {"kind": "test", **about}, TEXTS, store, shard_bytes=shard_bytes)
        found = open_artifact(path)
        assert (found.manifest.kind, found.manifest.about) == ("test", about)
        assert found.text("program.lir") == TEXTS["program.lir"]
        assert found.json("head.json") == {"é": [1, None]}
        back = found.constants()
        assert set(back) == set(store)
        for digest, const in store.items():
            assert back[digest].type == const.type
            assert back[digest[:16]] is back[digest]
            assert same_bits(meaning.tensor_of(back[digest]), meaning.tensor_of(const))
        found.let_go()
        for digest, const in store.items():
            assert same_bits(meaning.tensor_of(back[digest]), meaning.tensor_of(const))
            assert meaning.const_of(meaning.tensor_of(back[digest])).digest == digest


def _cut(n: int) -> st.SearchStrategy[slice]:
    """Return slices of an axis of ``n``: most of them of something, some from its end, or none."""
    proper = st.integers(0, n - 1).flatmap(
        lambda a: st.integers(a + 1, n).flatmap(lambda b: st.just(slice(a, b)))
    )
    edge = st.none() | st.integers(-n - 1, n + 1)
    return st.one_of(proper, proper, st.just(slice(None)), st.builds(slice, edge, edge))


@st.composite
def sliced(draw: Any) -> tuple[Tensor, tuple[slice, ...]]:
    shape = tuple(draw(st.lists(st.integers(1, 7), max_size=4)))
    t = random_tensor(draw(st.integers(0, 999)), draw(st.sampled_from(DTYPES)), shape)
    index = [draw(_cut(n)) for n in shape]
    return t, tuple(index[: draw(st.integers(0, len(index)))])


@given(sliced(), st.sampled_from([1, 64, 1 << 20]))
def test_a_slice_is_that_of_the_whole(case: tuple[Tensor, tuple[slice, ...]], small: int) -> None:
    t, index = case
    with tempfile.TemporaryDirectory() as home, pytest.MonkeyPatch.context() as patch:
        for name in ("_RUN", "_GAP", "_BUFFER"):  # long and short runs, many and few a read
            patch.setattr(artifact.weights, name, small)
        (digest,) = write(Path(home) / "a", t)
        part = open_artifact(Path(home) / "a").slice(digest, index)
        assert same_bits(part, t[index].clone())


def test_slices_that_are_none_are_refused(tmp_path: Path) -> None:
    (digest,) = write(tmp_path / "a", torch.ones(4, 4))
    found = open_artifact(tmp_path / "a")
    with pytest.raises(ArtifactError, match="step"):
        found.slice(digest, (slice(0, 4, 2),))
    with pytest.raises(ArtifactError, match="3 slices"):
        found.slice(digest, (slice(None),) * 3)
    with pytest.raises(ArtifactError, match="no constant"):
        found.slice("0" * 64, ())


def read_by_us() -> int:
    """Return how many bytes this process has read from files."""
    return int(dict(r.split(": ") for r in Path("/proc/self/io").read_text().splitlines())["rchar"])


@pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="Linux only")
@pytest.mark.parametrize(
    "index", [(slice(100, 200),), (slice(None), slice(512, 1024)), (slice(7, 9), slice(0, 5))]
)
def test_a_slice_reads_no_more_than_it_needs(tmp_path: Path, index: tuple[slice, ...]) -> None:
    t = torch.arange(2048 * 2048, dtype=torch.float32).reshape(2048, 2048)
    (digest,) = write(tmp_path / "a", t)
    found = open_artifact(tmp_path / "a")
    before = read_by_us()
    part = found.slice(digest, index)
    assert read_by_us() - before <= part.numel() * 4 + 4096
    assert torch.equal(part, t[index])


MEMORY = """
import sys
from leptonc.runtime.artifact import open_artifact
def peak():
    rows = open("/proc/self/status").read().splitlines()
    return int(next(r for r in rows if r.startswith("VmHWM")).split()[1]) << 10
found = open_artifact(sys.argv[1], verify=sys.argv[2])
(digest, *_) = found.constants()
before = peak()
part = found.slice(digest, (slice(None), slice(64, 128)))
print(peak() - before, part.numel() * 4, float(part[3, 2]))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux only")
@pytest.mark.parametrize("verify", ["full", "off"])
def test_reading_a_slice_takes_memory_for_the_slice(tmp_path: Path, verify: str) -> None:
    t = torch.arange(1 << 24, dtype=torch.float32).reshape(-1, 512)  # 64 MiB
    write(tmp_path / "a", t)
    command = [sys.executable, "-c", MEMORY, str(tmp_path / "a"), verify]
    taken, part, value = subprocess.check_output(command, text=True).split()
    assert int(part) == 8 << 20 and float(value) == float(t[3, 66])
    assert int(taken) <= 1.2 * int(part) + (2 << 20)


def test_constants_are_mapped_and_not_read(tmp_path: Path) -> None:
    (digest,) = write(tmp_path / "a", torch.ones(1 << 20))
    found = open_artifact(tmp_path / "a", verify="off")
    before = read_by_us()
    held = meaning.tensor_of(found.constants()[digest])
    assert read_by_us() - before < 4096 and float(held.sum()) == 1 << 20
    held[0] = 5.0  # private memory: the file stays as it is
    assert same_bits(meaning.tensor_of(open_artifact(tmp_path / "a").constants()[digest]),
                     torch.ones(1 << 20))  # fmt: skip


def test_the_weights_are_plain_safetensors(tmp_path: Path) -> None:
    t = torch.randn(3, 5).bfloat16()
    (digest,) = write(tmp_path / "a", t)
    assert torch.equal(load_file(tmp_path / "a" / "weights.safetensors")[digest], t)


def test_large_weights_come_in_numbered_files(tmp_path: Path) -> None:
    store = store_of(*(torch.full((10,), float(i)) for i in range(5)))
    write_artifact(tmp_path / "a", {"kind": "t"}, {}, store, shard_bytes=80)
    names = sorted(p.name for p in (tmp_path / "a").glob("*.safetensors"))
    assert names == [f"weights-{i:05}-of-00003.safetensors" for i in (1, 2, 3)]
    assert len(open_artifact(tmp_path / "a").constants()) == 5


def test_other_dtypes_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    const = Const(TensorType(DType.OTHER, (1,)), torch.zeros(1, dtype=torch.uint16), lambda _: "0")
    with pytest.raises(ArtifactError, match="cannot be stored; convert"):
        write_artifact(tmp_path / "a", {"kind": "t"}, {}, {"0" * 64: const})
    assert not list(tmp_path.iterdir())


# ----- damage -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sound") / "a"
    write(path, torch.randn(40, 7), torch.arange(9), torch.randn(3).to(torch.complex64), n=[1])
    return path


FILES = (MANIFEST, "constants.json", "head.json", "program.lir", "weights.safetensors")


def used(path: Path) -> Any:
    """Open an artifact and read all of it."""
    found = open_artifact(path)
    for name in TEXTS:
        found.text(name)
    return found.json("head.json"), [*map(meaning.tensor_of, found.constants().values())]


@settings(max_examples=150)
@given(st.sampled_from(FILES), st.floats(0, 1), st.integers(1, 255))
def test_a_changed_byte_is_seen(sound: Path, name: str, where: float, flip: int) -> None:
    with tempfile.TemporaryDirectory() as home:
        path = Path(home) / "a"
        shutil.copytree(sound, path)
        raw = bytearray((path / name).read_bytes())
        raw[min(int(where * len(raw)), len(raw) - 1)] ^= flip
        (path / name).write_bytes(raw)
        with pytest.raises(ArtifactError, match=name if name != MANIFEST else "."):
            used(path)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("keep", [0, 0.5, -1])
def test_a_truncated_file_is_seen(sound: Path, tmp_path: Path, name: str, keep: float) -> None:
    shutil.copytree(sound, tmp_path / "a")
    raw = (tmp_path / "a" / name).read_bytes()
    (tmp_path / "a" / name).write_bytes(raw[: -1 if keep < 0 else int(keep * len(raw))])
    with pytest.raises(ArtifactError, match=f"{name}.*(truncated|not what was written)"):
        used(tmp_path / "a")


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named(sound: Path, tmp_path: Path, name: str) -> None:
    shutil.copytree(sound, tmp_path / "a")
    (tmp_path / "a" / name).unlink()
    with pytest.raises(ArtifactError, match=name):
        used(tmp_path / "a")


@pytest.mark.parametrize("name", FILES)
def test_a_longer_file_is_seen(sound: Path, tmp_path: Path, name: str) -> None:
    shutil.copytree(sound, tmp_path / "a")
    with open(tmp_path / "a" / name, "ab") as file:
        file.write(b"\n")
    with pytest.raises(ArtifactError, match=name):
        used(tmp_path / "a")


def test_strange_files_are_not_looked_at(sound: Path, tmp_path: Path) -> None:
    shutil.copytree(sound, tmp_path / "a")
    (tmp_path / "a" / "README.md").write_text("mine")
    (tmp_path / "a" / "weights-00002-of-00002.safetensors").write_bytes(b"x" * 100)
    assert len(used(tmp_path / "a")[1]) == 3


def test_what_verify_looks_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensorfile, "FULL_DIGEST_BYTES", 8192)
    write(tmp_path / "a", torch.ones(1 << 22))
    file = tmp_path / "a" / "weights.safetensors"
    raw = bytearray(file.read_bytes())
    raw[len(raw) // 2 + 40_000] ^= 1  # between two sampled blocks
    file.write_bytes(raw)
    with pytest.raises(ArtifactError, match=r"weights.*hash"):
        open_artifact(tmp_path / "a")
    open_artifact(tmp_path / "a", verify="sampled")
    file.write_bytes(bytes(raw[:-4]) + b"\0\0\0\0")  # the end is always among the samples
    with pytest.raises(ArtifactError, match="hash"):
        open_artifact(tmp_path / "a", verify="sampled")
    open_artifact(tmp_path / "a", verify="off")
    with pytest.raises(ArtifactError, match="expected one of full, sampled, off"):
        open_artifact(tmp_path / "a", verify="maybe")
    monkeypatch.setattr(manifest, "FULL_BELOW", 1000)
    file.write_bytes(raw)
    open_artifact(tmp_path / "a")


# ----- strangers ----------------------------------------------------------------------------------


def rewritten(path: Path, change: Any) -> None:
    """Change a manifest and make its hash right again, as somebody with bad intentions would."""
    data = json.loads((path / MANIFEST).read_text())
    change(data)
    data.pop("digest")
    data["digest"] = hashlib.sha256(manifest._text(data).encode()).hexdigest()
    (path / MANIFEST).write_text(manifest._text(data))


NAMES = ["../secret", "/etc/passwd", "a/b", "..", ".", "", ".hidden", "a\0b", "a\nb", MANIFEST]


@pytest.mark.parametrize("name", NAMES)
def test_paths_that_lead_out_are_refused(sound: Path, tmp_path: Path, name: str) -> None:
    shutil.copytree(sound, tmp_path / "a")
    (tmp_path / "secret").write_text(TEXTS["program.lir"])
    rewritten(tmp_path / "a", lambda d: d["files"].update({name: d["files"]["program.lir"]}))
    with pytest.raises(ArtifactError, match="file name"):
        open_artifact(tmp_path / "a")
    with pytest.raises(ArtifactError, match="no file"):
        open_artifact(sound).text(name)
    with pytest.raises(ArtifactError, match="file name"):
        write_artifact(tmp_path / "b", {"kind": "t"}, {name: ""}, {})


def test_links_out_of_the_directory_are_refused(sound: Path, tmp_path: Path) -> None:
    shutil.copytree(sound, tmp_path / "a")
    outside = tmp_path / "outside.lir"
    (tmp_path / "a" / "program.lir").rename(outside)
    (tmp_path / "a" / "program.lir").symlink_to(outside)
    with pytest.raises(ArtifactError, match="expected a plain file"):
        open_artifact(tmp_path / "a")


def test_a_pipe_is_not_waited_for(sound: Path, tmp_path: Path) -> None:
    shutil.copytree(sound, tmp_path / "a")
    (tmp_path / "a" / "program.lir").unlink()
    os.mkfifo(tmp_path / "a" / "program.lir")
    with pytest.raises(ArtifactError, match="expected a plain file"):
        open_artifact(tmp_path / "a")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda d: d.update(format=2), "format 2, expected 1.*save it again"),
        (lambda d: d.update(byteorder="big"), "machine"),
        (lambda d: d.update(files=[]), "not what was written"),
        (lambda d: d["files"]["head.json"].update(bytes=-1), "not what was written"),
        (lambda d: d["files"]["head.json"].update(sha256="z"), "not what was written"),
        (lambda d: d["files"].pop("constants.json"), "names no constants"),
        (lambda d: d.update(kind=7), "not what was written"),
        (lambda d: d.update(more=1), "not what was written"),
    ],
)
def test_other_manifests_are_refused(sound: Path, tmp_path: Path, change: Any, words: str) -> None:
    shutil.copytree(sound, tmp_path / "a")
    rewritten(tmp_path / "a", change)
    with pytest.raises(ArtifactError, match=words):
        open_artifact(tmp_path / "a")


@pytest.mark.parametrize("text", ["", "[]", "nul", "[" * 100_000, "{}", "\xff", '{"format": 1}'])
def test_what_is_no_manifest_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / MANIFEST).write_text(text, encoding="latin1")
    with pytest.raises(ArtifactError, match=r"manifest\.json"):
        open_artifact(tmp_path)


def forged(path: Path, name: str, raw: bytes) -> None:
    """Replace a file and what the manifest says of it."""
    (path / name).write_bytes(raw)
    row = {"bytes": len(raw), "sha256": hashlib.sha256(raw).hexdigest(),
           "sampled": tensorfile.sampled_digest(path / name)}  # fmt: skip
    rewritten(path, lambda d: d["files"].update({name: row}))


@pytest.mark.parametrize(
    "types",
    [b"{}", b"[]", b"[[", b'{"a": "f32[3]"}', b'{"%s": "f32[s0]"}' % (b"0" * 64),
     b'{"%s": 3}' % (b"0" * 64), b'{"%s": "f32[%s]"}' % (b"0" * 64, b"(" * 100_000)],
)  # fmt: skip
def test_forged_tables_of_constants_are_refused(sound: Path, tmp_path: Path, types: bytes) -> None:
    shutil.copytree(sound, tmp_path / "a")
    forged(tmp_path / "a", "constants.json", types)
    with pytest.raises(LeptoncError):
        used(tmp_path / "a")


HEADERS = [
    {"data_offsets": [0, 1 << 40]}, {"data_offsets": [-8, 8]}, {"data_offsets": [0]},
    {"shape": [1 << 62]}, {"shape": [-1]}, {"shape": "x"}, {"dtype": "F8"}, {"dtype": "I32"},
    {"shape": [True]}, {"data_offsets": None},
]  # fmt: skip


@pytest.mark.parametrize("change", HEADERS, ids=str)
def test_forged_headers_are_refused(sound: Path, tmp_path: Path, change: Any) -> None:
    shutil.copytree(sound, tmp_path / "a")
    raw = (tmp_path / "a" / "weights.safetensors").read_bytes()
    length = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + length])
    next(iter(header.values())).update(change)
    text = json.dumps(header).encode()
    forged(tmp_path / "a", "weights.safetensors",
           len(text).to_bytes(8, "little") + text + raw[8 + length :])  # fmt: skip
    with pytest.raises(ArtifactError, match="weights"):
        used(tmp_path / "a")


# ----- writing ------------------------------------------------------------------------------------


def test_an_artifact_is_replaced_whole(tmp_path: Path) -> None:
    write(tmp_path / "a", torch.ones(3))
    held = open_artifact(tmp_path / "a").constants()
    write(tmp_path / "a", torch.zeros(4))
    assert [tuple(c.type.shape) for c in open_artifact(tmp_path / "a").constants().values()] == [
        (4,)
    ]
    assert [float(meaning.tensor_of(c).sum()) for c in held.values()] == [3.0]  # still mapped
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_an_empty_directory_and_missing_parents_are_fine(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    write(tmp_path / "a", torch.ones(3))
    write(tmp_path / "b" / "c" / "d", torch.ones(3))
    assert used(tmp_path / "a")[0] == used(tmp_path / "b" / "c" / "d")[0]


def test_what_is_no_artifact_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "one.jpg").write_text("x")
    (tmp_path / "file").write_text("x")
    write(tmp_path / "a", torch.ones(3))
    (tmp_path / "a" / "notes.txt").write_text("mine")
    for name, words in (("photos", "no artifact"), ("file", "a file"), ("a", "notes.txt")):
        with pytest.raises(ArtifactError, match=words):
            write(tmp_path / name, torch.ones(3))
    assert (tmp_path / "photos" / "one.jpg").exists() and (tmp_path / "a" / "notes.txt").exists()


@pytest.mark.parametrize("stage", ["_write_text", "_write_constants", "_put"])
@pytest.mark.parametrize("cause", [KeyboardInterrupt, OSError("disk full")])
def test_an_interrupted_write_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str, cause: Any
) -> None:
    write(tmp_path / "a", torch.ones(3))
    before = {p.name: p.read_bytes() for p in (tmp_path / "a").iterdir()}

    def fail(*_: Any) -> None:
        raise cause

    monkeypatch.setattr(artifact, stage, fail)
    for name in ("a", "new"):
        with pytest.raises((KeyboardInterrupt, ArtifactError)):
            write(tmp_path / name, torch.zeros(4))
    assert {p.name: p.read_bytes() for p in (tmp_path / "a").iterdir()} == before
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_a_failed_rename_brings_the_old_one_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "a", torch.ones(3))
    rename = Path.rename

    def refuse(self: Path, target: Any) -> Path:
        if self.name == "artifact":
            raise OSError("no")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(ArtifactError, match="cannot be written"):
        write(tmp_path / "a", torch.zeros(4))
    monkeypatch.undo()
    assert len(used(tmp_path / "a")[1][0]) == 3 and [p.name for p in tmp_path.iterdir()] == ["a"]


def test_where_nothing_can_be_written_it_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(ArtifactError, match="cannot be written"):
        write(tmp_path / "file" / "a", torch.ones(3))
    with pytest.raises(ArtifactError, match="no such directory"):
        open_artifact(tmp_path / "nowhere")
    with pytest.raises(ArtifactError, match="no saved artifact"):
        open_artifact(tmp_path)
    with pytest.raises(ArtifactError, match="JSON"):
        write_artifact(tmp_path / "b", {"kind": "t", "x": float("nan")}, {}, {})
