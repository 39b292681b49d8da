"""What the samples mean: rows, verdicts, shares of ceilings, one run against another."""
