"""The workloads: one file each, found by their file name, imported only when they run."""
