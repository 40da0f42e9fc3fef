"""The rules for options of sbatch, which are checked before a job is submitted."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

from settings import UserError
from settings.mistakes import show_value

_TELLS_CAUSE = "lehr reads there why an attempt has failed"
_SAME_RANKS = "ranks_per_node of the site file decides it"
_JOB_NUMBER = "lehr needs the number of a job that Slurm has taken"
# The options that follow from the command, or that a job which starts again needs as they are; each with the reason.
SET_BY_LEHR: Mapping[str, str] = {
    "nodes": "--nodes of the command decides it",
    "array": "--grid and --seeds of the command decide it",
    "ntasks": _SAME_RANKS,
    "ntasks-per-node": _SAME_RANKS,
    "requeue": "a job goes back into the queue until its run is done",
    "no-requeue": "a job goes back into the queue until its run is done",
    "hold": "a job is held until its record is written",
    "open-mode": "each attempt adds to the output of the ones before",
    "output": _TELLS_CAUSE,
    "error": _TELLS_CAUSE,
    "signal": "every rank is told to save notice_seconds before the limit; set notice_seconds of the site file",
    "parsable": _JOB_NUMBER,
    "test-only": _JOB_NUMBER + "; --dry-run of the command submits nothing",
    "wait": "lehr must not wait for the end of a job",
    "wrap": "lehr writes the batch file",
}
_EARLY_SECONDS = 60  # by which Slurm may send a signal before its time
_TIME = re.compile(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", re.ASCII)
_NO_LIMIT = ("unlimited", "infinite")
_JOBS = r"\d+(?:_(?:\d+|\*))?(?:\+\d+)?(?::\d+(?:_(?:\d+|\*))?(?:\+\d+)?)*"
_DEPENDENCY = rf"(?:singleton|after(?:any|burstbuffer|corr|notok|ok)?:{_JOBS})"


def limit_seconds(time: str) -> int | None:
    """Returns the seconds of a time limit in any of Slurm's forms, from `90` (minutes) to `1-12:00:00`.

    None means that the job has no limit that can be read here: UNLIMITED, and 0, by which Slurm means the same.
    """
    match = _TIME.fullmatch(time)
    if match is None:
        return None
    days, *parts = match.groups()
    numbers = [int(part) for part in parts if part is not None]
    units = (3600, 60, 1) if days is not None or len(numbers) == 3 else (60, 1)
    return int(days or 0) * 86_400 + sum(number * unit for number, unit in zip(numbers, units, strict=False)) or None


def unquoted_time_rule(value: int) -> str:
    """Returns what to write instead of a time that YAML has read as a number: unquoted, 24:00:00 is 86400."""
    minutes, seconds = divmod(value, 60)
    hours, minutes_left = divmod(minutes, 60)
    clock = f"{hours:02d}:{minutes_left:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
    return f'must be in quotes, because YAML reads {clock} without them as {value}; write "{clock}"' + (
        "" if hours else f', or "{value}" for {value} minutes'
    )


def broken_rule(name: str, value: str) -> str | None:
    """Returns the rule that an option of sbatch, named without dashes, breaks; None if lehr can pass it on."""
    if not re.fullmatch(r"[a-z][a-z0-9-]*", name):
        return "must be named as a long option of sbatch without its dashes, such as reservation"
    # sbatch takes the beginning of a name for the name.
    own = name if name in SET_BY_LEHR else next((own for own in SET_BY_LEHR if own.startswith(name)), None)
    if own is not None:
        return f"lehr sets --{own} of sbatch itself: {SET_BY_LEHR[own]}; remove it"
    return broken_value_rule(name, value)


def broken_value_rule(name: str, value: str) -> str | None:
    """Returns the rule that the value of an option breaks, else None. Empty values are for Slurm to judge."""
    if "\0" in value or "".join(value.splitlines()) != value:
        return "must be one line of text, because a line of the batch file begins with #SBATCH"
    rule = _VALUE_RULES.get(name)
    return rule(value) if rule and value else None


def _time_rule(time: str) -> str | None:
    if _TIME.fullmatch(time) or time.lower() in _NO_LIMIT:
        return None
    return (
        "must be a time in a form of Slurm: minutes, minutes:seconds, hours:minutes:seconds, days-hours, "
        'days-hours:minutes, days-hours:minutes:seconds, or UNLIMITED; write such as "24:00:00"'
    )


def _memory_rule(memory: str) -> str | None:
    if re.fullmatch(r"\d+(?:[KMGT]B?)?", memory, re.ASCII | re.IGNORECASE):
        return None
    return "must be a whole number with K, M, G or T behind it (none means M), such as 500G; 0 means all memory"


_VALUE_RULES: Mapping[str, Callable[[str], str | None]] = {
    "time": _time_rule,
    "time-min": _time_rule,
    "mem": _memory_rule,
    "mem-per-cpu": _memory_rule,
    "mem-per-gpu": _memory_rule,
}


def check_option(key: str, name: str, value: str) -> None:
    """Raises UserError for an option of the command, `key`, by which lehr cannot submit a job."""
    if rule := broken_rule(name, value):
        shown = f"{key} {name}={value}" if key == "--sbatch" else f"{key} {value}"
        raise UserError(f"{' '.join(shown.splitlines())}: {rule}")


def check_nodes(nodes: str) -> tuple[int, ...]:
    """Returns the numbers in `--nodes`: one, or the fewest and the most. Raises UserError."""
    match = re.fullmatch(r"([1-9]\d*)(?:-([1-9]\d*))?", nodes, re.ASCII)
    if match is None:
        raise UserError(f"--nodes {nodes}: it must be a number, or a range such as 2-4")
    numbers = tuple(int(number) for number in match.groups() if number)
    if numbers[0] > numbers[-1]:
        raise UserError(
            f"--nodes {nodes}: the fewest nodes come first, and the most after them; write {numbers[1]}-{numbers[0]}"
        )
    return numbers


def dependency(after: Sequence[str]) -> str:
    """Returns the dependency for the values of `--after`: numbers of jobs, which must succeed, or lists of sbatch.

    Raises UserError for a value that is neither.
    """
    jobs, terms = [], []
    for text in after:
        terms_of_list = text.split("?" if "?" in text and len(after) == 1 else ",")
        if re.fullmatch(_JOBS, text, re.ASCII):
            jobs.append(text)
        elif all(re.fullmatch(_DEPENDENCY, term, re.ASCII) for term in terms_of_list):
            terms.append(text)
        else:
            raise UserError(
                f"--after {show_value(text)}: it must be the number of a job, such as 1234 or 1234_5, or a dependency "
                "of sbatch, such as afterany:1234"
            )
    return ",".join([*([f"afterok:{':'.join(jobs)}"] if jobs else []), *terms])


def check_limit(time: str, notice_seconds: int) -> None:
    """Raises UserError if Slurm would tell the ranks to stop as soon as they start."""
    limit = limit_seconds(time)
    if limit is not None and limit <= notice_seconds + _EARLY_SECONDS:
        raise UserError(
            f"a time limit of {time} leaves no time to work: every rank is told to save notice_seconds = "
            f"{notice_seconds} before it, and Slurm may do so {_EARLY_SECONDS} s earlier; ask for more time, or set "
            "notice_seconds in the site file to less"
        )
