"""The command `accelmark`, also as `python -m bench`; interrupted while it loads, it says so."""

import sys


def main() -> None:
    """Runs the command, which sees to an interruption itself as soon as it is there."""
    try:
        from bench.cli import main as command

        command()
    except KeyboardInterrupt:
        from bench.errors import EXIT_INTERRUPTED

        if sys.stderr:
            sys.stderr.write("interrupted\n")
        sys.exit(EXIT_INTERRUPTED)


if __name__ == "__main__":
    if not sys.flags.safe_path:
        del sys.path[0]  # the current folder, of which workers see nothing
    main()
