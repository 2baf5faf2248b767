"""A saved net from somebody with bad intentions: refused, and nothing of it is run or imported."""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import leptonc
from leptonc import meaning
from leptonc.errors import ArtifactError, InputError
from leptonc.ir.constants import ConstantStore
from leptonc.runtime.artifact import open_artifact, write_artifact

from .nets import SMALL, Arguments, made

pytestmark = pytest.mark.numba
TEXTS = ("program0.lir", "captured0.lir", "net0.json", "constants.json")


@pytest.fixture(scope="module")
def nets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("nets")
    for name in ("arguments", "opaque", "dynamic"):
        _kept, net, _ = made(name)
        net.save(home / name)
    return home


def forged(source: Path, target: Path, change: Callable[[dict[str, str]], None]) -> Path:
    """Write ``source`` again with other texts and right hashes."""
    found = open_artifact(source)
    texts = {n: found.text(n) for n in TEXTS[:3]}
    change(texts)
    about = {"kind": found.manifest.kind, **found.manifest.about}
    return write_artifact(target, about, texts, found.constants())


def called(path: Path, **options: Any) -> Any:
    """Load a net and call it, however it wants to be called."""
    net = leptonc.load(path, **options)
    examples = ((SMALL[:, :6],), (torch.ones(8, 64),), (torch.ones(8, 8),))
    for args in examples:
        try:
            net(*args)
        except InputError:
            continue
    return net


# Everything that JSON can hold, and words that mean something somewhere.
junk = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 3), st.just(1 << 70), st.floats(), st.just([]),
    st.just({}), st.text(max_size=3), st.sampled_from(["fp32", "capture", "pass", "os:system"]),
)  # fmt: skip


@st.composite
def one_change(draw: Any, data: Any) -> Any:
    """Return ``data`` with one part of it, at any depth, replaced."""
    data = json.loads(json.dumps(data))
    at, key = data, draw(st.sampled_from(sorted(data)))
    while isinstance(at[key], (dict, list)) and at[key] and draw(st.booleans()):
        at = at[key]
        key = draw(st.sampled_from(sorted(at) if isinstance(at, dict) else range(len(at))))
    at[key] = draw(junk)
    return data


@settings(max_examples=60)
@given(st.data(), st.sampled_from(["arguments", "opaque", "dynamic"]))
def test_any_other_description_is_refused_or_loads(nets: Path, data: Any, name: str) -> None:
    about = json.loads(open_artifact(nets / name).text("net0.json"))
    other = data.draw(one_change(about))
    with tempfile.TemporaryDirectory() as home:
        path = forged(nets / name, Path(home) / "net",
                      lambda texts: texts.update({"net0.json": json.dumps(other)}))  # fmt: skip
        try:
            called(path)
        except ArtifactError:
            return


@settings(max_examples=60)
@given(
    st.sampled_from(["arguments", "opaque", "dynamic"]), st.sampled_from(TEXTS[:2]),
    st.floats(0, 1), st.integers(0, 12), st.text(max_size=4) | st.sampled_from("()[]{},;%\n$'"),
)  # fmt: skip
def test_any_other_program_is_refused_or_loads(
    nets: Path, name: str, file: str, where: float, drop: int, put: str
) -> None:
    def change(texts: dict[str, str]) -> None:
        text = texts[file]
        at = int(where * len(text))
        texts[file] = text[:at] + put + text[at + drop :]

    with tempfile.TemporaryDirectory() as home:
        try:
            path = forged(nets / name, Path(home) / "net", change)
            called(path)
        except (ArtifactError, UnicodeEncodeError):
            return


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("aten.special_bessel_j0.default", "aten.from_file.default", "runs the operator"),
        ("aten.special_bessel_j0.default", "debugprims.load_tensor.default", "runs the operator"),
        ("aten.special_bessel_j0.default", "os.system.default", "runs the operator os.system"),
        ("aten.special_bessel_j0.default", "aten.__class__.default", "cannot be loaded"),
        ("aten.special_bessel_j0.default", "aten.nothing.default", "import the library"),
        ("aten.special_bessel_j0.default", "torchvision.nms.default", "cannot be loaded"),
    ],
)
def test_operators_are_those_of_known_namespaces(
    nets: Path, tmp_path: Path, old: str, new: str, words: str
) -> None:
    def change(texts: dict[str, str]) -> None:
        assert old in texts["program0.lir"]
        texts["program0.lir"] = texts["program0.lir"].replace(old, new)

    path = forged(nets / "opaque", tmp_path / "net", change)
    with pytest.raises(ArtifactError, match=words):
        leptonc.load(path)


def test_files_that_are_named_are_not_opened(nets: Path, tmp_path: Path) -> None:
    path = forged(
        nets / "opaque", tmp_path / "net",
        lambda t: t.update({"program0.lir": t["program0.lir"].replace(
            "aten.special_bessel_j0.default", "aten.from_file.default")}),
    )  # fmt: skip
    with pytest.raises(ArtifactError, match="runs the operator"):
        leptonc.load(path, ops=["aten"])


MARK = "leptonc_was_here"


@pytest.mark.parametrize("where", ["retreat", "unit", "function", "origin"])
def test_text_of_a_net_is_never_run(nets: Path, tmp_path: Path, where: str) -> None:
    code = f"\r\n    import sys; sys.{MARK} = 1\r\n"

    def change(texts: dict[str, str]) -> None:
        about, program = json.loads(texts["net0.json"]), texts["program0.lir"]
        name = next(u for u in program.split("name='")[1:]).partition("'")[0]
        if where == "retreat":
            about["retreat"] = {name: code}
        if where == "unit":
            program = program.replace(f"name='{name}'", f"name={code!r}")
        if where == "function":
            program = program.replace("@main(", f"@main{code}(", 1)
        if where == "origin":
            program = program.replace("  // ", f"  // {code.strip()} ", 1)
        texts.update({"net0.json": json.dumps(about), "program0.lir": program})

    path = forged(nets / "opaque", tmp_path / "net", change)
    try:
        net = called(path)
        assert net.source
    except ArtifactError:
        assert where == "function"
    assert not hasattr(sys, MARK)


def test_nothing_is_imported_for_a_class(nets: Path, tmp_path: Path) -> None:
    def change(texts: dict[str, str]) -> None:
        about = json.loads(texts["net0.json"])
        count = about["call"]["out"][2]
        about["call"]["out"] = ["class", ["antigravity:geohash", None, len(count)], count]
        texts["net0.json"] = json.dumps(about)

    called(forged(nets / "arguments", tmp_path / "net", change))
    assert "antigravity" not in sys.modules


def test_a_probe_with_other_results_is_refused(nets: Path, tmp_path: Path) -> None:
    found = open_artifact(nets / "dynamic")
    about = json.loads(found.text("net0.json"))
    about["probe"]["results"] = about["probe"]["inputs"]
    path = forged(nets / "dynamic", tmp_path / "net",
                  lambda t: t.update({"net0.json": json.dumps(about)}))  # fmt: skip
    with pytest.raises(ArtifactError, match="on the stored probe"):
        leptonc.load(path)


def test_other_last_bits_are_told(nets: Path, tmp_path: Path) -> None:
    found = open_artifact(nets / "dynamic")
    about, store = json.loads(found.text("net0.json")), ConstantStore()
    for const in found.constants().values():
        store.add(const)
    (old,) = about["probe"]["results"]
    moved = meaning.tensor_of(store[old]) * (1 + 2**-22)
    about["probe"]["results"] = [store.add(meaning.const_of(moved)).digest]
    texts = {n: found.text(n) for n in TEXTS[:2]} | {"net0.json": json.dumps(about)}
    path = write_artifact(
        tmp_path / "net", {"kind": "compiled", **found.manifest.about}, texts, store
    )
    assert "the last bits of results" in leptonc.load(path).report(remarks=True)
    assert "the last bits" not in leptonc.load(nets / "dynamic").report(remarks=True)


def test_deep_text_is_refused(nets: Path, tmp_path: Path) -> None:
    deep: Any = None
    for _ in range(400):
        deep = ["list", None, [deep]]
    about = json.loads(open_artifact(nets / "dynamic").text("net0.json"))
    about["call"]["out"] = deep
    path = forged(nets / "dynamic", tmp_path / "a",
                  lambda t: t.update({"net0.json": json.dumps(about)}))  # fmt: skip
    with pytest.raises(ArtifactError, match="levels"):
        called(path)
    nested = "(" * 50_000
    path = forged(
        nets / "dynamic", tmp_path / "b",
        lambda t: t.update({"program0.lir": t["program0.lir"].replace("(", nested)}),
    )  # fmt: skip
    with pytest.raises(ArtifactError):
        leptonc.load(path)


class Own(nn.Module):
    """Calls an operator of the user's own library."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.ops.leptonc_tests_saved.twice(x) + 1


def test_operators_of_ones_own_are_allowed_by_name(tmp_path: Path) -> None:
    library = torch.library.Library("leptonc_tests_saved", "DEF")
    library.define("twice(Tensor x) -> Tensor")
    library.impl("twice", lambda x: x * 2, "CompositeExplicitAutograd")
    torch.library.register_fake(
        "leptonc_tests_saved::twice", lambda x: torch.empty_like(x), lib=library
    )
    model = Own().eval()
    leptonc.compile(model, SMALL).save(tmp_path / "net")
    with pytest.raises(ArtifactError, match=r"load with ops=\['leptonc_tests_saved'\]"):
        leptonc.load(tmp_path / "net")
    loaded = leptonc.load(tmp_path / "net", ops=["leptonc_tests_saved"])
    assert torch.equal(loaded(SMALL), SMALL * 2 + 1)


def test_copies_are_as_good(nets: Path, tmp_path: Path) -> None:
    shutil.copytree(nets / "arguments", tmp_path / "net")
    assert leptonc.load(tmp_path / "net").name == Arguments.__name__
