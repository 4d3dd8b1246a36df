"""What a process may use of its machine, in a container and without one."""

import psutil
import pytest
from container import enter_container

from videollava_cli.machine import free_memory, num_processors, total_memory

MIB = 1 << 20


@pytest.mark.parametrize("version", [1, 2])
def test_container_has_the_memory_it_is_given_less_what_it_uses(tmp_path, monkeypatch, version):
    enter_container(tmp_path, monkeypatch, limit=80 * MIB, used=30 * MIB, version=version)

    assert (total_memory(), free_memory()) == (80 * MIB, 50 * MIB)


@pytest.mark.parametrize("version", [1, 2])
def test_page_cache_of_files_that_were_read_counts_as_free(tmp_path, monkeypatch, version):
    enter_container(tmp_path, monkeypatch, limit=80 * MIB, used=79 * MIB, page_cache=60 * MIB, version=version)

    assert free_memory() == 61 * MIB


def test_container_over_its_limit_has_nothing_free(tmp_path, monkeypatch):
    enter_container(tmp_path, monkeypatch, limit=80 * MIB, used=81 * MIB)

    assert free_memory() == 0


@pytest.mark.parametrize("version", [1, 2])
def test_without_limits_memory_is_the_machines(tmp_path, monkeypatch, version):
    enter_container(tmp_path, monkeypatch, version=version)

    system = psutil.virtual_memory()
    monkeypatch.setattr(psutil, "virtual_memory", lambda: system)

    assert (total_memory(), free_memory()) == (system.total, system.available)


def test_limit_above_the_machines_memory_adds_none(tmp_path, monkeypatch):
    enter_container(tmp_path, monkeypatch, limit=1 << 60)

    assert total_memory() == psutil.virtual_memory().total


@pytest.mark.parametrize(("quota", "expected"), [(0.5, 1), (1, 1), (100_000, None), (None, None)])
def test_processors_are_those_of_the_affinity_within_the_quota(tmp_path, monkeypatch, quota, expected):
    enter_container(tmp_path, monkeypatch, quota=quota)

    assert num_processors() == (expected or len(psutil.Process().cpu_affinity()))


def test_system_without_control_groups_has_no_limits(tmp_path, monkeypatch):
    monkeypatch.setattr("videollava_cli.machine.ROOT", tmp_path / "nothing")

    assert total_memory() == psutil.virtual_memory().total
