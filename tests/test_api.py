"""``leptonc.compile`` as its users call it: arguments, results, bad input, threads, shapes."""

from __future__ import annotations

import dataclasses
import gc
import re
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim

import leptonc
from leptonc import api, here, stored
from leptonc.capture.frontend import capture as capture_model
from leptonc.errors import InputError, LeptoncError
from leptonc.runtime.caches import Caches

pytestmark = pytest.mark.numba
BATCH = Dim("batch", min=1, max=64)


@pytest.fixture(autouse=True)
def _no_grad() -> Any:
    with torch.no_grad():
        yield


def compiled(model: nn.Module, inputs: Any, **options: Any) -> leptonc.CompiledModel:
    """Return the model compiled without the cache, on one thread unless asked otherwise."""
    return leptonc.compile(model.eval(), inputs, cache=False, **{"threads": 1, **options})


def mlp(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 4)).eval()


class Call(nn.Module):
    """A module from a function."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.forward = function


# ----- arguments and results ----------------------------------------------------------------------


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lin = nn.Linear(4, 4)

    def forward(self, x: Tensor, mask: Tensor | None = None, scale: float = 1.0) -> Tensor:
        y = self.lin(x) * scale
        return y if mask is None else y * mask


def test_arguments_by_position_and_by_name() -> None:
    net, x, mask = Two().eval(), torch.randn(2, 4), torch.randn(2, 4)
    run = compiled(net, {"x": x, "mask": mask})
    want = net(x, mask)
    for got in (run(x, mask), run(x=x, mask=mask), run(mask=mask, x=x), run(x, mask=mask)):
        torch.testing.assert_close(got, want)


def test_an_argument_left_out_is_named() -> None:
    run = compiled(Two(), {"x": torch.randn(2, 4), "mask": torch.randn(2, 4)})
    with pytest.raises(InputError, match=r"missing mask"):
        run(torch.randn(2, 4))
    with pytest.raises(InputError, match=r"unexpected maks"):
        run(torch.randn(2, 4), torch.randn(2, 4), maks=1)
    with pytest.raises(InputError, match=r"1 too many"):
        run(torch.randn(2, 4), torch.randn(2, 4), 1.0)
    with pytest.raises(InputError, match=r"mask: given by position and by name"):
        run(torch.randn(2, 4), torch.randn(2, 4), mask=torch.randn(2, 4))


def test_python_values_are_fixed_and_named() -> None:
    net, x, mask = Two().eval(), torch.randn(2, 4), torch.randn(2, 4)
    run = compiled(net, (x, mask, 2.0))
    torch.testing.assert_close(run(x, mask, 2.0), net(x, mask, 2.0))
    with pytest.raises(InputError, match=r"scale: .* value 2\.0, got 3\.0"):
        run(x, mask, 3.0)


@dataclasses.dataclass
class Result:
    """What a model may return."""

    logits: Tensor
    more: dict[str, Tensor] | None = None
    note: str = "as is"


def test_results_keep_their_structure() -> None:
    def f(x: Tensor) -> Any:
        y = x * 2
        return {"a": y, "b": (y + 1, [y - 1, 3, None]), "c": Result(y.sum(), {"d": y.abs()})}

    x = torch.randn(3, 4)
    run, want = compiled(Call(f), x), f(x)
    got = run(x)
    assert type(got) is dict and list(got) == ["a", "b", "c"]
    assert type(got["b"]) is tuple and type(got["b"][1]) is list and got["b"][1][1:] == [3, None]
    assert type(got["c"]) is Result and got["c"].note == "as is"
    torch.testing.assert_close(got["b"][0], want["b"][0])
    torch.testing.assert_close(got["b"][1][0], want["b"][1][0])
    torch.testing.assert_close(got["c"].logits, want["c"].logits)
    torch.testing.assert_close(got["c"].more["d"], want["c"].more["d"])


def test_passed_through_twice_and_views() -> None:
    def f(x: Tensor, y: Tensor) -> Any:
        z = x + 1
        return x, z, z, y.t(), x.view(-1), y[1:], x.clone()

    x, y = torch.randn(3, 4), torch.randn(2, 3)
    run = compiled(Call(f), (x, y))
    got, want = run(x, y), f(x, y)
    assert got[0] is x  # as in eager
    for g, w in zip(got, want, strict=True):
        assert g.shape == w.shape and g.dtype == w.dtype
        torch.testing.assert_close(g, w, rtol=0, atol=0)
    got[1].zero_()
    torch.testing.assert_close(run(x, y)[1], want[1])  # results are the caller's own


def test_no_tensor_result_and_unread_input() -> None:
    def f(x: Tensor, unused: Tensor) -> Any:
        return x.shape[0], x * 1.5, torch.arange(3)

    x = torch.randn(3, 2)
    run = compiled(Call(f), (x, torch.zeros(1)))
    n, y, three = run(x, torch.zeros(7))
    assert n == 3
    torch.testing.assert_close(y, x * 1.5)
    torch.testing.assert_close(three, torch.arange(3))


def test_compiles_at_the_first_call_and_again_for_another_shape() -> None:
    net = mlp()
    run = compiled(net, None)
    for rows in (3, 5, 3):
        x = torch.randn(rows, 8)
        torch.testing.assert_close(run(x), net(x))
    assert len(run.specializations) == 2
    assert run.stats["specializations"] == 2


# ----- unusual tensors ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "form",
    [
        lambda x: x.t().contiguous().t(),
        lambda x: x.repeat(2, 2)[::2, 8:],
        lambda x: x[:1].expand(6, 8),
        lambda x: x.flip(0),
        lambda x: torch.cat([torch.zeros(1), x.flatten()])[1:].view(6, 8),
        lambda x: nn.Parameter(x, requires_grad=False),
        lambda x: x.fill_(float("nan")),
        lambda x: x.fill_(float("inf")),
        lambda x: torch.full_like(x, 1e-42),
    ],
    ids=["transposed", "strided", "expanded", "flipped", "unaligned", "parameter", "nan", "inf",
         "denormal"],
)  # fmt: skip
def test_any_strides_and_values(form: Callable[[Tensor], Tensor]) -> None:
    net = mlp()
    run = compiled(net, torch.randn(6, 8))
    x = form(torch.randn(6, 8))
    torch.testing.assert_close(run(x), net(x), equal_nan=True)


def test_zero_size() -> None:
    net = mlp()
    run = compiled(net, torch.randn(0, 8))
    assert run(torch.randn(0, 8)).shape == (0, 4)
    run = compiled(net, torch.randn(3, 8), dynamic={"input": {0: Dim("n", min=0, max=9)}})
    for rows in (0, 1, 9):
        x = torch.randn(rows, 8)
        torch.testing.assert_close(run(x), net(x))


def test_a_tensor_that_requires_grad() -> None:
    net = mlp()
    run = compiled(net, torch.randn(3, 8))
    x = torch.randn(3, 8, requires_grad=True)
    torch.testing.assert_close(run(x), net(x))
    with torch.enable_grad(), pytest.raises(InputError, match=r"input requires grad.*no_grad"):
        run(x)


@pytest.mark.parametrize("dtype", [torch.int64, torch.float64, torch.bool, torch.int32])
def test_other_dtypes_match(dtype: torch.dtype) -> None:
    def f(x: Tensor) -> Any:
        return x[:, 1:], x == x[0], x.sum(0), torch.cat([x, x])

    x = torch.arange(12).view(4, 3).to(dtype)
    for g, w in zip(compiled(Call(f), x)(x), f(x), strict=True):
        assert g.dtype == w.dtype
        torch.testing.assert_close(g, w)


# ----- bad input ----------------------------------------------------------------------------------

_BAD: dict[str, tuple[Any, str]] = {
    "dtype": (torch.zeros(3, 8, dtype=torch.float64), r"input: .*float32.*float64"),
    "rank": (torch.zeros(8), r"input\) has shape \[8\], expected f32\[3,8\]"),
    "shape": (torch.zeros(3, 9), r"input.*9"),
    "device": (torch.zeros(3, 8, device="meta"), r"input: expected a CPU tensor.*meta"),
    "layout": (torch.zeros(3, 8).to_sparse(), r"input: .*dense.*sparse"),
    "type": ([1.0, 2.0], r"arguments are arranged|expected a tensor"),
    "none": (None, r"input: expected a tensor, got NoneType"),
    "number": (1.0, r"input: expected a tensor, got float"),
}


@pytest.mark.parametrize("case", _BAD)
def test_bad_input_is_named(case: str) -> None:
    run = compiled(mlp(), torch.randn(3, 8))
    bad, text = _BAD[case]
    with pytest.raises(InputError) as e:
        run(bad)
    assert re.search(text, str(e.value), re.DOTALL), str(e.value)


def test_wrong_count() -> None:
    run = compiled(mlp(), torch.randn(3, 8))
    with pytest.raises(InputError, match="missing input"):
        run()
    with pytest.raises(InputError, match="1 too many"):
        run(torch.randn(3, 8), torch.randn(3, 8))


def test_size_outside_its_range() -> None:
    run = compiled(mlp(), torch.randn(3, 8), dynamic={"input": {0: BATCH}})
    with pytest.raises(InputError, match=r"batch = 65 .*64"):
        run(torch.randn(65, 8))
    assert len(run.specializations) == 1


@pytest.mark.parametrize("threads", [1, 2])
def test_index_out_of_range_raises_as_in_eager(threads: int) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Embedding(10, 4), nn.Linear(4, 2)).eval()
    run = compiled(net, torch.tensor([[1, 2], [9, 0]]), threads=threads)
    for bad in (10, -1, 2**40):
        for _ in range(2):
            with pytest.raises(IndexError, match="out of range"):
                run(torch.tensor([[1, 2], [bad, 0]]))
        good = torch.tensor([[1, 2], [3, 0]])
        torch.testing.assert_close(run(good), net(good))


def test_wrong_options_list_what_exists() -> None:
    x = torch.randn(3, 8)
    for options, text in (
        ({"target": "tpu"}, "cpu"),
        ({"pipeline": "O9"}, "O2"),
        ({"pipeline": "simplify,fusee"}, "fuse"),
        ({"precision": "fp8"}, "strict"),
        ({"verify": "maybe"}, "final"),
    ):
        with pytest.raises(LeptoncError, match=text):
            compiled(mlp(), x, **options)
    if not torch.cuda.is_available():
        with pytest.raises(LeptoncError, match="no CUDA device"):
            compiled(mlp(), x, target="cuda")
    with pytest.raises(LeptoncError, match=r"eval\(\)"):
        leptonc.compile(mlp().train(), x)


def test_the_model_is_not_changed() -> None:
    net, x = mlp(), torch.randn(3, 8)
    before = {k: v.clone() for k, v in net.state_dict().items()}
    flags = [p.requires_grad for p in net.parameters()]
    run, want = compiled(net, x), net(x)
    net[0].weight.mul_(2)  # nor does the compiled model follow the model
    torch.testing.assert_close(run(x), want)
    net[0].weight.div_(2)
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert flags == [p.requires_grad for p in net.parameters()] and not net.training


# ----- changing shapes, several Python threads ----------------------------------------------------


def convnet() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 4, 1),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 4), nn.Softmax(-1),
    ).eval()  # fmt: skip


_IMAGE = {"input": {0: BATCH, 2: Dim("h", min=8, max=64), 3: Dim("w", min=8, max=64)}}


def test_random_shapes_bind_and_match_without_growth() -> None:
    net = convnet()
    run = compiled(net, torch.randn(2, 3, 16, 16), dynamic=_IMAGE)
    (spec,) = run.specializations
    g = torch.Generator().manual_seed(0)
    for i in range(200):
        n, h, w = (int(v) for v in torch.randint(8, 24, (3,), generator=g))
        x = torch.randn(n, 3, h, w, generator=g)
        torch.testing.assert_close(run(x), net(x), rtol=1e-4, atol=1e-6)
        if i == 50:
            packed = len(spec.pool.arrays)
    assert len(run.specializations) == 1
    assert len(spec.pool.arrays) == packed
    assert len(spec.bindings) <= 16


_GROWTH = """
import gc, torch, leptonc
from torch import nn
from torch.export import Dim

torch.set_grad_enabled(False)
g = torch.Generator().manual_seed(0)
net = nn.Sequential(
    nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 4, 1), nn.Softmax(1)
).eval()
axes = {0: Dim("n", max=64), 2: Dim("h", min=8, max=64), 3: Dim("w", min=8, max=64)}
run = leptonc.compile(
    net, torch.randn(2, 3, 16, 16), dynamic={"input": axes}, threads=1, cache=False
)

def calls(count):
    for _ in range(count):
        n, h, w = torch.randint(8, 24, (3,), generator=g).tolist()
        run(torch.randn(n, 3, h, w, generator=g))
    gc.collect()
    with open("/proc/self/statm") as f:
        return int(f.read().split()[1]) * 4096

before = calls(400)  # every kernel that a size may choose is loaded by now
print(calls(1000) - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads /proc")
def test_memory_is_flat_over_a_thousand_shapes() -> None:
    """In a process of its own: other tests' memory would blur it."""
    done = subprocess.run([sys.executable, "-c", _GROWTH], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[-1]) < 8 * 2**20  # bytes


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("change", [False, True], ids=["one shape", "changing shapes"])
def test_two_python_threads_share_a_model(threads: int, change: bool) -> None:
    net = convnet()
    run = compiled(net, torch.randn(2, 3, 16, 16), dynamic=_IMAGE, threads=threads)
    wrong: list[str] = []

    def work(seed: int) -> None:
        g = torch.Generator().manual_seed(seed)
        try:
            for i in range(60):
                side = 8 + (i * (seed + 3)) % 20 if change else 16
                x = torch.randn(2, 3, side, side, generator=g)
                with torch.no_grad():
                    if not torch.allclose(run(x), net(x), rtol=1e-4, atol=1e-6):
                        wrong.append(f"thread {seed}, call {i}")
        except Exception as e:
            wrong.append(repr(e))

    workers = [threading.Thread(target=work, args=(i,)) for i in range(3)]
    for w in workers:
        w.start()
    for w in workers:
        w.join(120)
    assert not wrong


def test_free_memory_goes_back_when_a_compile_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[bool] = []
    monkeypatch.setattr(api, "trim", lambda: given.append(gc.isenabled()))
    compiled(nn.Linear(3, 2), torch.ones(1, 3))
    assert given == [True]  # the collector works again: nothing more is made


def test_threads_that_come_first_at_once_compile_once() -> None:
    net, x = mlp(), torch.randn(3, 8)
    run, want = compiled(net, None), net(x)
    got: list[Tensor] = []
    workers = [threading.Thread(target=lambda: got.append(run(x))) for _ in range(3)]
    for w in workers:
        w.start()
    for w in workers:
        w.join(120)
    assert len(got) == 3 and len(run.specializations) == 1
    for g in got:
        torch.testing.assert_close(g, want)


def test_a_machine_with_other_caches_takes_no_stored_program(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """How a batch is cut, and with it the order of stored constants, follows from their sizes."""
    x = torch.randn(2, 3)
    captured = capture_model(nn.Linear(3, 2).eval(), (x,), {})
    key = stored.key_of(captured, ())
    assert stored.key_of(captured, ()) == key
    monkeypatch.setattr(here, "read_caches", lambda: Caches(l2=1, l3=2))
    assert stored.key_of(captured, ()) != key
