"""Jobs that models share: their data, steps, executions, optimizers, and what the record says."""
