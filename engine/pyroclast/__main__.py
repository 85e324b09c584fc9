"""`python -m pyroclast` is the command `pyroclast`."""

from pyroclast.cli.main import main

if __name__ == "__main__":
    main()
