"""One file per format; each exposes `REPORT`. Found by name, imported only when asked for."""
