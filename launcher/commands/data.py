"""`lehr data build` and `lehr data inspect`."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer

from launcher.exit_codes import STOPPED_EARLY, user_errors

data_app = typer.Typer(no_args_is_help=True, help="Build token shards from text, and look into them.")

_SECONDS_BETWEEN_LINES = 2.0  # where the output is no terminal


@data_app.command("build")
@user_errors
def build_shards(
    config: Annotated[Path, typer.Argument(help="a config with a `data` section", show_default=False)],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="such as data.shards=shards/mine")
    ] = None,
) -> None:
    """Text, filters, deduplication, tokenizer, token shards. Stopped or killed, the same command goes on.

    Exit codes: 0 built, or built already; 2 a mistake in the config or the input; 75 stopped, run again.
    """
    from data.config import DataConfig
    from data.pipeline.build import build
    from data.pipeline.progress import StoppedError
    from settings import Settings, parse, read_yaml

    class DataFile(Settings, extra="ignore"):
        """A config of which only the data section is looked at: a build needs no model, and no torch."""

        data: DataConfig

    stop = _StopOnSignal()
    try:
        section = parse(DataFile, read_yaml(config, overrides or []), source=str(config)).data
        result = build(section, stop=stop.asked, report=_Lines(), log=lambda line: print(line, file=sys.stderr))
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
@user_errors
def inspect_shards(
    shards: Annotated[Path, typer.Argument(help="a folder of shards, such as shards/demo", show_default=False)],
    sample_tokens: Annotated[int, typer.Option(min=0, help="How much text of each source to show.")] = 60,
) -> None:
    """Sources, licences, documents, tokens, whether the files are those that were built, and a sample in text."""
    from data.shards.inspect import inspect

    sources = inspect(shards, sample_tokens=sample_tokens)
    rows = [("source", "language", "licence", "split", "documents", "tokens", "bytes/token", "files")]
    for source in sources:
        for split in source.splits:
            counts = (f"{split.documents:,}", f"{split.tokens:,}", f"{split.bytes_per_token:.2f}")
            rows.append((source.name, source.language, source.licence, split.name, *counts, split.status))
    _print_columns(rows, numbers=range(4, 7))
    for source in sources:
        if source.sample:
            print(f"\n{source.name}:\n{source.sample}")
    if any(split.status != "ok" for source in sources for split in source.splits):
        raise SystemExit(1)


def _print_columns(rows: Sequence[Sequence[str]], *, numbers: range) -> None:
    """Never cut off, whatever the terminal's width: counts are there to be read."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [
            cell.rjust(width) if column in numbers else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        print("  ".join(cells).rstrip())


class _StopOnSignal:
    """The first SIGINT, SIGTERM or SIGUSR1 ends the build in good order; a second Ctrl-C ends it at once."""

    def __init__(self) -> None:
        self._asked = False
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
            signal.signal(number, self._handle)

    def asked(self) -> bool:
        return self._asked

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._asked = True


class _Lines:
    """Progress: one line that is drawn over on a terminal, a line now and then elsewhere."""

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
