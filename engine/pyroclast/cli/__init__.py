"""The command `pyroclast`: the parser in `main`, one file per group of commands."""
