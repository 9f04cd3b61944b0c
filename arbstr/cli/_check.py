"""``arbstr check``: is the configuration valid, and where do the keys come from. Never shows a key."""

from __future__ import annotations

import os
from argparse import Namespace

from arbstr.config import ProviderConfig, convention_variable, load, mode_warning, open_mode


def run(arguments: Namespace) -> int:
    path = arguments.config
    config = load(path, os.environ, lenient=arguments.lenient)
    print(f"{path}: configuration is valid")
    print(f"  Listen: {config.server.listen}")
    print(f"  Providers: {len(config.providers)}")
    print(f"  Policy rules: {len(config.policies.rules)}")
    said = None
    if (mode := open_mode(path)) is not None:
        said = mode_warning(path, mode)
        print(f"\nWARNING: {path} has mode {mode:04o}, which allows more than 0600")
        print(f"  chmod 600 {path}")
    print("\nProvider key status:")
    for provider in config.providers:
        _print_key_status(provider)
    if warnings := [warning for warning in config.warnings if warning != said]:
        print("\nWarnings:")
        for warning in warnings:
            print(f"  {warning}")
    return 0


def _print_key_status(provider: ProviderConfig) -> None:
    variable = convention_variable(provider.name)
    match provider.key_source:
        case "none" if provider.is_mock:
            status = "no key needed (mock)"
        case "none":
            status = f"no key (set {variable} or add api_key to config)"
        case "convention":
            status = f"key from convention ({variable})"
        case source:
            status = f"key from {source}"
    print(f"  {provider.name}: {status}")
    if provider.key_source == "config-literal":
        print(f'    WARNING: Plaintext key. Set {variable} and remove it, or write api_key = "${{{variable}}}"')
