"""Settings for all tests."""

import sys

import pytest
from hypothesis import settings

# Hypothesis tries the same inputs on every run, however slow the machine.
settings.register_profile("course", deadline=None, derandomize=True, database=None)
settings.load_profile("course")


@pytest.fixture(autouse=True)
def _no_pictures_left():
    """Matplotlib warns when too many are open, and a warning is an error here."""
    yield
    if pyplot := sys.modules.get("matplotlib.pyplot"):
        pyplot.close("all")
