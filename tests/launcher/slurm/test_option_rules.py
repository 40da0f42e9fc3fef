"""Values of the site file and options of the command are checked before anything is submitted."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from launcher.commands.slurm.job_options import sbatch_options
from launcher.slurm.option_rules import SET_BY_LEHR, check_limit, check_nodes, limit_seconds
from launcher.slurm.site import SiteConfig, read_site
from settings import UserError


@pytest.mark.parametrize(
    ("time", "seconds"),
    [
        ("90", 5400),
        ("5:30", 330),
        ("01:00:30", 3630),
        ("2-12", 216_000),
        ("1-00:30", 88_200),
        ("1-00:00:01", 86_401),
        ("UNLIMITED", None),
        ("0", None),  # Slurm takes it as no limit
    ],
)
def test_a_time_limit_in_each_form_of_slurm(time: str, seconds: int | None) -> None:
    assert limit_seconds(time) == seconds


def test_options_of_sbatch_pass_through_except_those_that_lehr_needs() -> None:
    assert sbatch_options(["--exclusive", "mail-type=END"], "1:00", ["7", "8"]) == {
        "time": "1:00",
        "dependency": "afterok:7:8",
        "kill-on-invalid-dep": "yes",
        "exclusive": "",
        "mail-type": "END",
    }
    for name in (*SET_BY_LEHR, "sig", "no-req"):
        with pytest.raises(UserError, match=rf"--sbatch {name}=x: lehr sets --{name}\S* of sbatch itself: [-\w]+ "):
            sbatch_options([f"{name}=x"], None, [])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("time: 24:00:00", 'time = 86400: must be in quotes.*write "24:00:00"$'),
        ("time: 90", 'time = 90: must be in quotes.*write "1:30", or "90" for 90 minutes$'),
        ("sbatch: {time-min: 12:00:00}", 'sbatch.time-min = 43200: must be in quotes.*write "12:00:00"$'),
        ("time: 1h", 'time = "1h": must be a time in a form of Slurm: minutes'),
        ("time: 1-2-3", 'time = "1-2-3": must be a time'),
        ("sbatch: {time: soon}", 'sbatch.time = "soon": must be a time'),
        ("memory: 1.5G", 'memory = "1.5G": must be a whole number with K, M, G or T'),
        ("memory: 500 GB", 'memory = "500 GB": must be a whole number'),
        ("environment: {1A: x}", 'environment.1A = "x": the name of a variable'),
        ("environment: {A-B: x}", 'environment.A-B = "x": the name of a variable'),
        ('partition: "gpu\\n#SBATCH --signal=9"', "partition = .*: must be one line of text"),
        ('sbatch: {comment: "two\\nlines"}', "sbatch.comment = .*: must be one line of text"),
        ("sbatch: {--exclusive: ''}", "sbatch.--exclusive = .*without its dashes"),
        (
            "sbatch: {open-mode: truncate}",
            'sbatch.open-mode = "truncate": lehr sets --open-mode of sbatch itself: each',
        ),
    ],
)
def test_a_value_that_slurm_would_take_in_another_way_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "site.yaml").write_text(text)
    with pytest.raises(UserError, match=message):
        read_site(tmp_path / "site.yaml")


@pytest.mark.parametrize("memory", ["", "0", "500", "500G", "500GB", "2t"])
@pytest.mark.parametrize("time", ["", "90", "5:30", "100:00:00", "1-0", "1-12:30", "7-00:00:00", "unlimited"])
def test_each_form_of_slurm_is_accepted(time: str, memory: str) -> None:
    site = SiteConfig(time=time, memory=memory, environment={"_A1": "two\nlines"}, sbatch={"exclusive": ""})
    assert (site.time, site.memory) == (time, memory)


@pytest.mark.parametrize(
    ("given", "time", "after", "message"),
    [
        ([], "1h", [], "--time 1h: must be a time in a form of Slurm"),
        (["time=1h"], None, [], "--sbatch time=1h: must be a time"),
        (["mem=lots"], None, [], "--sbatch mem=lots: must be a whole number"),
        ([""], None, [], "--sbatch =: must be named as a long option"),
        (["=x"], None, [], "--sbatch =x: must be named as a long option"),
        (["comment=a\nb"], None, [], "--sbatch comment=a b: must be one line of text"),
        ([], None, ["build"], '--after "build": it must be the number of a job'),
        ([], None, ["7\n8"], "--after"),
        (["dependency=singleton"], None, ["7"], "--sbatch dependency=singleton and --after 7"),
        ([], None, ["afterok:7?afterok:8", "9"], "--after"),
    ],
)
def test_a_mistake_in_an_option_of_the_command_is_named(
    given: list[str], time: str | None, after: list[str], message: str
) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        sbatch_options(given, time, after)


@pytest.mark.parametrize(
    ("after", "dependency"),
    [
        (["7_3", "8_*", "9:10"], "afterok:7_3:8_*:9:10"),
        (["7", "afterany:8,after:9+5"], "afterok:7,afterany:8,after:9+5"),
        (["afterok:7?afternotok:8"], "afterok:7?afternotok:8"),
        (["singleton"], "singleton"),
    ],
)
def test_a_job_waits_for_jobs_or_as_sbatch_says(after: list[str], dependency: str) -> None:
    assert sbatch_options([], None, after)["dependency"] == dependency


def test_nodes_are_a_number_or_a_range_that_grows() -> None:
    assert (check_nodes("3"), check_nodes("2-4"), check_nodes("2-2")) == ((3,), (2, 4), (2, 2))
    for nodes, message in (
        ("4-2", "write 2-4"),
        ("0", "must be a number"),
        ("2-", "must be a number"),
        ("", "must be"),
    ):
        with pytest.raises(UserError, match=message):
            check_nodes(nodes)


def test_the_notice_must_leave_time() -> None:
    check_limit("6:01", 300)
    check_limit("", 300)
    check_limit("UNLIMITED", 300)
    with pytest.raises(UserError, match=r"a time limit of 6:00 leaves no time to work.*notice_seconds = 300"):
        check_limit("6:00", 300)
