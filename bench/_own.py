"""Takes this package from its folder, whatever Python finds, and calls the `main` of a module.

What multiprocessing spawns runs this file again, by another name: it has the same package.
"""

import importlib
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

if "bench" not in sys.modules:
    spec = spec_from_file_location("bench", Path(__file__).with_name("__init__.py"))
    assert spec is not None and spec.loader is not None
    sys.modules["bench"] = module_from_spec(spec)
    spec.loader.exec_module(sys.modules["bench"])
if __name__ == "__main__":
    importlib.import_module(sys.argv.pop(1)).main()
