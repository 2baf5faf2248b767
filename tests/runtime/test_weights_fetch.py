"""Elements of mapped constants through a buffer: the same values, and no page is mapped."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from leptonc import meaning
from leptonc.errors import ArtifactError
from leptonc.runtime.artifact import Artifact, open_artifact, write_artifact

SHAPE = (37, 41)


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    tensors = [torch.randn(5, 3), torch.randn(SHAPE), torch.arange(700, dtype=torch.int64)]
    store = {c.digest: c for c in map(meaning.const_of, tensors)}
    place = tmp_path_factory.mktemp("fetch") / "a"
    return open_artifact(write_artifact(place, {"kind": "test"}, {}, store))


def arrays(artifact: Artifact) -> list[np.ndarray]:
    return [meaning.elements_of(c) for c in artifact.constants().values()]


def resident(directory: Path) -> int:
    """Return the KiB of files in ``directory`` that are mapped and resident."""
    total, counts = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        words = line.split()
        if "-" in words[0] and not words[0].endswith(":"):
            counts = words[-1].startswith(str(directory))
        elif counts and words[0] == "Rss:":
            total += int(words[1])
    return total


CUT = st.tuples(*(st.tuples(st.integers(0, n), st.integers(0, n)) for n in SHAPE))


@given(CUT, st.booleans(), st.sampled_from([1, 2, -1]))
def test_any_view_of_a_constant_is_fetched_right(opened, cut, turned: bool, step: int) -> None:
    (whole,) = (a for a in arrays(opened) if a.shape == SHAPE)
    want = np.array(whole)
    opened.let_go()
    rows, columns = (slice(min(c), max(c)) for c in cut)
    view, copy = (a[rows, columns][::step] for a in (whole, want))
    view, copy = (view.T, copy.T) if turned else (view, copy)
    got = opened.fetch(view)
    assert got.shape == copy.shape and np.array_equal(got, copy)
    assert resident(opened.path) == 0 or not view.size
    assert not np.shares_memory(got, whole)


def test_the_buffer_is_used_again(opened) -> None:
    for array in arrays(opened):
        assert np.shares_memory(opened.fetch(array), opened.fetch(array))


def test_an_array_that_lies_elsewhere_is_itself(opened) -> None:
    array = np.ones(3)
    assert opened.fetch(array) is array


def test_a_file_that_ends_too_soon_is_an_error(tmp_path: Path) -> None:
    const = meaning.const_of(torch.randn(100, 100))
    place = write_artifact(tmp_path / "a", {"kind": "test"}, {}, {const.digest: const})
    artifact = open_artifact(place)
    (array,) = arrays(artifact)
    (file,) = place.glob("*.safetensors")
    with file.open("r+b") as handle:
        handle.truncate(20_000)
    with pytest.raises(ArtifactError, match="truncated"):
        artifact.fetch(array)
