"""`make gpu`: its record, its page, its limits; and every phase in its small form on a CPU."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from gpu.__main__ import measure
from gpu.context import ROOT, Context, Row, read_record
from gpu.lehr_runs import mfu, speed_of
from gpu.models import model_of
from gpu.optimizers import train_step_ratios
from gpu.parity import difference
from gpu.phases import CORE, MORE, chosen_phases
from gpu.processes import TIME_LIMIT, run, start, wait
from gpu.report import latest, page, summary
from gpu.sizes import SEQ_LENGTH, SIZES
from gpu.step_profile import ON_GPU, profile_of
from gpu.wheels import PACKAGES, SOURCES, requirements
from small_runs import wait_until

from model.size import flops_per_token, parameters

ORIGIN = {"date": "2026-11-27", "card": "NVIDIA H200", "torch": "2.13.0", "revision": "abc"}


def context_in(folder: Path) -> Context:
    return Context(folder / "record.jsonl", folder, folder / "shards", tiny=True, origin=ORIGIN)


def test_phases_come_by_worth_and_core_is_all_of_them_but_the_long_ones() -> None:
    assert chosen_phases(["core"]) == list(CORE)
    assert [phase.name for phase in chosen_phases(["faults", "parity"])] == ["parity", "faults"]
    assert chosen_phases(["core", MORE[0].name]) == [*CORE, MORE[0]]
    with pytest.raises(ValueError, match="there is no phase speed; phases are core, environment, "):
        chosen_phases(["speed"])
    modules = {phase.module for phase in (*CORE, *MORE)}
    assert all((ROOT / f"benchmarks/gpu/{module}.py").exists() for module in modules)


def test_the_record_keeps_every_complete_line(tmp_path: Path) -> None:
    context = context_in(tmp_path)
    assert read_record(context.record) == []
    context.append("parity", {"case": "float32", "equal": True})
    context.append("parity", {"case": "bfloat16", "equal": False})
    with context.record.open("a") as file:
        file.write('{"phase": "faults", "ca')
    assert read_record(context.record) == [
        {**ORIGIN, "phase": "parity", "case": "float32", "equal": True},
        {**ORIGIN, "phase": "parity", "case": "bfloat16", "equal": False},
    ]
    assert Context.from_json(context.to_json()) == context


def test_a_phase_that_was_measured_again_counts_once() -> None:
    rows = [{"phase": "faults", "case": "nan", "code": code} for code in (1, 0)]
    assert latest(rows) == [rows[1]]


def test_a_process_beyond_its_limit_is_killed_with_its_children(tmp_path: Path) -> None:
    log = tmp_path / "log"
    process = start(["sh", "-c", "sleep 600 & echo $!; wait"], log, new_group=True)
    wait_until(lambda: log.read_text().endswith("\n"))
    assert wait(process, 0.1) == TIME_LIMIT
    child = Path(f"/proc/{log.read_text().strip()}/stat")
    wait_until(lambda: not child.exists() or ") Z " in child.read_text())
    ended = run(["sh", "-c", "echo said; exit 3"], log, 60.0)
    assert (ended.code, ended.tail()) == (3, "said\n")


def test_the_profile_counts_overlapping_kernels_once() -> None:
    def event(name: str, start: int, dur: int, cat: str = "kernel") -> Row:
        return {"ph": "X", "cat": cat, "name": name, "ts": start, "dur": dur}

    copy = event("Memcpy DtoH", 2000, 4000, "gpu_memcpy")
    events = [event("a", 0, 4000), copy, event("a", 8000, 2000), event("forward", 0, 9000, "cpu_op")]
    assert profile_of(events, ON_GPU) == {
        "kernels": 3,
        "host_reads": 1,
        "busy_ms": 8.0,
        "idle_percent": 20.0,
        "longest": [["a", 6.0, 2], ["Memcpy DtoH", 4.0, 1]],
    }
    assert profile_of(events[3:], ON_GPU) == {"kernels": 0}


def test_a_training_step_differs_by_its_optimizer_alone() -> None:
    ratios = train_step_ratios({"adamw": 2.0, "muon": 12.0, "conda": 20.0}, step_ms=200.0, refresh_ms=5.0)
    assert [row["train_step_ratio"] for row in ratios] == [1.0, 1.05, 1.115]


def test_the_speed_leaves_out_warm_up_and_the_profiled_step() -> None:
    seconds = [9.0, 1.0, 2.0, 50.0, 2.0]
    steps = [
        {"step": n, "seconds_per_step": s, "tokens_per_second": 100 / s, "memory_bytes": n * 2**30, "loss": 1.0}
        for n, s in enumerate(seconds, 1)
    ]
    found = speed_of(steps, warm=2, without=4)
    assert (found["tokens_per_second"], found["step_seconds"], found["first_step_seconds"]) == (50, 2.0, 9.0)
    assert found["memory_gib"] == 5.0


def test_losses_are_compared_only_if_both_runs_have_them() -> None:
    assert difference({"losses": [1.0, 2.0]}, {"losses": [1.0, 2.5]}) == {
        "largest_difference": 0.5,
        "equal": False,
        "loss": 2.0,
    }
    assert difference(None, {"losses": [1.0]}) == {"outcome": "not reached"}
    assert difference({"losses": [1.0]}, {"outcome": "KeyError"}) == {"outcome": "KeyError"}


def test_sizes_and_goals_are_those_of_the_page() -> None:
    found = {
        name: (
            round(parameters(model_of(size), seq_length=SEQ_LENGTH) / 1e6),
            mfu(size.goal, flops_per_token(model_of(size), SEQ_LENGTH)),
        )
        for name, size in SIZES.items()
    }
    assert found == {"160M": (124, 39.8), "410M": (360, 45.0), "1.3B": (1336, 52.3)}
    text = (ROOT / "docs/gpu.md").read_text()
    for name, size in SIZES.items():
        shape = f"{name} ({size.num_layers} x {size.hidden_size})"
        assert f"| {shape} | {size.goal:,} | {found[name][1]}% |" in text
    for phase in (*CORE, *MORE):
        assert f"`{phase.name}`" in text


def test_the_page_has_goals_tables_and_failures() -> None:
    rows: list[Row] = [
        {**ORIGIN, "phase": "speed-160M", "case": "160M compiled", "tokens_per_second": 230_000, "goal": 460_000},
        {**ORIGIN, "phase": "transformers-160M", "case": "160M transformers", "tokens_per_second": 200_000},
        {**ORIGIN, "phase": "faults", "case": "hang", "as_expected": False, "code": 0, "output": "went on"},
        {**ORIGIN, "phase": "kernels", "case": "end", "outcome": "time limit", "seconds": 60.0},
        {**ORIGIN, "date": "2026-12-01", "phase": "parity", "case": "float32", "equal": True},
    ]
    text = page(rows)
    assert text.index("## NVIDIA H200, 2026-12-01") < text.index("## NVIDIA H200, 2026-11-27")
    assert "| 160M compiled | 230,000 | 460,000 | 0.50 | 1.15 x |" in text
    assert "- faults, hang: not as expected, code 0: `went on`" in text
    assert "- kernels, end: time limit" in text
    assert summary(rows, {**ORIGIN, "date": "2026-12-01"})[-1] == "nothing has failed"


def test_the_page_is_that_of_the_record() -> None:
    record = ROOT / "benchmarks/gpu.jsonl"
    assert record.with_suffix(".md").read_text() == page(read_record(record))


def test_wheels_have_the_versions_of_the_constraints() -> None:
    wanted = requirements((*PACKAGES, *SOURCES), (ROOT / "constraints.txt").read_text())
    assert {"deepspeed==0.19.8", "megatron-core==0.16.1", "pydantic_core==2.50.4"} <= set(wanted)
    assert len(wanted) == len(PACKAGES) + len(SOURCES)


def gpu_command(*words: object, timeout: float = 120.0) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": "benchmarks", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "gpu", *map(str, words)]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=timeout)


@pytest.mark.slow
def test_without_a_gpu_the_command_says_so(tmp_path: Path) -> None:
    refused = gpu_command("environment", "--record", tmp_path / "record.jsonl")
    assert refused.returncode == 1
    assert refused.stderr == "error: torch finds no GPU here; --tiny runs every phase in small shapes on the CPU\n"


def test_the_command_needs_nothing_of_lehr_before_the_wheels_are_unpacked() -> None:
    code = "import sys, gpu.__main__; print({'torch', 'pydantic', 'model', 'settings'} & set(sys.modules))"
    environment = {**os.environ, "PYTHONPATH": "benchmarks"}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.stdout == "set()\n", done.stderr


def test_phases_for_which_no_time_is_left_are_recorded(tmp_path: Path) -> None:
    context = context_in(tmp_path)
    measure(context, CORE, seconds=1)
    rows = read_record(context.record)
    assert [row["phase"] for row in rows] == [phase.name for phase in CORE]
    assert {row["outcome"] for row in rows} == {"left out: the time is over"}
    assert "- tests, end: left out: the time is over" in page(rows)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_phase_runs_in_its_small_form(tmp_path: Path) -> None:
    # In the small form all sizes are one model. Half of the phases run beside the other half.
    names = [phase.name for phase in CORE if phase.name not in ("speed-410M", "speed-1.3B", "documents-160M")]

    def measure_half(half: int) -> list[Row]:
        record = tmp_path / f"{half}.jsonl"
        options = ("--record", record, "--scratch", tmp_path, "--seconds", 800)
        done = gpu_command("--tiny", *names[half::2], *options, timeout=850)
        assert done.returncode == 0, done.stderr
        assert record.with_suffix(".md").read_text().count("###") >= 4
        return read_record(record)

    with ThreadPoolExecutor(2) as pool:
        rows = [row for half in pool.map(measure_half, (0, 1)) for row in half]
    assert {row["phase"] for row in rows} == set(names)
    assert [row for row in rows if row.get("outcome", "done") != "done" or row.get("as_expected") is False] == []

    compared = [row["equal"] for row in rows if "equal" in row]
    assert len(compared) > 14
    assert all(compared)
    errors = {row["case"]: (row["error"], row["plain_error"]) for row in rows if "plain_error" in row}
    assert len(errors) == 8
    assert all(error <= 2 * plain for error, plain in errors.values()), errors
    (speed,) = (row for row in rows if row["phase"] == "speed-160M" and row["case"] != "end")
    assert speed["tokens_per_second"] > 0
    assert speed["profile"]["kernels"] > 100
