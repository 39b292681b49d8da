"""One file per output format; each exposes `REPORT`. Found by name, imported only when asked for."""
