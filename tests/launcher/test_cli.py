"""The command line: quick help, near misses, one message for a mistake."""

from __future__ import annotations

import subprocess
import sys

import pytest
from launch_variables import SRUN, TORCHRUN
from processes import computing_seconds, lehr

from launcher.cli import COMMANDS, Command, main, make_app
from settings import RunError, UserError


def test_help_names_every_command_and_is_quick() -> None:
    done = lehr("--help")
    assert done.returncode == 0
    for command in COMMANDS:
        assert command.name in done.stdout
        assert command.help.split()[0] in done.stdout

    def run(*arguments: str) -> None:
        subprocess.run([sys.executable, *arguments], check=True, capture_output=True)

    ratios = []
    for _ in range(3):
        bare = computing_seconds(lambda: run("-c", "import typer, rich.console"))
        ratios.append(computing_seconds(lambda: run("-m", "launcher", "--help")) / bare)
    assert min(ratios) < 3, ratios


def test_help_imports_no_command() -> None:
    code = (
        "import sys; from launcher.cli import make_app; make_app(['--help']);"
        "print(sorted({'torch', 'pydantic', 'numpy', 'omegaconf'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("command", [command.name for command in COMMANDS])
def test_every_command_has_help(command: str) -> None:
    done = lehr(command, "--help")
    assert done.returncode == 0, done.stderr
    assert f"lehr {command}" in done.stdout


def test_version() -> None:
    from importlib.metadata import version

    done = lehr("--version")
    assert (done.returncode, done.stdout) == (0, f"lehr {version('lehr')}\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trian"], "Did you mean 'train'?"),
        (["train"], "Missing argument"),
        (["train", "--stepps"], "No such option"),
        (["train", "/nowhere/config.yaml"], "error: config /nowhere/config.yaml does not exist"),
        ([], "Usage: lehr"),
    ],
)
def test_mistakes_on_the_command_line_exit_with_2(arguments: list[str], message: str) -> None:
    done = lehr(*arguments)
    assert done.returncode == 2
    assert message in " ".join((done.stdout + done.stderr).split())
    assert "Traceback" not in done.stdout + done.stderr


def test_only_the_given_command_is_imported() -> None:
    """A broken module of one command does not break the others."""
    code = (
        "import sys; sys.modules['launcher.commands.law.curves'] = None; sys.modules['launcher.commands.data'] = None;"
        "from launcher.cli import main; main(['--version'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert make_app(["doctor"]) is not None


def run_failing_command(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs the command line with a command that raises the error; the handlers of this process stay as they are."""

    def command() -> None:
        raise error

    monkeypatch.setattr("launcher.cli.COMMANDS", (Command("fail", __name__, "command", "Fail."),))
    monkeypatch.setattr("launcher.cli.exit_by_exception", lambda: None)
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    monkeypatch.setitem(globals(), "command", command)
    main(["fail"])


@pytest.mark.parametrize(
    ("error", "code"), [(UserError("train.steps = 0 must be at least 1"), 2), (RunError("writing failed: the disk"), 1)]
)
def test_an_explained_error_of_any_command_is_one_message_without_a_traceback(
    error: Exception, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        run_failing_command(error, monkeypatch)
    assert caught.value.code == code
    assert capsys.readouterr().err == f"error: {error}\n"


def test_our_own_bug_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="ours"):
        run_failing_command(ValueError("ours"), monkeypatch)


@pytest.mark.parametrize("variables", [TORCHRUN, SRUN], ids=["torchrun", "srun"])
def test_a_command_of_one_process_is_refused_on_several_ranks(variables: dict[str, str]) -> None:
    for command in (["eval", "runs/x"], ["law", "schedule", "fit.json", "--steps", "3"]):
        done = lehr(*command, env=variables)
        launcher = "torchrun" if variables is TORCHRUN else "srun"
        assert done.returncode == 2
        assert done.stderr == (
            f"error: lehr {command[0]} runs in one process, and {launcher} has started 8: start it by itself\n"
        )
    assert "runs in one process" not in lehr("data", "inspect", "no-folder", env=variables).stderr
    by_hand = lehr("eval", "runs/x", env={"RANK": "1", "WORLD_SIZE": "2"})  # which no launcher has set
    assert "runs in one process" not in by_hand.stderr
