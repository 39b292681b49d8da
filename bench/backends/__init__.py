"""One file per backend; each exposes `BACKEND`. Found by name, imported only when asked for."""
