"""`python -m bench` is the command `accelmark`."""

import sys

if __name__ == "__main__":
    if not sys.flags.safe_path:
        del sys.path[0]  # the current folder, of which workers see nothing
    from bench.cli import main

    main()
