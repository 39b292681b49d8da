"""A suite as pytest items: `pytest --pyargs bench.suite --accelmark-suite quick`."""
