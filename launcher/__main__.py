"""`python -m launcher` and the `lehr` command."""

from launcher.processes.signals import exit_immediately


def main() -> None:
    """Runs the command line and exits. The stop signals come first: the imports of the command line take a while."""
    exit_immediately()
    from launcher.cli import main as run_command_line

    run_command_line()


if __name__ == "__main__":
    main()
