"""Start a worker: ``PYTHON -I official/__main__.py NAME`` for ``run_NAME.py`` beside this file.

Nothing is put on the path: a file beside this one, or in the current directory, can stand in no package's place.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path


def main(name: str) -> None:
    """Import the files beside this one as a package of their own, and serve one software."""
    here = Path(__file__).resolve().parent
    spec = importlib.util.spec_from_file_location(
        "official_worker", str(here / "__init__.py"), submodule_search_locations=[str(here)]
    )
    assert spec is not None
    assert spec.loader is not None
    package = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = package
    spec.loader.exec_module(package)
    serving = importlib.import_module("official_worker.serving")
    serving.serve(name)


if __name__ == "__main__":
    main(sys.argv[1])
