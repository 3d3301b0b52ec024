"""Settings that every test shares."""

from __future__ import annotations

import os

from hypothesis import settings

# Examples are the same on every run and on every machine; speed is no reason to fail.
settings.register_profile("ci", derandomize=True, deadline=None, database=None)
# HYPOTHESIS_PROFILE=default looks for other examples.
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))
