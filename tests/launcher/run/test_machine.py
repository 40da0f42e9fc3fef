"""The checks of a config against a machine, for machines of every kind; none of them is needed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from launcher.processes.environment import gpus_are_hidden
from launcher.processes.rank_info import SINGLE_PROCESS
from launcher.run.config import RunConfig
from launcher.run.machine import GIB, Machine, check_machine, memory_warnings, precision_warnings, read_machine
from settings import UserError, compose

H100 = "NVIDIA H100 80GB HBM3"
CPU = Machine(gpus=0, gpu_bytes=0, free_bytes=64 * GIB, cpu_build=True, gpu_name="", tf32=False, nvidia_gpus=False)
GPUS = Machine(
    gpus=4, gpu_bytes=80 * GIB, free_bytes=512 * GIB, cpu_build=False, gpu_name=H100, tf32=False, nvidia_gpus=True
)


def compose_run(config: Path, *overrides: str) -> RunConfig:
    return compose(RunConfig, config, ["model.vocab_size=256", *overrides])


def warnings(run: RunConfig, machine: Machine, rank_info: Any = None) -> list[str]:
    return memory_warnings(run, run.model, machine, rank_info)


def test_lehrs_own_launcher_refuses_more_ranks_than_gpus(config: Path) -> None:
    run = compose_run(config, "parallel.tensor=2", "parallel.data=4")
    with pytest.raises(UserError, match="= 8 ranks need a GPU each, and this machine shows 4; make it at most 4"):
        check_machine(run, GPUS, None)
    check_machine(run, replace(GPUS, gpus=8), None)
    check_machine(run, CPU, None)
    # srun can show each rank its own GPU only
    check_machine(
        run, replace(GPUS, gpus=1), replace(SINGLE_PROCESS, world_size=8, local_world_size=8, launcher="srun")
    )


@pytest.mark.parametrize(
    ("machine", "overrides", "message"),
    [
        (CPU, ("train.attention=flash",), "it needs a CUDA device"),
        (GPUS, ("train.attention=flash",), "it needs train.precision = bfloat16"),
        (GPUS, ("train.attention=blocked",), "is for the CPU"),
    ],
)
def test_a_kernel_that_cannot_run_is_refused(
    config: Path, machine: Machine, overrides: tuple[str, ...], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        check_machine(compose_run(config, *overrides), machine, None)


def test_a_run_goes_to_the_cpu_only_where_no_gpu_is_or_if_the_config_says_so(config: Path) -> None:
    no_cuda, no_driver = replace(CPU, nvidia_gpus=True), replace(GPUS, gpus=0, gpu_bytes=0)
    for machine, reason in ((no_cuda, "torch is built without CUDA"), (no_driver, "torch cannot use it")):
        with pytest.raises(UserError, match=f"^train.device = auto: there is an NVIDIA GPU, but {reason}"):
            check_machine(compose_run(config), machine, None)
        check_machine(compose_run(config, "train.device=cpu"), machine, None)
    with pytest.raises(UserError, match=r"^train\.device = cuda: this process sees no GPU"):
        check_machine(compose_run(config, "train.device=cuda"), CPU, None)
    with pytest.raises(UserError, match="CUDA_VISIBLE_DEVICES to nothing"):
        check_machine(compose_run(config, "train.device=cpu"), GPUS, None)
    for device in ("auto", "cpu"):
        check_machine(compose_run(config, f"train.device={device}"), CPU, None)
    for device in ("auto", "cuda"):
        check_machine(compose_run(config, f"train.device={device}"), GPUS, None)


@pytest.mark.parametrize(("value", "hidden"), [(None, False), ("0", False), ("1,2", False), ("", True), ("-1", True)])
def test_gpus_that_the_user_hides_are_no_gpus(monkeypatch: pytest.MonkeyPatch, value: str | None, hidden: bool) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if value is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", value)
    assert gpus_are_hidden() == hidden


def test_float32_without_tf32_on_a_gpu_is_warned_of(config: Path) -> None:
    in_float32, in_bfloat16 = compose_run(config), compose_run(config, "train.precision=bfloat16")
    (warning,) = precision_warnings(in_float32, GPUS)
    assert f"at most 67 TFLOP/s, where bfloat16 has 989 ({H100})" in warning
    (warning,) = precision_warnings(in_float32, replace(GPUS, gpu_name="NVIDIA X"))
    assert "several times slower than bfloat16 (NVIDIA X)" in warning
    for run, machine in ((in_bfloat16, GPUS), (in_float32, replace(GPUS, tf32=True)), (in_float32, CPU)):
        assert precision_warnings(run, machine) == []


LARGE = (  # 6.5e9 weights, of 16 bytes each with their gradient and state: 97 GiB
    "model.num_layers=32",
    "model.hidden_size=4096",
    "model.num_heads=32",
    "model.num_kv_heads=32",
    "model.ffn_size=11008",
)


def test_what_memory_cannot_hold_is_told(config: Path) -> None:
    assert warnings(compose_run(config), CPU) == warnings(compose_run(config), GPUS) == []
    (warning,) = warnings(compose_run(config, *LARGE), CPU)
    assert "the ranks on this machine need about 9" in warning
    assert "and 64.0 are free" in warning
    (warning,) = warnings(compose_run(config, *LARGE), GPUS)
    assert "the fullest rank needs about 9" in warning
    assert "and a GPU has 80.0" in warning


def test_shared_and_offloaded_bytes_count_where_they_are_stored(config: Path) -> None:
    assert warnings(compose_run(config, *LARGE, "parallel.tensor=2"), GPUS) == []
    assert len(warnings(compose_run(config, *LARGE, "parallel.tensor=2"), CPU)) == 1  # all of it is on this machine
    two = replace(SINGLE_PROCESS, world_size=2, local_world_size=1, launcher="torchrun")
    assert warnings(compose_run(config, *LARGE, "parallel.tensor=2"), CPU, two) == []
    offloaded = compose_run(config, *LARGE, "parallel.offload=optimizer")
    assert warnings(offloaded, GPUS) == []
    (warning,) = warnings(offloaded, replace(GPUS, free_bytes=32 * GIB))
    assert "the ranks on this machine need about 4" in warning


def test_batches_are_in_main_memory(config: Path) -> None:
    many = compose_run(config, "train.global_batch_size=52428800")
    for machine in (CPU, replace(GPUS, free_bytes=64 * GIB)):
        (warning,) = warnings(many, machine)
        assert "the ranks on this machine need about" in warning
        assert "a smaller train.global_batch_size, which counts rows and not tokens, needs less" in warning


def test_this_machine_can_be_looked_at() -> None:
    machine = read_machine()
    assert machine.free_bytes > 0
    assert (machine.gpus > 0) == (machine.gpu_bytes > 0)
