"""The tests: exact on any machine, through fakes with scripted clocks (`bench.tests.fakes`).

`python -m bench.tests.scripts.regenerate` rewrites the files in `golden/` where a change was meant.
"""
