"""``arbstr vault``: read the configuration, see that it is a vault's, hand it to the assembly."""

from __future__ import annotations

import os
from argparse import Namespace

from arbstr.cli._errors import Refused
from arbstr.config import Config, load, with_listen


def run(arguments: Namespace) -> int:
    config = load(arguments.config, os.environ)
    if arguments.listen is not None:
        config = with_listen(config, arguments.listen, source="--listen")
    _refuse_what_is_no_vault(config, str(arguments.config))
    from arbstr.assembly import serve_vault  # takes a second; a wrong file is reported without it

    return serve_vault(config)


def _refuse_what_is_no_vault(config: Config, path: str) -> None:
    """Raises Refused."""
    if config.vault is None:
        raise Refused(f"{path} has no [vault]; write one, with an internal_token for the proxies that may use it")
    if config.vault.url is not None:
        raise Refused(f"[vault] url in {path} names a vault in another process; a vault's own file has none")
    if config.vault.internal_token is None and config.server.admin_token is None:
        raise Refused(
            f"nobody could use this vault: write [vault] internal_token and [server] admin_token in {path}, "
            "each a random text of 32 characters or more"
        )
