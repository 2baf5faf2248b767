"""The thread count: affinity, quotas of both cgroup versions and their ancestors, the user."""

from __future__ import annotations

import sys
import types
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from threadpoolctl import ThreadpoolController, threadpool_info

from leptonc.runtime import governor as governor_module
from leptonc.runtime.governor import Governor, Quota, decide, library_threads, read_quota

V2 = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
V1 = "35 25 0:31 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid shared:16 - cgroup cgroup rw,cpu,cpuacct\n"
OTHER = "36 25 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"


def tree(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def v2(root: Path, group: str, limits: dict[str, str], mounts: str = V2) -> Path:
    files = {"proc/self/cgroup": f"0::{group}\n", "proc/self/mountinfo": mounts}
    files |= {f"sys/fs/cgroup{path}/cpu.max": text for path, text in limits.items()}
    return tree(root, files)


def test_no_proc_means_no_quota(tmp_path) -> None:
    assert read_quota(tmp_path) is None
    assert Governor(root=tmp_path, affinity=lambda: 6).decision.cores == 6


def test_own_group(tmp_path) -> None:
    root = v2(tmp_path, "/app", {"/app": "250000 100000\n", "": "max 100000\n"})
    assert read_quota(root) == Quota(2.5, "/sys/fs/cgroup/app")
    assert Governor(root=root, affinity=lambda: 8).decision.cores == 2


@pytest.mark.parametrize("level", ["", "/a", "/a/b", "/a/b/c"])
def test_the_tightest_ancestor_counts(tmp_path, level: str) -> None:
    limits = {path: "max 100000" for path in ("", "/a", "/a/b", "/a/b/c")}
    limits[level] = "300000 100000"
    assert read_quota(v2(tmp_path, "/a/b/c", limits)).cores == 3.0


def test_both_a_parent_and_a_child_are_limited(tmp_path) -> None:
    root = v2(tmp_path, "/a/b", {"/a": "150000 100000", "/a/b": "400000 100000"})
    assert read_quota(root) == Quota(1.5, "/sys/fs/cgroup/a")


def test_a_container_sees_its_group_as_the_root(tmp_path) -> None:
    mounts = "30 23 0:26 /docker/abc /sys/fs/cgroup ro - cgroup2 cgroup rw\n"
    limits = {"": "200000 100000", "/inner": "100000 50000"}
    assert read_quota(v2(tmp_path, "/docker/abc", limits, mounts)).cores == 2.0
    assert read_quota(v2(tmp_path, "/docker/abc/inner", limits, mounts)).cores == 2.0
    # A path outside of what is mounted (a namespace of another kind): the mount point is used.
    assert read_quota(v2(tmp_path, "/elsewhere", limits, mounts)).cores == 2.0
    assert read_quota(v2(tmp_path, "/../x", limits)).cores == 2.0


def test_version_1(tmp_path) -> None:
    cpu = "sys/fs/cgroup/cpu,cpuacct"
    root = tree(
        tmp_path,
        {
            "proc/self/cgroup": "5:memory:/x\n4:cpu,cpuacct:/docker/abc\n0::/\n",
            "proc/self/mountinfo": OTHER + V1,
            f"{cpu}/cpu.cfs_quota_us": "-1\n",
            f"{cpu}/cpu.cfs_period_us": "100000\n",
            f"{cpu}/docker/cpu.cfs_quota_us": "120000\n",
            f"{cpu}/docker/cpu.cfs_period_us": "100000\n",
            f"{cpu}/docker/abc/cpu.cfs_quota_us": "-1\n",
            f"{cpu}/docker/abc/cpu.cfs_period_us": "100000\n",
        },
    )
    assert read_quota(root) == Quota(1.2, "/sys/fs/cgroup/cpu,cpuacct/docker")


def test_both_versions_at_once_take_the_smaller(tmp_path) -> None:
    cpu = "sys/fs/cgroup/cpu,cpuacct"
    unified = "31 23 0:27 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"
    root = tree(
        tmp_path,
        {
            "proc/self/cgroup": "4:cpu,cpuacct:/\n0::/\n",
            "proc/self/mountinfo": V1 + unified,
            f"{cpu}/cpu.cfs_quota_us": "500000\n",
            f"{cpu}/cpu.cfs_period_us": "100000\n",
            "sys/fs/cgroup/unified/cpu.max": "400000 100000",
        },
    )
    assert read_quota(root).cores == 4.0


@pytest.mark.parametrize("text", ["", "max", "max 100000", "x y", "100 0", "-1 100000", "0 100000"])
def test_odd_contents_are_no_quota(tmp_path, text: str) -> None:
    assert read_quota(v2(tmp_path, "/", {"": text})) is None


@given(st.binary(max_size=200), st.binary(max_size=200))
def test_any_proc_contents_are_survived(tmp_path_factory, groups: bytes, mounts: bytes) -> None:
    root = tmp_path_factory.mktemp("proc")
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_bytes(b"0::/a\n" + groups)
    (root / "proc/self/mountinfo").write_bytes(mounts + b"\n" + V2.encode())
    read_quota(root)


def test_spaces_in_mount_points(tmp_path) -> None:
    mounts = "30 23 0:26 / /sys/fs/my\\040group rw - cgroup2 none rw\n"
    root = v2(tmp_path, "/", {}, mounts)
    tree(root, {"sys/fs/my group/cpu.max": "100000 100000"})
    assert read_quota(root).cores == 1.0


@given(
    st.integers(1, 256),
    st.none() | st.floats(0.01, 300).map(lambda cores: Quota(cores, "somewhere")),
    st.none() | st.integers(1, 300),
)
def test_the_decision_is_the_minimum_and_at_least_one(affinity, quota, asked) -> None:
    found = decide(affinity, quota, asked)
    assert 1 <= found.cores <= affinity
    if quota is not None:
        assert found.cores <= max(1.0, quota.cores + 0.05)
    if asked is not None:
        assert found.cores <= asked
    assert any("binding" in reason for reason in found.reasons)
    assert str(found).startswith(str(found.cores))


def test_reasons_name_every_limit() -> None:
    text = str(decide(8, Quota(2.5, "/sys/fs/cgroup/app"), 4))
    assert text == (
        "2 threads: affinity allows 8; quota 2.5 cores (/sys/fs/cgroup/app) allows 2 (binding); "
        "the user asked for 4"
    )


def test_a_changed_quota_is_read_again(tmp_path) -> None:
    root = v2(tmp_path, "/", {"": "400000 100000"})
    governor = Governor(root=root, affinity=lambda: 8)
    assert governor.decision.cores == 4
    v2(tmp_path, "/", {"": "100000 100000"})
    assert governor.decision.cores == 4
    assert governor.refresh(older_than_s=3600).cores == 4
    assert governor.refresh().cores == governor.decision.cores == 1


def test_the_environment_is_the_users_number(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("LEPTONC_NUM_THREADS", "3")
    assert Governor(root=tmp_path, affinity=lambda: 8).decision.cores == 3
    assert Governor(threads=2, root=tmp_path, affinity=lambda: 8).decision.cores == 2


def blas_threads() -> set[int]:
    return {lib["num_threads"] for lib in threadpool_info() if lib["user_api"] == "blas"}


def test_libraries_are_limited_and_restored() -> None:
    before = torch.get_num_threads(), blas_threads()
    with library_threads(1):
        assert torch.get_num_threads() == 1
        assert blas_threads() <= {1}
        with library_threads(1):
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 1
    assert (torch.get_num_threads(), blas_threads()) == before


def test_a_library_that_came_later_is_limited_too(monkeypatch) -> None:
    found = []
    made = lambda: found.append(1) or ThreadpoolController()  # noqa: E731
    monkeypatch.setattr(governor_module, "ThreadpoolController", made)
    governor_module._controller.cache_clear()
    with library_threads(1):
        pass
    monkeypatch.setitem(sys.modules, "a_module_with_a_library", types.ModuleType("late"))
    with library_threads(1):
        pass
    with library_threads(1):
        pass
    assert len(found) == 2


def test_libraries_are_restored_after_an_error() -> None:
    before = torch.get_num_threads()
    with pytest.raises(KeyError), library_threads(1):
        raise KeyError
    assert torch.get_num_threads() == before
