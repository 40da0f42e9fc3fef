"""`lehr checkpoint list RUN` and `lehr checkpoint verify RUN`: a run's checkpoints, and whether they are complete."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from launcher.commands.arguments import RunFolderArgument
from launcher.console import print_columns
from launcher.exit_codes import FAILED
from settings import UserError

if TYPE_CHECKING:
    from train.checkpoint.manifest import Manifest

checkpoint_app = typer.Typer(no_args_is_help=True, help="List a run's checkpoints, and check them byte by byte.")
_UNITS = ("B", "kB", "MB", "GB", "TB", "PB")


@checkpoint_app.command("list")
def list_checkpoints(run: RunFolderArgument) -> None:
    """List every checkpoint: step, tokens, held-out loss, size, date, the layout that wrote it, why it is kept.

    A checkpoint whose manifest or file sizes are wrong is listed as incomplete; `verify` reads every byte.
    """
    from train.checkpoint.discovery import read_latest, step_of
    from train.checkpoint.manifest import IncompleteCheckpointError, read_manifest
    from train.checkpoint.retention import kept

    paths = _checkpoints(run)
    latest = read_latest(paths[0].parent)
    manifests: dict[Path, Manifest] = {}
    broken: dict[Path, str] = {}
    for path in paths:
        try:
            manifests[path] = read_manifest(path)
        except IncompleteCheckpointError as error:
            broken[path] = "; ".join(error.problems)
    reasons = kept({step_of(path): manifest.measured for path, manifest in manifests.items()}, _retention(run))
    rows: list[tuple[str, ...]] = [("step", "tokens", "held-out loss", "size", "date", "layout", "kept as", "")]
    for path in paths:
        mark = "latest" if path.name == latest else ""
        if path in broken:
            rows.append((str(step_of(path)), *[""] * 6, f"{mark} incomplete: {broken[path]}".strip()))
            continue
        manifest = manifests[path]
        loss = "" if manifest.held_out_loss is None else f"{manifest.held_out_loss:.4f}"
        size = _size(sum(record.bytes for record in manifest.files.values()))
        kept_as = ", ".join(reasons.get(manifest.step, []))
        rows.append(
            (
                str(manifest.step),
                f"{manifest.tokens:,}",
                loss,
                size,
                manifest.date,
                _layout(manifest.layout),
                kept_as,
                mark,
            )
        )
    print_columns(rows)
    if len({measured.on for manifest in manifests.values() if (measured := manifest.measured)}) > 1:
        print("held-out losses on different sequences are not compared: the best on each are kept", file=sys.stderr)


@checkpoint_app.command("verify")
def verify_checkpoints(
    run: RunFolderArgument,
    step: Annotated[int | None, typer.Option(min=0, help="The step of the checkpoint; all if not given.")] = None,
) -> None:
    """Hash every file of every checkpoint and compare: exit code 0 if all are complete, 1 if not.

    Of a run that prunes, it counts the zeros too, and fails if a pruned weight is not zero.
    """
    from train.checkpoint.discovery import candidates, problems_of, step_of

    paths = _checkpoints(run)
    _, complaints = candidates(paths[0].parent)
    if step is not None:
        chosen = [path for path in paths if step_of(path) == step]
        if not chosen:
            steps = ", ".join(str(step_of(path)) for path in paths)
            raise UserError(f"--step {step}: {run} has no checkpoint of that step; it has those of steps {steps}")
        paths, complaints = chosen, []
    for complaint in complaints:
        print(complaint, file=sys.stderr)
    failed = bool(complaints)
    for path in paths:
        problems = problems_of(path)
        failed = failed or bool(problems)
        print(f"{path}: {'incomplete' if problems else _complete(path)}", flush=True)
        for problem in problems:
            print(f"  {problem}", file=sys.stderr, flush=True)
    if failed:
        raise SystemExit(FAILED)


def _complete(path: Path) -> str:
    """Returns the verdict on a checkpoint whose hashes are right: with the zeros of its pruned weights, if it has any.

    Raises UserError if a pruned weight is not zero.
    """
    from train.checkpoint.manifest import read_manifest
    from train.checkpoint.zeros import count_zeros

    zeros = count_zeros(path, read_manifest(path))
    if not zeros.weights:
        return "complete"
    return f"complete, {zeros.zeros:,} of {zeros.weights:,} prunable weights are zero ({zeros.share:.2%})"


def _checkpoints(run: Path) -> list[Path]:
    """Returns the checkpoints of a run, oldest first. Raises UserError if it is no run or has none."""
    from train.checkpoint.discovery import step_folders
    from train.run_folder.folder import RunFolder

    folder = RunFolder(run)
    if not folder.checkpoints.is_dir():
        raise UserError(f"{run} is no run folder: it has no checkpoints; runs are in the folder that run.folder names")
    paths = step_folders(folder.checkpoints)
    if not paths:
        raise UserError(f"{run} has no checkpoint yet; train it with: lehr train {folder.config}")
    return paths


def _retention(run: Path) -> Any:
    """Returns the run's `checkpoint` section, or the defaults if its config cannot be read."""
    from settings import parse, read_yaml
    from train.config import CheckpointConfig
    from train.run_folder.folder import RunFolder

    try:
        section = read_yaml(RunFolder(run).config).get("checkpoint", {})
        return parse(CheckpointConfig, section, source="checkpoint")
    except UserError as error:
        print(f"warning: {error}", file=sys.stderr)
        return CheckpointConfig()


def _layout(layout: dict[str, Any]) -> str:
    """Formats the sizes and switches that are not 1, off or none: `tensor 2, data 4, zero 1`."""
    parts = [
        name if value is True else f"{name} {value}"
        for name, value in layout.items()
        if value is True or value not in (1, False, "none", None) or (name == "zero" and layout.get("data", 1) != 1)
    ]
    return ", ".join(parts) or "1 rank"


def _size(count: float) -> str:
    """Formats a number of bytes with three digits and a unit: 12.3 MB."""
    for unit in _UNITS[:-1]:
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} {_UNITS[-1]}"
