"""The peaks that MFU is measured against: GPUs by exact names, the CPU as measured and kept."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from train.metrics.cpu_peak import FILE_NAME, find_cpu_peak
from train.metrics.gpu_peaks import GPU_TFLOPS
from train.metrics.hardware import find_peak, gpu_peak

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("name", "tflops"),
    [("NVIDIA A100-SXM4-80GB", 312.0), ("NVIDIA H100 80GB HBM3", 989.4), ("NVIDIA H100 PCIe", 756.0)],
)
def test_a_known_gpu_has_the_peak_of_its_data_sheet(name: str, tflops: float) -> None:
    assert gpu_peak(name, "bfloat16").flops == tflops * 1e12
    float32 = gpu_peak(name, "float32").flops
    assert float32 is not None
    assert float32 < tflops * 1e12 / 10


@pytest.mark.parametrize(
    "name",
    [
        "NVIDIA RTX A1000",
        "NVIDIA A100-SXM4-80GB MIG 1g.10gb",
        "NVIDIA GeForce RTX 4090 Laptop GPU",
        "NVIDIA GeForce RTX 4090 D",
        "NVIDIA H100",
        "",
    ],
)
def test_another_gpu_whose_name_contains_a_known_one_has_no_peak(name: str) -> None:
    peak = gpu_peak(name, "bfloat16")
    assert peak.flops is None
    assert f'"{name}" in bfloat16 is not in the table' in peak.origin


def test_the_table_has_both_precisions_in_tflops() -> None:
    for name, tflops in GPU_TFLOPS.items():
        assert set(tflops) == {"bfloat16", "float32"}, name
        assert 10 <= tflops["float32"] < tflops["bfloat16"] < 10_000, name


def test_the_cpus_peak_is_measured_once_for_each_precision(tmp_path: Path) -> None:
    folder = tmp_path / "cache" / "lehr"
    first = find_peak(CPU, "float32", folder)
    assert first.flops is not None
    assert 1e9 < first.flops < 1e13
    assert f"kept in {folder / FILE_NAME}" in first.origin
    (key, entry), *others = json.loads((folder / FILE_NAME).read_text()).items()
    assert not others
    assert entry["flops"] == first.flops
    assert f"{torch.get_num_threads()} threads, torch {torch.__version__}, float32" in key
    # No measurement would give this number.
    (folder / FILE_NAME).write_text(json.dumps({key: {**entry, "flops": 12345.0}}))
    assert find_peak(CPU, "float32", folder).flops == 12345.0
    assert find_peak(CPU, "bfloat16", folder).flops != 12345.0
    assert find_peak(CPU, "float32", folder).flops == 12345.0
    assert [path.name for path in folder.iterdir()] == [FILE_NAME]


@pytest.mark.parametrize("text", ["", "[1]", '{"KEY": 3}', '{"KEY": {"flops": NaN}}', '{"KEY": {"flops": "x"}}'])
def test_a_damaged_file_and_a_folder_that_cannot_be_written_only_cost_a_measurement(tmp_path: Path, text: str) -> None:
    find_cpu_peak("float32", tmp_path)
    key = next(iter(json.loads((tmp_path / FILE_NAME).read_text())))
    (tmp_path / FILE_NAME).write_text(text.replace("KEY", key))
    assert find_cpu_peak("float32", tmp_path).flops > 1e9
    assert json.loads((tmp_path / FILE_NAME).read_text())[key]["flops"] > 1e9
    assert find_cpu_peak("float32", tmp_path / FILE_NAME / "no-folder").flops > 1e9


def test_an_estimate_is_replaced_by_a_measurement(tmp_path: Path) -> None:
    """One thread can always be measured."""
    find_cpu_peak("float32", tmp_path)
    file = json.loads((tmp_path / FILE_NAME).read_text())
    (key,) = file
    (tmp_path / FILE_NAME).write_text(json.dumps({key: {"flops": 12345.0, "estimated": True}}))
    assert torch.get_num_threads() == 1
    assert find_cpu_peak("float32", tmp_path).flops > 1e9
    assert json.loads((tmp_path / FILE_NAME).read_text())[key]["estimated"] is False
