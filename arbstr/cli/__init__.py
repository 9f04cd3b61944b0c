"""The command ``arbstr``: thin verbs over the rooms that do the work."""

from arbstr.cli._main import main

__all__ = ["main"]
