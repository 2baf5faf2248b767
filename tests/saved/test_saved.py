"""Nets saved and loaded: the same bits, without the model; what cannot be is refused and said."""

from __future__ import annotations

import gc
import json
import re
import shutil
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import leptonc
from leptonc import saved
from leptonc.bench.vision import beside
from leptonc.capture.record import Record
from leptonc.errors import ArtifactError, InputError, LeptoncError
from leptonc.runtime.artifact import open_artifact, write_artifact
from leptonc.runtime.cache import CompileCache

from .nets import (
    IMAGE,
    NETS,
    SMALL,
    Conv,
    Known,
    Out,
    Random,
    Returns,
    Two,
    X,
    call,
    leaves,
    made,
    same,
    sequential,
)

pytestmark = pytest.mark.numba
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Keep compiled programs to this module; kernels are shared."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("leptonc.compiler.CompileCache", _cache_in(tmp_path_factory.mktemp("cache")))
        yield


def _cache_in(root: Path) -> Any:
    return lambda enabled=None: CompileCache(root, enabled=enabled)


@pytest.mark.parametrize("name", sorted(NETS))
def test_a_loaded_net_gives_the_same_bits(name: str, tmp_path: Path) -> None:
    model, net, example = made(name)
    want = call(net, example)
    assert net.save(tmp_path / "net") == tmp_path / "net"
    del model
    loaded = leptonc.load(tmp_path / "net", classes=[Out])
    for mine, theirs in zip(loaded.specializations, net.specializations, strict=True):
        assert (mine.threads, mine.precision) == (theirs.threads, theirs.precision)
        assert not [r for r in mine.remarks if getattr(r, "pass_", "") == "load"]
    got = call(loaded, example)
    assert type(got) is type(want) and same(got, want)
    # What was loaded is saved again as the very same thing, without any model.
    again = leptonc.load(loaded.save(tmp_path / "again"), classes=[Out])
    assert same(call(again, example), want)
    for file in (tmp_path / "net").iterdir():
        assert (tmp_path / "again" / file.name).read_bytes() == file.read_bytes(), file.name


@pytest.mark.parametrize("name", ["conv", "dynamic", "int8", "opaque"])
def test_a_net_from_the_compile_cache_is_saved_too(name: str, tmp_path: Path) -> None:
    _, first, example = made(name)
    kept, second, _ = made(name)
    assert second.stats["cached"] is True
    second.save(tmp_path / "net")
    assert same(call(leptonc.load(tmp_path / "net"), example), call(first, example))
    assert "fold-batchnorm" in leptonc.load(tmp_path / "net").report(remarks=True) or name != "conv"
    del kept


def test_other_sizes_of_a_dynamic_net(tmp_path: Path) -> None:
    _, net, _ = made("dynamic")
    loaded = leptonc.load(net.save(tmp_path / "net"))
    for rows in (1, 7, 32):
        x = torch.randn(rows, 64)
        assert torch.equal(loaded(x), net(x))
    with pytest.raises(InputError):
        loaded(torch.randn(33, 64))
    assert loaded.ir.dims == net.ir.dims


def test_every_signature_is_saved(tmp_path: Path) -> None:
    model = sequential().eval()
    net = leptonc.compile(model)
    with pytest.raises(InputError, match="call it once, then save"):
        net.save(tmp_path / "net")
    want = [net(X), net(X[:3])]
    loaded = leptonc.load(net.save(tmp_path / "net"))
    assert [torch.equal(a, loaded(x)) for a, x in zip(want, (X, X[:3]), strict=True)] == [True] * 2
    assert len(loaded.specializations) == 2
    with pytest.raises(InputError, match="size of 5"):
        loaded(torch.randn(5, 64))
    with pytest.raises(InputError, match=r"was loaded from .* compile the model"):
        loaded.specialize((X[:5],), {})


def test_tied_weights_are_stored_once(tmp_path: Path) -> None:
    model, net, _ = made("tied")
    net.save(tmp_path / "net")
    found = open_artifact(tmp_path / "net").constants()
    shapes = [tuple(c.type.shape) for c in found.values()]
    assert shapes.count((300, 24)) == 1
    del model


def test_what_is_shown_of_a_loaded_net(tmp_path: Path) -> None:
    model, net, _ = made("conv")
    loaded = leptonc.load(net.save(tmp_path / "net"))
    assert str(loaded.ir) and loaded.source == net.source
    assert loaded.explain() == net.explain()
    place = loaded.explain("c")
    for word in ("conv{", "fuse", "ways", "held to the saved probe"):
        assert word in place
    report = loaded.report(remarks=True)
    assert "was loaded from" in report and "fold-batchnorm" in report and "load " in report
    assert json.loads(loaded.report(format="json"))["remarks"]
    assert loaded.profile(IMAGE).units
    for name in ("net.html", "net.json", "net.dot"):
        assert loaded.explore(tmp_path / name).stat().st_size > 500
    assert "captured" in (tmp_path / "net.html").read_text()
    assert "CompiledModel Conv" in repr(loaded) and "Conv" in loaded._repr_html_()
    with pytest.raises(LeptoncError, match=r"was loaded from .*; compile the model to see them"):
        _ = loaded.stages
    with pytest.raises(InputError, match="bisect one that"):
        loaded.bisect(IMAGE)
    assert [type(s) for s in net.stages]
    del model


def test_units_that_retreated_stay_with_torch(tmp_path: Path) -> None:
    _, net, _ = made("dynamic")  # it has all its weights, so it can be lowered once more
    spec = net.specializations[0]
    unit = net.schedule.units[0].name
    spec.retreat[unit] = "on a probe it missed\n    raise SystemExit  # an end of line does no harm"
    spec.forget()
    want = net(X)
    loaded = leptonc.load(net.save(tmp_path / "net"))
    assert torch.equal(loaded(X), want) and loaded.stats["units_torch"] == 1
    assert "on a probe it missed" in loaded.report()


def test_a_random_net_is_not_compared(tmp_path: Path) -> None:
    model = Random().eval()
    loaded = leptonc.load(leptonc.compile(model, X).save(tmp_path / "net"))
    assert (loaded(X) - X).min() >= 0 and not torch.equal(loaded(X), loaded(X))


# ----- without the model --------------------------------------------------------------------------


def test_without_its_model_a_net_cannot_be_saved(tmp_path: Path) -> None:
    _, net, _ = made("conv")
    gc.collect()
    with pytest.raises(ArtifactError, match=r"Keep the model until the net is saved"):
        net.save(tmp_path / "net")
    assert not list(tmp_path.iterdir())


def test_small_weights_need_no_model(tmp_path: Path) -> None:
    net = leptonc.compile(nn.Linear(6, 5).eval(), SMALL, cache=False)
    gc.collect()
    want = net(SMALL)
    assert torch.equal(leptonc.load(net.save(tmp_path / "net"))(SMALL), want)


@pytest.mark.parametrize("name", ["c.weight", "l.weight"])
def test_weights_that_changed_are_not_saved(name: str, tmp_path: Path) -> None:
    model, net, _ = made("conv")
    with torch.no_grad():
        model.state_dict()[name].mul_(2)
    with pytest.raises(ArtifactError, match=r"changed since. Compile the model again"):
        net.save(tmp_path / "net")


def test_small_weights_that_changed_are_not_saved(tmp_path: Path) -> None:
    model = nn.Linear(6, 5).eval()  # its compiled net has these very weights
    net = leptonc.compile(model, SMALL, cache=False)
    with torch.no_grad():
        model.bias.add_(1)
    with pytest.raises(ArtifactError, match="changed since"):
        net.save(tmp_path / "net")


def test_what_was_folded_stays_as_it_was_compiled(tmp_path: Path) -> None:
    model, net, _ = made("conv")
    want = net(IMAGE)
    with torch.no_grad():
        model.b.running_var.mul_(2)
    assert same(leptonc.load(net.save(tmp_path / "net"))(IMAGE), want)


FRESH = """
import json, sys
import torch, leptonc
home, *names = sys.argv[1:]
for name in names:
    net = leptonc.load(f"{home}/{name}")
    case = torch.load(f"{home}/{name}.pt", weights_only=True)
    got = net(**case["x"]) if isinstance(case["x"], dict) else net(case["x"])
    parts = [t for t in torch.utils._pytree.tree_leaves(got) if isinstance(t, torch.Tensor)]
    same = [torch.equal(a, b) for a, b in zip(parts, case["want"], strict=True)]
    missed = [r.what for r in net.specializations[0].remarks if getattr(r, "pass_", "") == "load"]
    print(json.dumps([name, all(same), type(got).__name__, missed]))
print(json.dumps([m for m in sys.modules if m.split(".")[-1] in ("nets", "transformers")]))
"""


def in_fresh_process(home: Path, names: list[str]) -> list[Any]:
    command = [sys.executable, "-c", FRESH, str(home), *names]
    out = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert out.returncode == 0, out.stderr
    return [json.loads(line) for line in out.stdout.splitlines()]


def test_a_fresh_process_needs_neither_class_nor_source(tmp_path: Path) -> None:
    names = ["arguments", "conv", "dataclass", "dynamic", "int8", "known", "opaque", "tuple"]
    for name in names:
        _kept, net, example = made(name)
        want = [t for t in leaves(call(net, example)) if isinstance(t, torch.Tensor)]
        net.save(tmp_path / name)
        torch.save({"x": example, "want": want}, tmp_path / f"{name}.pt")
    *rows, modules = in_fresh_process(tmp_path, names)
    assert [(r[0], r[1]) for r in rows] == [(n, True) for n in names]
    kinds = {r[0]: (r[2], [m.rpartition(":")[2] for m in r[3]]) for r in rows}
    assert kinds["conv"] == ("dict", []) and kinds["tuple"] == ("Two", ["Two"])
    assert kinds["dataclass"] == ("Record", ["Out"]) and kinds["known"] == ("Record", ["Known"])
    assert modules == []


def test_classes_of_results(tmp_path: Path) -> None:
    for name, cls in (("known", Known), ("tuple", Two), ("dataclass", Out)):
        _kept, net, example = made(name)
        net.save(tmp_path / name)
        found = call(leptonc.load(tmp_path / name), example)
        assert type(found) is (Record if cls is Out else cls)
        assert same(list(found.values()) if cls is Out else found, call(net, example))
    given = call(leptonc.load(tmp_path / "dataclass", classes=[Out]), SMALL)
    assert type(given) is Out
    report = leptonc.load(tmp_path / "dataclass").report(remarks=True)
    assert "pass it there as classes=[...]" in report


def test_a_model_of_transformers(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    transformers = beside("transformers")
    config = transformers.BertConfig(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64,
        vocab_size=100, max_position_embeddings=16,
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.BertModel(config).eval()
    ids = torch.arange(10)[None]
    net = leptonc.compile(model, {"input_ids": ids})
    want = net(input_ids=ids)
    net.save(tmp_path / "bert")
    got = leptonc.load(tmp_path / "bert")(input_ids=ids)
    assert type(got) is type(want) and torch.equal(got.last_hidden_state, want.last_hidden_state)
    torch.save({"x": {"input_ids": ids}, "want": list(want.values())}, tmp_path / "bert.pt")
    (row, modules) = in_fresh_process(tmp_path, ["bert"])
    assert row[1:3] == [True, "Record"] and modules == []


# ----- elsewhere ----------------------------------------------------------------------------------


def test_elsewhere_what_was_measured_is_forgotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = Conv().eval()
    net = leptonc.compile(model, IMAGE, tune=True)
    want = net(IMAGE)
    net.save(tmp_path / "net")
    monkeypatch.setattr(saved, "here", lambda: "elsewhere")
    loaded = leptonc.load(tmp_path / "net", threads=1)
    assert not loaded.specializations[0].answers and loaded.specializations[0].threads == 1
    torch.testing.assert_close(loaded(IMAGE), want)
    monkeypatch.undo()
    back = leptonc.load(tmp_path / "net")
    assert back.specializations[0].answers == net.specializations[0].answers != {}


OTHER_LANES = """
import sys, torch, leptonc
net = leptonc.load(sys.argv[1])
case = torch.load(sys.argv[1] + ".pt", weights_only=True)
torch.testing.assert_close(net(case["x"]), case["want"])
from leptonc.backends.numba_cpu.kernels.vectype import LANES
print(LANES)
"""


@pytest.mark.slow
def test_kernels_for_other_vectors_are_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, net, _ = made("conv")
    net.save(tmp_path / "net")
    torch.save({"x": IMAGE, "want": net(IMAGE)}, tmp_path / "net.pt")
    monkeypatch.setenv("LEPTONC_LANES", "4")
    command = [sys.executable, "-c", OTHER_LANES, str(tmp_path / "net")]
    assert subprocess.check_output(command, cwd=ROOT, text=True, timeout=900).strip() == "4"
    del model


# ----- what is refused ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def conv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    _kept, net, _ = made("conv")
    return net.save(tmp_path_factory.mktemp("conv") / "net")


def test_another_artifact_is_no_net(tmp_path: Path) -> None:
    write_artifact(tmp_path / "a", {"kind": "other"}, {}, {})
    with pytest.raises(ArtifactError, match="holds 'other', expected 'compiled'"):
        leptonc.load(tmp_path / "a")
    write_artifact(tmp_path / "a", {"kind": "compiled", "name": "x"}, {}, {})
    with pytest.raises(ArtifactError, match="names no net"):
        leptonc.load(tmp_path / "a")
    with pytest.raises(ArtifactError, match="no such directory"):
        leptonc.load(tmp_path / "b")


def test_a_damaged_net_is_refused(conv: Path, tmp_path: Path) -> None:
    for file in sorted(conv.iterdir()):
        shutil.copytree(conv, tmp_path / "net")
        raw = bytearray(file.read_bytes())
        raw[len(raw) // 2] ^= 4
        (tmp_path / "net" / file.name).write_bytes(raw)
        with pytest.raises(ArtifactError, match=file.name):
            leptonc.load(tmp_path / "net")
        shutil.rmtree(tmp_path / "net")


def test_weights_that_are_not_hashed_are_caught_by_the_probe(conv: Path, tmp_path: Path) -> None:
    shutil.copytree(conv, tmp_path / "net")
    found = open_artifact(conv)
    digest = next(d for d, c in found.constants().items() if tuple(c.type.shape) == (32, 32, 3, 3))
    place = found._places[digest]
    raw = bytearray(place.path.read_bytes())
    raw[place.extent.begin + 3 : place.extent.end : 4] = b"\x41" * (32 * 32 * 9)
    (tmp_path / "net" / place.path.name).write_bytes(raw)
    with pytest.raises(ArtifactError, match="hash"):
        leptonc.load(tmp_path / "net")
    with pytest.raises(ArtifactError, match="on the stored probe"):
        leptonc.load(tmp_path / "net", verify="off")


def test_results_that_cannot_be_saved_are_named(tmp_path: Path) -> None:
    model = Returns(lambda a, b: defaultdict(lambda: 0, a=a, b=b)).eval()
    net = leptonc.compile(model, SMALL)
    with pytest.raises(ArtifactError, match=r"Returns: a defaultdict of .* cannot be saved"):
        net.save(tmp_path / "net")


def test_a_place_that_is_taken_is_told_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("x")
    _kept, net, _ = made("tuple")
    with pytest.raises(ArtifactError, match=r"mine\.txt|no artifact"):
        net.save(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]


def test_the_example_of_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(), re.M | re.S)
    (at,) = [
        i for i, block in enumerate(blocks) if "net.save(" in block and "leptonc.load(" in block
    ]
    assert "leptonc.compile(model" in blocks[0] and "Dim(" in blocks[1]
    names: dict[str, Any] = {}
    exec("".join([*blocks[:2], blocks[at]]), names)
    x = torch.randn(8, 64)
    assert torch.equal(names["again"](x), names["net"](x))
