"""Settings that every test shares."""

from __future__ import annotations

import os

# Before torch: its spinning threads slow down whatever shares the cores, other tests included.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from hypothesis import settings  # noqa: E402

# Examples are the same on every run and on every machine; speed is no reason to fail.
settings.register_profile("ci", derandomize=True, deadline=None, database=None)
# HYPOTHESIS_PROFILE=default looks for other examples.
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))
