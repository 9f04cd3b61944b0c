"""An OpenAI-compatible proxy that buys each answer for the fewest sats and keeps exact books."""

from importlib.metadata import version

__version__ = version("arbstr")
