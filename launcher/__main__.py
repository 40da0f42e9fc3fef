"""`python -m launcher` and the `lehr` command."""


def main() -> None:
    from launcher.cli import app

    app()


if __name__ == "__main__":
    main()
