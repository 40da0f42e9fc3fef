"""The family tree of runs: every run under the one from whose checkpoint it began."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from launcher.runs.summary import RunSummary, is_run, read_summary
from settings import UserError
from train.run_folder.branch_record import Origin


@dataclass
class Member:
    """A run of the family, with its branches in the order of their steps; `run` is None if its folder is gone."""

    path: Path
    run: RunSummary | None
    origin: Origin | None
    branches: list[Member] = field(default_factory=list)

    @property
    def name(self) -> str:
        """The name of its folder."""
        return self.path.name


def read_family(folder: Path) -> list[Member]:
    """Returns the runs of a folder that began by themselves, or from a run elsewhere, each with its branches.

    A branch that its parent has recorded and that is gone, or lies in another folder, is a member too. Raises UserError
    if the folder cannot be read, or holds no run.
    """
    try:
        paths = sorted(path for path in folder.iterdir() if is_run(path))
    except OSError as error:
        raise UserError(f"{folder} cannot be read: {error.strerror}; name a folder of runs or a run") from None
    if not paths:
        raise UserError(f"{folder} holds no run; runs are in the folder that run.folder names")
    members = [Member(path, run, run.origin) for path in paths for run in [read_summary(path)]]
    by_path = {member.path.absolute(): member for member in members}
    roots: list[Member] = []
    for member in members:
        parent = _parent(member, by_path)
        (roots if parent is None or parent is member else parent.branches).append(member)
    for member in members:
        known = {branch.name for branch in member.branches}
        member.branches += [
            _member_elsewhere(path)
            for path in dict.fromkeys(_recorded_branches(member))
            if path.name not in known and path.absolute() not in by_path
        ]
        member.branches.sort(key=lambda branch: (branch.origin.step if branch.origin else 0, branch.name))
    return roots


def _parent(member: Member, by_path: Mapping[Path, Member]) -> Member | None:
    """Returns the run from which a member began, if it is among the members.

    Where the folder of runs was moved or copied, it is the one of the same name that has recorded the member.
    """
    if member.origin is None:
        return None
    path = member.origin.path
    beside = by_path.get(member.path.absolute().parent / path.name)
    if path not in by_path and beside is not None:
        return beside if any(branch.name == member.name for branch in _recorded_branches(beside)) else None
    return by_path.get(path)


def _recorded_branches(member: Member) -> tuple[Path, ...]:
    return () if member.run is None else member.run.branches


def _member_elsewhere(path: Path) -> Member:
    """Returns a branch that is gone, or that lies in another folder than its parent."""
    run = read_summary(path) if is_run(path) else None
    return Member(path, run, None if run is None else run.origin)


def walk(members: Sequence[Member], prefix: str = "", *, roots: bool = True) -> Iterator[tuple[str, Member]]:
    """Yields each member with the lines of the tree before its name, in the order in which a tree is printed."""
    for number, member in enumerate(members):
        last = number == len(members) - 1
        yield (prefix if roots else prefix + ("└─ " if last else "├─ ")), member
        inner = prefix if roots else prefix + ("   " if last else "│  ")
        yield from walk(member.branches, inner, roots=False)


@dataclass(frozen=True)
class Ancestor:
    """A part of a run's line: the run that trained it, and the steps and tokens of that part."""

    path: Path
    run: RunSummary | None  # None if its folder is gone
    first_step: int  # the part begins after this step
    last_step: int
    tokens: int


def read_line(path: Path) -> list[Ancestor]:
    """Returns the line of a run, from the run that began by itself to the run itself. Raises UserError."""
    run = read_summary(path)
    line: list[Ancestor] = []
    last_step, last_tokens = run.step, run.tokens
    current: RunSummary | None = run
    while True:
        origin = current.origin if current is not None else None
        first_step, first_tokens = (origin.step, origin.tokens) if origin else (0, 0)
        line.append(Ancestor(path, current, first_step, last_step, last_tokens - first_tokens))
        if origin is None or len(line) > _LONGEST_LINE:
            return line[::-1]
        path, last_step, last_tokens = _place(origin, beside=path), origin.step, origin.tokens
        current = read_summary(path) if is_run(path) else None


_LONGEST_LINE = 1000  # longer, records name each other in a circle


def _place(origin: Origin, *, beside: Path) -> Path:
    """Returns the folder of a parent: where it was, or beside its branch, if both were moved."""
    moved = beside.absolute().parent / origin.path.name
    return moved if not is_run(origin.path) and is_run(moved) else origin.path
