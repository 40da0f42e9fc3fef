"""The held-out sequences of a run, and warnings about what its held-out losses cannot say."""

from __future__ import annotations

from data.batches.held_out import HeldOutLoader
from launcher.run.config import RunConfig
from launcher.run.stages import training_data
from settings.differences import differing, listed, show
from train.checkpoint.discovery import state_to_go_on_from
from train.held_out_loss import are_comparable
from train.run_folder.folder import RunFolder

_MOST_DIFFERENCES = 8


def held_out_loader(config: RunConfig, *, max_windows: int | None = None) -> HeldOutLoader:
    """Opens the held-out sequences: `max_windows` of each source, or evaluate.max_windows. Raises UserError."""
    most = config.evaluate.max_windows if max_windows is None else max_windows
    return HeldOutLoader(training_data(config), seq_length=config.train.seq_length, max_sequences=most)


def held_out_warnings(config: RunConfig) -> list[str]:
    """Returns warnings before a start, a line each: sources without a held-out loss, and losses that do not compare."""
    held_out = held_out_loader(config)
    warnings = uncounted_warnings(held_out)
    if not held_out.sources and config.checkpoint.keep_best:
        warnings.append(
            f"checkpoint.keep_best = {config.checkpoint.keep_best} keeps no checkpoint: there is no held-out loss"
        )
    return [*warnings, *_change_warnings(config, held_out)]


def uncounted_warnings(held_out: HeldOutLoader) -> list[str]:
    """Returns a warning for each source whose held-out tokens the loss mask all leaves out, and one if none is left."""
    warnings = [
        f'source "{name}" has no held-out loss: the loss mask leaves out every token of its first '
        f"{held_out.num_sequences(name)} held-out sequences"
        for name in held_out.uncounted_sources
    ]
    if warnings and not held_out.sources:
        warnings.append("no held-out loss is measured: no source is left")
    return warnings


def _change_warnings(config: RunConfig, held_out: HeldOutLoader) -> list[str]:
    """Returns a warning if the run has measured held-out losses on other sequences than it would from now on."""
    state = state_to_go_on_from(RunFolder(config.run.path).checkpoints)
    if state is None or not state.evaluated_step or not held_out.sources:
        return []
    here, there = held_out.identity(), state.held_out_on
    if are_comparable(here, there):
        return []
    headline = f"held-out losses up to step {state.evaluated_step} are not compared with those to come"
    by_whom = "(checkpoint.keep_best keeps the best of either, and the forecast begins anew)"
    if not there:
        return [f"{headline} {by_whom}: their checkpoint does not record on which sequences they were measured"]
    lines = [f"{key}: {show(old)} there, {show(new)} here" for key, (old, new) in differing(there, here).items()]
    return [f"{headline} {by_whom}: the sequences differ:\n{listed(lines, most=_MOST_DIFFERENCES)}"]
