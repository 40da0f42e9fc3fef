"""A build through Slurm's executor, with stand-ins for Slurm's commands that run each job where it is submitted."""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Any

import pytest
from made_text import hashes, write_jsonl

from data.config import DataConfig
from data.pipeline.build import build
from data.pipeline.progress import StoppedError
from settings import UserError

# A job's array elements run one after the other before sbatch answers, so what it depends on is always done.
SBATCH = r"""#!/bin/bash
echo "sbatch $*" >> "$SLURM_STAND_IN/calls"
script="${@: -1}"
number=$(( $(cat "$SLURM_STAND_IN/last" 2>/dev/null || echo 100) + 1 ))
echo "$number" > "$SLURM_STAND_IN/last"
cp "$script" "$SLURM_STAND_IN/$number.sh"
if [ -e "$SLURM_STAND_IN/hold" ]; then
    touch "$SLURM_STAND_IN/waiting-$number"
elif ! grep -q merge_stats "$script"; then
    last=$(sed -n 's/^#SBATCH --array=0-\([0-9]*\).*/\1/p' "$script")
    for element in $(seq 0 "$last"); do
        RUN_OFFSET=0 SLURM_ARRAY_TASK_ID=$element SLURM_JOB_ID=$number SLURM_NODELIST=localhost \
            bash "$script" >> "$SLURM_STAND_IN/output" 2>&1
    done
fi
echo "Submitted batch job $number"
"""
SRUN = r"""#!/bin/bash
while [[ "$1" == -* ]]; do
    [ "$1" == -n ] && shift
    shift
done
exec "$@"
"""
SQUEUE = '#!/bin/bash\nfor job in "$SLURM_STAND_IN"/waiting-*; do [ -e "$job" ] && echo "${job##*-}"; done; exit 0\n'
SCONTROL = "#!/bin/bash\necho localhost\n"


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in which the stand-ins record their calls."""
    folder = tmp_path / "slurm"
    folder.mkdir()
    for name, script in {"sbatch": SBATCH, "srun": SRUN, "squeue": SQUEUE, "scontrol": SCONTROL}.items():
        (folder / name).write_text(script)
        (folder / name).chmod(0o755)
    monkeypatch.setenv("SLURM_STAND_IN", str(folder))
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return folder


def make_config(folder: Path, shards: str, **more: Any) -> DataConfig:
    path = folder / "made.jsonl"
    if not path.exists():
        words = ["the", "kiln", "and", "that", "fire", "glass", "night"]
        texts = [" ".join(random.Random(seed).choices(words, k=100)) for seed in range(60)]
        write_jsonl(path, texts)
    plain: dict[str, Any] = {
        "shards": str(folder / shards),
        "tokenizer": {"vocab_size": 280},
        "task_bytes": 20_000,
        "sources": {"made": {"name": "jsonl", "paths": [str(path)]}},
        "slurm": {"partition": "cpu", "poll_seconds": 0.2, "sbatch": {"account": "glass"}},
    }
    return DataConfig.model_validate({**plain, **more})


@pytest.mark.slow
def test_the_same_bytes_as_on_this_machine(slurm: Path, tmp_path: Path) -> None:
    build(make_config(tmp_path, "slurm_shards", executor="slurm"))
    build(make_config(tmp_path, "here", executor="local"))
    assert hashes(tmp_path / "slurm_shards") == hashes(tmp_path / "here")
    calls = (slurm / "calls").read_text().splitlines()
    stages = [call for call in calls if "--export" in call]
    assert len(stages) == 6
    assert all("--dependency=afterok:" in call for call in stages[1:])
    script = (slurm / "101.sh").read_text()
    for line in ("--partition=cpu", "--account=glass", "--job-name=lehr-data-documents", "--array=0-1"):
        assert f"#SBATCH {line}" in script
    assert build(make_config(tmp_path, "slurm_shards", executor="slurm")).already_built


@pytest.mark.slow
def test_a_mistake_in_the_input_is_reported_by_the_build(slurm: Path, tmp_path: Path) -> None:
    config = make_config(tmp_path, "shards", executor="slurm", on_bad_document="fail")
    with (tmp_path / "made.jsonl").open("a") as file:
        file.write("no json\n")
    with pytest.raises(UserError, match=r"broken_json at .*made\.jsonl"):
        build(config)
    assert not (tmp_path / "shards").exists()


def test_jobs_that_wait_are_not_submitted_again(slurm: Path, tmp_path: Path) -> None:
    (slurm / "hold").touch()
    config = make_config(tmp_path, "shards", executor="slurm")
    for _ in range(2):
        with pytest.raises(StoppedError):
            build(config, stop=lambda: True)
    submitted = [call for call in (slurm / "calls").read_text().splitlines() if "--export" in call]
    assert len(submitted) == 6


def test_jobs_that_ended_without_their_tasks_are_a_failure(slurm: Path, tmp_path: Path) -> None:
    (slurm / "hold").touch()
    config = make_config(tmp_path, "shards", executor="slurm")
    with pytest.raises(StoppedError):
        build(config, stop=lambda: True)
    for waiting in slurm.glob("waiting-*"):
        waiting.unlink()  # cancelled by hand: they are submitted again, and cancelled again
    polls = 0

    def cancel() -> bool:
        nonlocal polls
        polls += 1
        for waiting in slurm.glob("waiting-*"):
            waiting.unlink()
        return polls > 200

    with pytest.raises(RuntimeError, match="of stage documents ended without an error message"):
        build(config, stop=cancel)


def test_a_partition_is_required(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"data\.slurm\.partition is needed"):
        build(make_config(tmp_path, "shards", executor="slurm", slurm={}))


def test_a_machine_without_slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="sbatch failed"):
        build(make_config(tmp_path, "shards", executor="slurm"))
