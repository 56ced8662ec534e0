"""A service with a disk and a clock that can be made to fail, and perhaps a weakness of its own.

Runs as `python -m tests.torture.service serve …`; `TIDEMARK_TORTURE_SERVICE` names the module of
the service, `TIDEMARK_TORTURE_WEAKNESS` what is to be wrong with it, if anything.
"""

import os
import runpy

from tests.torture import faulty_disk, shifted_clock
from tests.torture.weaknesses import WEAKNESSES

SERVICE_VARIABLE = "TIDEMARK_TORTURE_SERVICE"
WEAKNESS_VARIABLE = "TIDEMARK_TORTURE_WEAKNESS"

if __name__ == "__main__":
    faulty_disk.install()
    shifted_clock.install()
    if weakness := os.environ.get(WEAKNESS_VARIABLE):
        WEAKNESSES[weakness]()
    runpy.run_module(os.environ[SERVICE_VARIABLE], run_name="__main__", alter_sys=True)
