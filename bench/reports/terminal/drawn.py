"""What is drawn for a terminal, as text: any width, and the same meaning without colour."""

from __future__ import annotations

import io
from collections.abc import Callable

from rich.console import Console

from bench.report import Canvas

LEAST_WIDTH = 40
"""Columns of the narrowest card."""


def drawn(canvas: Canvas, draw: Callable[[Console], None]) -> str:
    """What `draw` prints on a console of that canvas, ending in a newline."""
    output = io.StringIO()
    draw(
        Console(
            file=output,
            width=max(canvas.width, LEAST_WIDTH),
            force_terminal=canvas.colour,
            no_color=not canvas.colour,
            highlight=False,
            emoji=False,
            markup=False,
        )
    )
    # Trailing blanks only hurt whoever pastes it.
    return "\n".join(line.rstrip() for line in output.getvalue().splitlines()) + "\n"
