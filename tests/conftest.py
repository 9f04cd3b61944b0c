"""What holds for all tests."""

from __future__ import annotations

from hypothesis import settings

# A shared machine stalls now and then; how long an example takes says nothing about whether it is right.
settings.register_profile("arbstr", deadline=None)
settings.load_profile("arbstr")
