"""What a package of your own imports to bring a backend, a workload, a report or a framework.

One module for each kind; what stands in its `__all__` is public: it keeps its name and meaning
within a major version, and `bench/tests/test_public_names.py` lists it. Where the names are made is
nobody's business and may change.

    from bench.plugins.backend import TorchBackend
    from bench.plugins.framework import Draws, Framework, Tensors
    from bench.plugins.report import Canvas, Report, RunFile, summarize
    from bench.plugins.workload import Job, Mode, Parameters, SeededData, Site, Work, Workload
"""
