"""`lehr data build` and `lehr data inspect`: builds token shards, and shows what they hold."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer

from launcher.commands.arguments import OverridesArgument
from launcher.exit_codes import FAILED, STOPPED_EARLY
from train.safety.stop_signals import set_stop_handlers

data_app = typer.Typer(no_args_is_help=True, help="Build token shards from text, and inspect them.")

_SECONDS_BETWEEN_LINES = 2.0  # if the output is no terminal


@data_app.command("build")
def build_shards(
    config: Annotated[Path, typer.Argument(help="a config with a `data` section", show_default=False)],
    overrides: OverridesArgument = None,
) -> None:
    """Build token shards: read text, filter, deduplicate, tokenize. If it was stopped or killed, run it again.

    Exit codes: 0: the shards are built, now or before. 2: the config or the input has a mistake. 75: the build was
    stopped, and the same command continues it.
    """
    from data.config import DataConfig
    from data.pipeline.build import build
    from data.pipeline.progress import StoppedError
    from settings import Settings, compose

    class DataFile(Settings, extra="ignore"):
        """A config of which only the data section is read: a build needs no model, and no torch."""

        data: DataConfig

    stop = _StopOnSignal()
    try:
        section = compose(DataFile, config, overrides or []).data
        result = build(
            section, stop=stop.requested, report=_ProgressLines(), log=lambda line: print(line, file=sys.stderr)
        )
    except StoppedError:
        print("stopped; the same command goes on from here", file=sys.stderr)
        raise SystemExit(STOPPED_EARLY) from None
    if sys.stdout.isatty():
        print()
    for name, source in result.sources.items():
        print(source.line(name))
    if result.already_built:
        print(f"already built: {result.shards}")
    else:
        rate = result.bytes / 1e6 / max(result.seconds, 1e-9)
        print(f"built {result.shards} in {result.seconds:.1f} s, {rate:.1f} MB/s of text")


@data_app.command("inspect")
def inspect_shards(
    shards: Annotated[Path, typer.Argument(help="a folder of shards, such as shards/demo", show_default=False)],
    sample_tokens: Annotated[int, typer.Option(min=0, help="Length of the sample of each source, in tokens.")] = 60,
) -> None:
    """Show sources, licences, documents, tokens, a sample of text, and whether the files are as they were built."""
    from data.config import SELECTION_FOLDER
    from data.shards.inspect import inspect

    sources = inspect(shards, sample_tokens=sample_tokens)
    rows = [("source", "language", "licence", "split", "documents", "tokens", "bytes/token", "files")]
    for source in sources:
        for split in source.splits:
            counts = (f"{split.documents:,}", f"{split.tokens:,}", f"{split.bytes_per_token:.2f}")
            rows.append((source.name, source.language, source.licence, split.name, *counts, split.status))
    _print_columns(rows, numbers=range(4, 7))
    for source in sources:
        if source.selection:
            print(f"{source.name}: selected by {source.selection}")
    if any(source.selection for source in sources):
        print(f"the record of the selection: {shards / SELECTION_FOLDER / 'report.md'}")
    for source in sources:
        if source.sample:
            print(f"\n{source.name}:\n{source.sample}")
    if any(split.status != "ok" for source in sources for split in source.splits):
        raise SystemExit(FAILED)


def _print_columns(rows: Sequence[Sequence[str]], *, numbers: range) -> None:
    """Prints full columns, whatever the terminal's width: a shortened count would be useless."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [
            cell.rjust(width) if column in numbers else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        print("  ".join(cells).rstrip())


class _StopOnSignal:
    """The first stop signal lets the build end in good order; a second Ctrl-C ends it at once."""

    def __init__(self) -> None:
        self._requested = False
        set_stop_handlers(self._handle)

    def requested(self) -> bool:
        return self._requested

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._requested and number == signal.SIGINT:
            raise SystemExit(128 + number)
        self._requested = True


class _ProgressLines:
    """Prints progress: one line that is overwritten on a terminal, a new line every few seconds elsewhere."""

    def __init__(self) -> None:
        self._last = 0.0

    def __call__(self, progress: object) -> None:
        from data.pipeline.progress import Progress

        assert isinstance(progress, Progress)
        if sys.stdout.isatty():
            print(f"\r\033[K{progress.line()}", end="", flush=True)
        elif time.monotonic() - self._last > _SECONDS_BETWEEN_LINES:
            self._last = time.monotonic()
            print(progress.line(), flush=True)
