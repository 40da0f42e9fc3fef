"""`lehr score`: scores the documents of shards by the checkpoints of small runs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from settings import UserError


def score(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN", help="run folders, such as those of several seeds")],
    shards: Annotated[
        Path, typer.Argument(metavar="SHARDS", help="the folder of the shards to score", show_default=False)
    ],
    source: Annotated[list[str] | None, typer.Option(help="A source to score; by default all of the folder.")] = None,
    steps: Annotated[str, typer.Option(help="Steps of checkpoints, such as 100,200; all takes every one.")] = "all",
    output: Annotated[Path | None, typer.Option(help="The folder of the scores; by default SHARDS.scores.")] = None,
    grand: Annotated[
        bool,
        typer.Option("--grand", help="Score by the norm of the gradient too (slow; unreliable at initialisation)."),
    ] = False,
    tensor: Annotated[int, typer.Option(min=1, help="Ranks that share each matrix.")] = 1,
    pipeline: Annotated[int, typer.Option(min=1, help="Stages that the layers are divided into.")] = 1,
    data: Annotated[int, typer.Option(min=1, help="Ranks, or groups of them, that divide the documents.")] = 1,
) -> None:
    """Score each document by the error norm (EL2N), the loss and the accuracy that checkpoints of runs have on it.

    The selectors el2n, loss and lim read the scores, and the selector grand reads the norms of --grand. A run should be
    trained on other documents than it scores. Files that are finished stay: the same command goes on after a stop or a
    kill. It runs on tensor x pipeline x data processes; any layout gives the same scores.
    """
    from launcher.commands.outputs import check_output
    from launcher.console import print_columns
    from launcher.processes.environment import (
        check_single_process,
        one_openmp_thread,
        order_cuda_kernels,
        read_rank_info,
    )

    with one_openmp_thread():
        import launcher.scoring.ranks  # noqa: F401 (torch and Megatron start no thread, so that ranks can be forked)

    from launcher.run.verify_shards import verify_run_shards
    from launcher.scoring.overlap import overlap_warnings
    from launcher.scoring.plan import open_scored_shards, plan_scores, scored_data
    from launcher.scoring.ranks import check_scoring_layout, run_rank, score_in_layout
    from launcher.scoring.report import make_report, report_lines
    from parallel.config import ParallelConfig
    from settings.files import output_of_user, write_json
    from settings.processes import die_with_parent

    if grand and tensor * pipeline > 1:
        raise UserError(
            "--grand needs the full model on each rank: leave out --tensor and --pipeline; --data is possible"
        )
    if tensor > 1:
        order_cuda_kernels()
    parallel = ParallelConfig(tensor=tensor, pipeline=pipeline, data=data)
    output = shards.with_name(f"{shards.name}.scores") if output is None else output
    check_output(output, option="--output")
    opened = open_scored_shards(shards, source or [])
    planned = plan_scores(runs, opened, steps=_parse_steps(steps), output=output, grand=grand)
    missing = [file for file in planned if not file.is_done]
    if (rank_info := read_rank_info()).parent is not None:
        die_with_parent(rank_info.parent.pid)
        run_rank(rank_info, missing, opened.tokenizer, parallel)
    check_single_process("lehr score")
    check_scoring_layout(runs, parallel)
    for warning in overlap_warnings(runs, opened):
        print(f"warning: {warning}", file=sys.stderr)
    if missing:
        verify_run_shards(scored_data(shards, opened.names))
        code = score_in_layout(missing, opened.tokenizer, parallel, log_folder=output / "logs", arguments=sys.argv[1:])
        if code:
            raise SystemExit(code)
    report = make_report([file.path for file in planned])
    with output_of_user(output):
        write_json(output / "report.json", report)
    rows = [tuple("-" if value is None else _cell(value) for value in row.values()) for row in report["checkpoints"]]
    print_columns([tuple(report["checkpoints"][0]), *rows], numbers=range(1, 7))
    for line in report_lines(report):
        print(line)
    print(f"scores: {output}")


def _parse_steps(text: str) -> list[int]:
    """Returns the steps of `--steps`; none for `all`. Raises UserError."""
    if text == "all":
        return []
    numbers = [part.strip() for part in text.split(",")]
    if not all(number.isascii() and number.isdigit() for number in numbers):
        raise UserError(f'--steps {text}: give steps of checkpoints, such as 100,200, or "all"')
    return [int(number) for number in numbers]


def _cell(value: float | str) -> str:
    if isinstance(value, str):
        return value
    return f"{value:,}" if isinstance(value, int) else f"{value:.4f}"
