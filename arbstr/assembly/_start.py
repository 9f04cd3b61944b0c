"""One process with everything in it, or several."""

from __future__ import annotations

from arbstr.assembly._core import ConfigSource
from arbstr.assembly._parent import serve_together
from arbstr.assembly._serve import serve_alone
from arbstr.config import Config


def serve(config: Config, *, mock: bool = False, read: ConfigSource | None = None) -> int:
    """Run the proxy until SIGINT or SIGTERM. Returns the exit code: 0 when told to stop, 1 when it cannot run.

    ``read`` gives the configuration anew, for SIGHUP; None when there is no file.
    """
    if config.server.workers > 1:
        return serve_together(config, mock=mock, source=read)
    return serve_alone(config, mock=mock, read=read)
