"""The library that a faulty workload imports; it leaves a process of its own behind."""

# mypy: ignore-errors

import subprocess

import faulty

child = subprocess.Popen(["sleep", "600"])
faulty.reach("import")
