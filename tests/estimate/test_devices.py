"""Accelerators by name, as a person and as a driver writes it."""

import pytest

from finetune.errors import UserError
from finetune.estimate import devices


def test_a_device_is_found_however_it_is_written():
    assert devices.find("A100-80GB").name == "a100_80gb"
    assert devices.find("rtx4090").memory < 24 * 2**30
    assert not devices.find("t4").bf16


def test_a_misspelt_device_is_refused_with_the_nearest():
    with pytest.raises(UserError, match=r"plan.device=h20O is not known.*Did you mean h200"):
        devices.find("h20O")


@pytest.mark.parametrize(
    ("title", "gib", "name"),
    [("NVIDIA A100-SXM4-80GB", 79.2, "a100_80gb"), ("NVIDIA A100-PCIE-40GB", 39.4, "a100_40gb"),
     ("NVIDIA H100 80GB HBM3", 79.1, "h100"), ("NVIDIA H100 PCIe", 79.1, "h100_pcie"), ("NVIDIA L4", 22.0, "l4"),
     ("NVIDIA L40S", 44.4, "l40s"), ("Tesla V100-SXM2-32GB", 31.7, "v100_32gb"), ("NVIDIA A10G", 22.0, "a10g"),
     ("NVIDIA GeForce RTX 4090", 23.6, "rtx4090"), ("NVIDIA RTX 6000 Ada Generation", 47.4, "rtx6000_ada"),
     ("AMD Instinct MI300X", 191.5, "mi300x")],
)  # fmt: skip
def test_what_the_driver_calls_a_card_is_its_row(title, gib, name):
    assert devices._by_title(title, int(gib * 2**30)).name == name


@pytest.mark.parametrize("title", ["NVIDIA GeForce GTX 1080", "NVIDIA GeForce RTX 4090 Laptop GPU"])
def test_a_card_that_is_not_in_the_table_has_no_speed(title):
    assert devices._by_title(title, 2**33) is None


def test_every_row_has_a_source_and_a_name_of_its_own():
    assert len(set(devices.names())) == len(devices.DEVICES)
    assert all(device.source.startswith("https://") for device in devices.DEVICES)


@pytest.mark.parametrize(
    ("groups", "limits"),
    [
        ("0::/job/step\n", {"job/step/memory.max": "max\n", "job/memory.max": "4096\n"}),
        ("2:cpu:/job\n1:memory:/job\n", {"memory/job/memory.limit_in_bytes": "4096\n", "cpu/job/memory.max": "1\n"}),
        ("1:memory:/of/the/host\n", {"memory/memory.limit_in_bytes": "4096\n"}),
    ],
    ids=["above", "version 1", "a container"],
)
def test_a_process_has_no_more_memory_than_its_control_groups_leave_it(groups, limits, tmp_path, monkeypatch):
    monkeypatch.setattr(devices, "OWN_GROUPS", tmp_path / "own")
    monkeypatch.setattr(devices, "GROUPS", tmp_path / "groups")
    whole = devices.host()
    assert whole > 2**28
    (tmp_path / "own").write_text(groups)
    for name, limit in limits.items():
        (tmp_path / "groups" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "groups" / name).write_text(limit)
    assert devices.host() == 4096
