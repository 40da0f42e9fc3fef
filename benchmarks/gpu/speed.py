"""Training speed and memory of one size through `lehr train`, compiled and eager, with a profile of one step each."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator

from gpu.context import Context, Row
from gpu.lehr_runs import mfu, overrides, read_steps, speed_of, train_command, write_config
from gpu.processes import kill, start
from gpu.step_profile import ON_GPU, read_profile
from launcher.run.config import load_run_config
from launcher.run.estimate import estimate_step
from launcher.run.preflight import model_with_vocabulary
from train.run_folder.start_record import recorded_choices

_WARM_STEPS = 4


def measure(context: Context, size_name: str, masks: str = "") -> Iterator[Row]:
    """Yields a row for each way to compute; with `documents` as `masks`, only the compiled one, with document masks.

    The tiny form is eager, since a CPU compiles for half a minute.
    """
    size = context.size(size_name)
    config = write_config(context, size)
    ways = (False,) if context.tiny else (True,) if masks else (True, False)
    for number, compiled in enumerate(ways):
        name = f"{size_name} {'compiled' if compiled else 'eager'}{' ' if masks else ''}{masks}"
        steps = 8 if context.tiny else 14
        profiled = steps - 1
        values = {
            "train.compile": "auto" if compiled else False,
            "train.steps": steps + 1,  # the run is killed before it saves
            "data.document_masking": bool(masks),
            "train.profile": {"first_step": profiled, "steps": 1},
        }
        folder = context.folder / "runs" / name.replace(" ", "-")
        log = context.folder / f"{folder.name}.log"
        end = time.monotonic() + context.seconds_left / (len(ways) - number)
        process = start(train_command(config, folder.name, values), log)
        while len(read_steps(folder)) < steps and process.poll() is None and time.monotonic() < end:
            time.sleep(0.1)
        kill(process)
        found = read_steps(folder)[:steps]
        if len(found) < steps:
            output = log.read_text(errors="replace")[-600:]
            yield {"case": name, "outcome": f"{len(found)} of {steps} steps in its time", "output": output}
            continue
        run_config = load_run_config(config, overrides(values))
        estimate = estimate_step(run_config, model_with_vocabulary(run_config), world_size=1)
        speed = speed_of(found, warm=_WARM_STEPS, without=profiled)
        yield {
            "case": name,
            **speed,
            "mfu": mfu(speed["tokens_per_second"], estimate.flops / estimate.tokens),
            **recorded_choices(folder),
            "estimated_gib": round(estimate.rank.total / 2**30, 2),
            **({"goal": size.goal} if compiled and size.goal and not masks else {}),
            "profile": read_profile(folder, ("cpu_op",) if context.tiny else ON_GPU),
        }
        shutil.rmtree(folder, ignore_errors=True)  # the rank may still be ending
