"""`lehr law schedule`: the learning-rate schedule with the lowest predicted final loss."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml
from rich.console import Console
from rich.table import Table

from launcher.commands.law.arguments import FitArgument, ParametersOption, read_constraints
from launcher.commands.outputs import check_output
from laws.curve import last_step
from laws.fitting.fitted import Fit, load_fit
from laws.schedule_search.candidate import Candidate
from laws.schedule_search.search import search
from schedules.table import write_table
from settings import UserError
from settings.files import new_files, output_of_user, write_text
from settings.overrides import section_override


def schedule_command(
    fit: FitArgument,
    steps: Annotated[int, typer.Option("--steps", min=1, help="Steps of the run to come.")],
    constraint: Annotated[
        list[str] | None,
        typer.Option(
            "--constraint",
            help="key=value, repeatable: peak_lr, warmup_steps, min_lr, max_decay_share, families (a,b), free_form.",
        ),
    ] = None,
    parameters: ParametersOption = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Folder for config.yaml, schedule.json and the plot.")
    ] = None,
) -> None:
    """Choose the best schedule by the law: of every family, and of free form."""
    console = Console()
    if output is not None:
        check_output(output, option="--output")
    law_fit = load_fit(fit)
    constraints = read_constraints(law_fit, constraint or [], parameters=parameters)
    if output is None and constraints.families == ():
        raise UserError("the best schedule of free form is a table of lr: give -o FOLDER to write it to")
    candidates = search(law_fit, steps=steps, constraints=constraints)
    console.print(_candidate_table(law_fit, candidates, parameters))
    if law_fit.law.spans_batches:
        console.print("note: the losses are those at the middle of the batches of the fitted runs", highlight=False)
    best = candidates[0]
    if output is None and best.section is None:
        console.print(f"the best, {best.name}, is a table of lr: -o FOLDER writes it", highlight=False)
        best = next(candidate for candidate in candidates if candidate.section is not None)
    fragment = {"train": {"steps": steps}, **best.config(None if output is None else output / "schedule.json")}
    text = yaml.safe_dump(fragment, sort_keys=False)
    if output is not None:
        _write_folder(output, law_fit, candidates, text, parameters)
    console.print(f"{best.name}, as a config:", highlight=False)
    print(text, end="")
    print("and as a run:\nlehr train CONFIG " + _overrides(fragment))
    if output is not None:
        console.print(f"written to {output}: config.yaml, schedule.json, schedule.png", highlight=False, soft_wrap=True)


def _candidate_table(law_fit: Fit, candidates: Sequence[Candidate], parameters: float | None) -> Table:
    table = Table("schedule", "predicted final loss", "90% interval", "settings")
    for candidate in candidates:
        low, high = (float(bound[0]) for bound in law_fit.band(last_step(candidate.schedule, parameters=parameters)))
        section = {} if candidate.section is None else dict(candidate.section)
        settings = ", ".join(f"{key}={value}" for key, value in section.items() if key != "name") or "a table"
        table.add_row(candidate.name, f"{candidate.loss:.4f}", f"{low:.4f} to {high:.4f}", settings)
    return table


def _write_folder(
    folder: Path, law_fit: Fit, candidates: Sequence[Candidate], config: str, parameters: float | None
) -> None:
    from launcher.commands.law.plots import plot_candidates

    with output_of_user(folder), new_files(folder) as staging:
        write_table(candidates[0].schedule.lr, staging / "schedule.json")
        plot_candidates(law_fit, candidates, staging / "schedule.png", parameters=parameters)
        write_text(staging / "config.yaml", config)


def _overrides(fragment: Mapping[str, Any]) -> str:
    """Returns the fragment as overrides for a shell. The section in one piece replaces the config's own section."""
    overrides = (
        f"train.steps={fragment['train']['steps']}",
        f"optim.lr={fragment['optim']['lr']!r}",
        section_override("schedule", fragment["schedule"]),
    )
    return shlex.join(overrides)
