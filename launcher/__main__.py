"""`python -m launcher` and the `lehr` command."""

from launcher.cli import main

if __name__ == "__main__":
    main()
