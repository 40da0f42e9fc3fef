"""Machine files: those that lehr brings, and what a user is told of a mistake in one."""

from __future__ import annotations

from pathlib import Path

import pytest

from parallel.planning.machine_file import load_machine, machine_names
from settings import UserError
from train.metrics.gpu_peaks import GPU_TFLOPS

TORCH_NAMES = {
    **{"h100": "NVIDIA H100 80GB HBM3", "h200": "NVIDIA H200", "b200": "NVIDIA B200"},
    **{"a100": "NVIDIA A100-SXM4-80GB", "a100-40gb": "NVIDIA A100-SXM4-40GB"},
}


@pytest.mark.parametrize("name", machine_names())
def test_a_machine_file_has_the_peaks_that_mfu_is_measured_against(name: str) -> None:
    machine = load_machine(name)
    if machine.device == "cpu":
        assert name == "cpu"
        return
    tflops = GPU_TFLOPS[TORCH_NAMES[name]]
    assert {key: figure.value for key, figure in machine.peak_flops.items()} == {
        key: pytest.approx(value * 1e12) for key, value in tflops.items()
    }
    assert machine.between_bandwidth.value < machine.inside_bandwidth.value < machine.memory_bandwidth.value


def test_a_file_of_the_users_own(tmp_path: Path) -> None:
    text = (Path(__file__).parents[3] / "parallel/planning/machines/h100.yaml").read_text()
    path = tmp_path / "mine.yaml"
    path.write_text(text.replace("50.0e+9", "25.0e+9"))
    assert load_machine(str(path)).between_bandwidth.value == 25e9
    path.write_text(text.replace("value: 8,", ""))
    with pytest.raises(UserError, match=r"gpus_per_node.value"):
        load_machine(str(path))
    path.write_text(text.replace("  float32:", "  # float32:"))
    with pytest.raises(UserError, match=r"has a peak for bfloat16 only; add peak_flops.float32"):
        load_machine(str(path)).peak("float32")


def test_an_unknown_name_gets_the_nearest_one() -> None:
    with pytest.raises(UserError, match=r'--gpu h1000: there is no such machine file; did you mean "h100"\?'):
        load_machine("h1000")
    with pytest.raises(UserError, match=r"config no\.yaml does not exist"):
        load_machine("no.yaml")
