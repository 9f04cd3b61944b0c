"""What an operator can set: classes with units and ranges, and loading them from TOML.

Knows no socket and no database. Money is exact: TOML floats are read as decimals.
"""

from arbstr.config._keys import convention_variable
from arbstr.config._load import SCHEMA_KEYS, load, load_admin_token, load_database, loads, with_listen
from arbstr.config._mock import mock_config
from arbstr.config._outcome import ReloadOutcome, outcome_file, read_outcome, write_outcome
from arbstr.config._problems import ConfigError, Problem
from arbstr.config._reload import Reloaded, reloaded
from arbstr.config._sanity import mode_warning, open_mode
from arbstr.config._schema import (
    AgentLimit,
    ComplexityWeights,
    Config,
    DatabaseConfig,
    DiscoveryConfig,
    Limit,
    LimitsConfig,
    LoggingConfig,
    Model,
    PoliciesConfig,
    PolicyRule,
    ProviderConfig,
    RoutingConfig,
    ServerConfig,
    Strategy,
    TelemetryConfig,
    Tier,
    TokenstatsConfig,
    VaultConfig,
)

__all__ = [
    "SCHEMA_KEYS",
    "AgentLimit",
    "ComplexityWeights",
    "Config",
    "ConfigError",
    "DatabaseConfig",
    "DiscoveryConfig",
    "Limit",
    "LimitsConfig",
    "LoggingConfig",
    "Model",
    "PoliciesConfig",
    "PolicyRule",
    "Problem",
    "ProviderConfig",
    "ReloadOutcome",
    "Reloaded",
    "RoutingConfig",
    "ServerConfig",
    "Strategy",
    "TelemetryConfig",
    "Tier",
    "TokenstatsConfig",
    "VaultConfig",
    "convention_variable",
    "load",
    "load_admin_token",
    "load_database",
    "loads",
    "mock_config",
    "mode_warning",
    "open_mode",
    "outcome_file",
    "read_outcome",
    "reloaded",
    "with_listen",
    "write_outcome",
]
