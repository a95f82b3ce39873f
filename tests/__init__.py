"""The tests; workers of pytest-xdist share the cores, because OpenMP's threads spin while they wait for one."""

import os

if "PYTEST_XDIST_WORKER_COUNT" in os.environ:
    share = (os.cpu_count() or 1) // int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, share)))  # read when torch is imported
