"""`lehr data`: builds token shards, shows what they hold, and compares them with their hashes."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from launcher.commands.arguments import OverridesArgument
from launcher.console import ProgressLine, print_columns
from launcher.exit_codes import FAILED, STOPPED_EARLY
from launcher.processes.environment import available_cores, cache_folder
from launcher.processes.stop_request import StopRequest

data_app = typer.Typer(no_args_is_help=True, help="Build token shards from text, inspect and verify them.")


@data_app.command("build")
def build_shards(
    config: Annotated[Path, typer.Argument(help="a config with a `data` section", show_default=False)],
    overrides: OverridesArgument = None,
) -> None:
    """Build token shards: read text, filter, deduplicate, tokenize. If it was stopped or killed, run it again.

    Exit codes: 0: the shards are built, now or before. 2: the config or the input has a mistake. 75: the build was
    stopped, and the same command continues it.
    """
    from pydantic import model_validator

    from data.config import DataConfig
    from data.pipeline.build import build
    from data.pipeline.progress import StoppedError
    from launcher.run.old_stages import without_old_stages
    from settings import Settings, compose

    class DataFile(Settings, extra="ignore"):
        """A config of which only the data section is read: a build needs no model, and no torch."""

        data: DataConfig

        @model_validator(mode="before")
        @classmethod
        def _read_stages(cls, values: Any) -> Any:
            return without_old_stages(values) if isinstance(values, Mapping) else values

    stop, progress = StopRequest(), ProgressLine()
    try:
        section = compose(DataFile, config, overrides or []).data
        result = build(
            section,
            stop=stop,
            report=lambda moment: progress.show(moment.line()),
            log=lambda line: print(line, file=sys.stderr),
        )
    except StoppedError:
        print("stopped; the same command goes on from here", file=sys.stderr)
        raise SystemExit(STOPPED_EARLY) from None
    progress.end()
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
    print_columns(rows, numbers=range(4, 7))
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


@data_app.command("verify")
def verify_shards(
    shards: Annotated[Path, typer.Argument(help="a folder of shards, such as shards/demo", show_default=False)],
    everything: Annotated[
        bool, typer.Option("--all", help="Read every file, also those that were verified and have not changed since.")
    ] = False,
) -> None:
    """Compare every file with its hash, and record the result, so that no start of a run has to read them again.

    A file that was verified before is read again only if its size, times or inode have changed. Exit codes: 0: every
    file is as it was built. 1: some are not, and each is named. 2: there are no shards. 75: the command was stopped,
    and the same command goes on.
    """
    from data.config import DataConfig
    from data.shards.index import open_shards
    from data.shards.verified_record import VerifiedRecord
    from data.shards.verify import hashed_files, verify_files
    from settings import UserError
    from settings.data_sizes import format_size

    stop, progress = StopRequest(), ProgressLine()
    opened = open_shards(DataConfig(shards=shards))
    record = VerifiedRecord(shards, cache=cache_folder())
    files = hashed_files(opened)
    found = verify_files(
        files,
        {} if everything else record.read(),
        threads=available_cores(),
        report=lambda moment: progress.show(moment.line()),
        save=record.add,
        stop=stop,
    )
    progress.end()
    problems = list(found.problems)
    try:
        opened.tokenizer_file()
    except UserError as error:
        problems.append(str(error))
    recorded = record.add(found.verified)
    for problem in problems:
        print(problem, file=sys.stderr)
    if recorded is None:
        print("warning: the result cannot be recorded, so that a run reads all files again", file=sys.stderr)
    if found.stopped:
        print("stopped; the same command goes on from here", file=sys.stderr)
        raise SystemExit(STOPPED_EARLY)
    others = ", the others had not changed since they were verified" if found.read_files < len(files) else ""
    print(
        f"{shards}: read {found.read_files:,} of {len(files):,} files ({format_size(found.read_bytes)}){others}; "
        f"{len(problems):,} wrong"
    )
    if problems:
        raise SystemExit(FAILED)
