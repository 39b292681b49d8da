"""One command a file; `bench.cli` gathers them."""
