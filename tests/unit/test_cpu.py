"""The number of usable cores follows affinity and CPU quotas, with any control-group layout."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tidegate.service.cpu import quota_cores, usable_cores, whole_cores

V2 = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
V1 = (
    "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755\n"
    "32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"
    "33 31 0:30 / /sys/fs/cgroup/cpuset rw - cgroup cgroup rw,cpuset\n"
)
UNIT = "system.slice/tidegate.service"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "root"


def limit_v2(root: Path, group: str, text: str) -> None:
    folder = root / "sys/fs/cgroup" / group
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "cpu.max").write_text(text)


def limit_v1(root: Path, group: str, quota: str, period: str = "100000") -> None:
    folder = root / "sys/fs/cgroup/cpu,cpuacct" / group
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "cpu.cfs_quota_us").write_text(f"{quota}\n")
    (folder / "cpu.cfs_period_us").write_text(f"{period}\n")


def test_usable_cores_is_what_this_process_may_use() -> None:
    assert 1 <= usable_cores() <= (os.cpu_count() or 1)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no affinity here")
def test_usable_cores_follows_the_affinity() -> None:
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})

        assert usable_cores() == 1
    finally:
        os.sched_setaffinity(0, before)


class TestVersion2:
    def test_a_containers_own_quota_is_read(self, root: Path) -> None:
        limit_v2(root, "", "200000 100000\n")

        assert quota_cores(root, "0::/\n", V2) == 2.0

    def test_a_systemd_units_quota_is_read(self, root: Path) -> None:
        """`CPUQuota=150%` writes the unit's group, and the root of the mount has no file."""
        limit_v2(root, UNIT, "150000 100000\n")

        assert quota_cores(root, f"0::/{UNIT}\n", V2) == 1.5

    @pytest.mark.parametrize(
        ("slice_max", "unit_max", "cores"),
        [
            ("100000 100000", "max 100000", 1.0),
            ("max 100000", "300000 100000", 3.0),
            ("400000 100000", "300000 100000", 3.0),
            ("50000 100000", "300000 100000", 0.5),
        ],
    )
    def test_the_smallest_quota_on_the_way_up_counts(
        self, root: Path, slice_max: str, unit_max: str, cores: float
    ) -> None:
        limit_v2(root, "system.slice", slice_max)
        limit_v2(root, UNIT, unit_max)

        assert quota_cores(root, f"0::/{UNIT}\n", V2) == cores

    def test_the_quota_of_a_sibling_group_is_ignored(self, root: Path) -> None:
        limit_v2(root, "system.slice/other.service", "100000 100000")
        limit_v2(root, UNIT, "max 100000")

        assert quota_cores(root, f"0::/{UNIT}\n", V2) is None

    @pytest.mark.parametrize("path", ["/docker/abc", "/../../docker/abc", "/docker/abc/below"])
    def test_a_path_of_the_host_is_the_root_of_the_mount(self, root: Path, path: str) -> None:
        """A container without a namespace for groups mounts its own group as the root."""
        limit_v2(root, "", "100000 100000")
        mounted = V2.replace(" / /sys", " /docker/abc /sys")

        assert quota_cores(root, f"0::{path}\n", mounted) == 1.0

    def test_a_mount_point_with_a_space_is_found(self, root: Path) -> None:
        (root / "c groups").mkdir(parents=True)
        (root / "c groups/cpu.max").write_text("100000 100000")

        assert quota_cores(root, "0::/\n", V2.replace("/sys/fs/cgroup", r"/c\040groups")) == 1.0

    @pytest.mark.parametrize(
        "text",
        ["max 100000", "", "0 100000", "1 0", "-1 100000", "many few", "9" * 400 + " 1", "\xff"],
    )
    def test_an_invalid_quota_is_ignored(self, root: Path, text: str) -> None:
        limit_v2(root, "", text)

        assert quota_cores(root, "0::/\n", V2) is None


class TestVersion1:
    def test_a_containers_own_quota_is_read(self, root: Path) -> None:
        limit_v1(root, "", "250000")

        assert quota_cores(root, "4:cpu,cpuacct:/\n3:cpuset:/\n", V1) == 2.5

    def test_the_period_may_differ_from_the_default(self, root: Path) -> None:
        limit_v1(root, "", "50000", "20000")

        assert quota_cores(root, "4:cpu,cpuacct:/\n", V1) == 2.5

    def test_the_smallest_quota_on_the_way_up_counts(self, root: Path) -> None:
        limit_v1(root, "", "-1")
        limit_v1(root, "system.slice", "100000")
        limit_v1(root, UNIT, "300000")

        assert quota_cores(root, f"4:cpu,cpuacct:/{UNIT}\n", V1) == 1.0

    def test_dockers_own_group_is_found_under_the_hosts_path(self, root: Path) -> None:
        limit_v1(root, "", "200000")
        mounted = V1.replace(" / /sys/fs/cgroup/cpu,", " /docker/abc /sys/fs/cgroup/cpu,")

        assert quota_cores(root, "4:cpu,cpuacct:/docker/abc\n", mounted) == 2.0

    def test_no_quota_is_none(self, root: Path) -> None:
        limit_v1(root, "", "-1")

        assert quota_cores(root, "4:cpu,cpuacct:/\n", V1) is None


def test_if_both_versions_are_mounted_the_one_with_a_quota_is_used(root: Path) -> None:
    unified = V2.replace("/sys/fs/cgroup", "/sys/fs/cgroup/unified")
    limit_v1(root, UNIT, "100000")

    assert quota_cores(root, f"4:cpuacct,cpu:/{UNIT}\n0::/{UNIT}\n", V1 + unified) == 1.0


@pytest.mark.parametrize("cgroup", ["", "0::", "nonsense\n\n:::", "0::/\n", "1:name=systemd:/x\n"])
@pytest.mark.parametrize(
    "mountinfo", ["", V2, "a b c\n - \n", "1 2 3 / relative rw - cgroup2 c rw"]
)
def test_missing_and_malformed_files_set_no_quota(root: Path, cgroup: str, mountinfo: str) -> None:
    assert quota_cores(root, cgroup, mountinfo) is None


@pytest.mark.parametrize(
    ("quota", "cores"),
    [(None, 8), (0.1, 1), (1.0, 1), (1.4, 1), (1.5, 2), (2.5, 3), (2.4, 2), (64.0, 8)],
)
def test_a_quota_is_rounded_to_the_nearest_number_of_cores(quota: float | None, cores: int) -> None:
    assert whole_cores(8, quota) == cores
