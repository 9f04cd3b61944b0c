"""From TOML text to a ``Config``, or to the list of everything that is wrong with it.

Each key is read by a reader (TOML type to ours) and then checked by the rule of the field it is for (``_schema``), so
the loader and a hand-made value obey the same rules. Nothing stops at the first problem.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from decimal import Decimal, InvalidOperation
from enum import StrEnum
from fractions import Fraction
from pathlib import Path
from typing import Any, TypeVar

import attrs

from arbstr.config import _rules
from arbstr.config._keys import convention_variable, expand, has_reference
from arbstr.config._locate import Locator
from arbstr.config._problems import ConfigError, KeyPath, Problem, dotted
from arbstr.config._rules import Rule, repeated, shown, suggestion
from arbstr.config._sanity import (
    exposure_warning,
    mode_warning,
    open_mode,
    price_warnings,
    shared_variable_warnings,
    short_admin_warning,
)
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
from arbstr.secrets import Secret
from arbstr.units import RATE_UNITS, Price

MAX_FILE_BYTES = 4 << 20
"""A configuration is written by people; a longer file is the wrong file."""

_T = TypeVar("_T")
Reader = Callable[[object], Any]
"""TOML value to ours; raises ValueError for the wrong type."""


# --- Readers: the type of one value -----------------------------------------------------------------------------------


def _wrong(value: object, wanted: str) -> ValueError:
    kinds: list[tuple[type | tuple[type, ...], str]] = [
        (bool, "a boolean"),
        ((int, Decimal), "a number"),
        (str, "text"),
        (list, "an array"),
        (dict, "a table"),
    ]
    kind = next((word for types, word in kinds if isinstance(value, types)), "a date or time")
    return ValueError(f"{shown(value)} is {kind}; write {wanted}")


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise _wrong(value, 'text in quotes, like "…"')
    return value


def _texts(value: object) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise _wrong(value, 'an array of texts, like ["gpt-4o", "gpt-4o-mini"]')
    return value


def _flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise _wrong(value, "true or false")
    return value


def _integer(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise _wrong(value, "an integer without quotes and point")
    return value


def _number(value: object) -> int | Decimal:
    if isinstance(value, bool) or not isinstance(value, int | Decimal):
        raise _wrong(value, "a number without quotes")
    return value


def _float(value: object) -> float:
    """A duration, share or weight: nothing that is paid for."""
    try:
        return float(_number(value))
    except OverflowError:
        return float("inf")


def _rate(value: object) -> int | Decimal:
    number = _number(value)
    _rules.rate(number)
    return number


def _path(value: object) -> Path:
    text = _text(value)
    if "\0" in text or not text:
        raise ValueError(f'{shown(text)} is not a path; write one, like "arbstr.db"')
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise ValueError(f"{shown(text)} cannot be resolved ({error}); write the whole path") from None


_E = TypeVar("_E", bound=StrEnum)


def _word(kind: type[_E], aliases: Sequence[str] = ()) -> Callable[[object], _E]:
    def read(value: object) -> _E:
        text = _text(value)
        _rules.one_of([*(member.value for member in kind), *aliases])(text)
        return kind(text)

    return read


_strategy = _word(Strategy, ["lowest_cost"])


def _unit(value: object) -> str:
    text = _text(value)
    if text == "usd_per_1m_tokens":
        raise ValueError(f"{shown(text)} is not in this version; write sats, in one of {', '.join(RATE_UNITS)}")
    _rules.one_of(RATE_UNITS)(text)
    return text


# --- Tables: which keys there are -------------------------------------------------------------------------------------

_SERVER: dict[str, Reader] = {
    "listen": _text,
    "max_body_bytes": _integer,
    "body_timeout_s": _float,
    "max_requests": _integer,
    "shutdown_grace_s": _float,
    "stream_cost_event": _flag,
    "heartbeat_s": _float,
    "rate_limit_rps": _integer,
    "http1": _text,
}
_SERVER_SECRETS = ("auth_token", "admin_token")
_DATABASE: dict[str, Reader] = {"path": _path, "durability": _text}
_VAULT: dict[str, Reader] = {
    "url": _text,
    "pending_threshold": _integer,
    "default_reserve_tokens": _integer,
    "hold_lease_s": _float,
    "reservation_lease_s": _float,
    "approval_wait_s": _float,
    "webhook_url": _text,
}
_VAULT_SECRETS = ("internal_token", "webhook_secret")
_PROVIDER: dict[str, Reader] = {
    "name": _text,
    "url": _text,
    "tier": _word(Tier),
    "connect_timeout_s": _float,
    "first_byte_timeout_s": _float,
    "idle_timeout_s": _float,
    "total_timeout_s": _float,
    "max_concurrent": _integer,
    "breaker_failures": _integer,
    "breaker_open_s": _float,
    "breaker_denied_open_s": _float,
    "probe_interval_s": _float,
    "on_disconnect": _text,
    "weight": _integer,
    "auto_discover": _flag,
    "http2": _flag,
}
_MODEL: dict[str, Reader] = {
    "id": _text,
    "upstream_id": _text,
    "context_tokens": _integer,
    "max_output_tokens": _integer,
}
_RATES = ("input_rate", "output_rate", "cached_input_rate", "base_fee")
_POLICIES = ("default", "default_strategy", "rules")
_RULE: dict[str, Reader] = {"name": _text, "allowed_models": _texts, "strategy": _strategy, "keywords": _texts}
_CAPS = {"max_sats_per_1k_output": 1, "max_sats_per_1m_output": 1_000}
"""Price caps and how many times 1,000 tokens each is for."""
_ROUTING: dict[str, Reader] = {
    "complexity_threshold_low": _float,
    "complexity_threshold_high": _float,
    "enforce_tier": _flag,
    "extra_keywords": _texts,
    "retries": _integer,
    "backoff_s": _float,
    "deadline_s": _float,
}
_WEIGHTS: dict[str, Reader] = {field.name: _float for field in attrs.fields(ComplexityWeights)}
_LIMIT: dict[str, Reader] = {field.name: _integer for field in attrs.fields(Limit)}
_DISCOVERY: dict[str, Reader] = {"interval_s": _float, "timeout_s": _float}
_TOKENSTATS: dict[str, Reader] = {
    "url": _text,
    "poll_interval_secs": _float,
    "min_reliability": _float,
    "stale_after_secs": _float,
    "blend_ratio": _float,
    "source": _text,
    "price_factor": _float,
}
_LOGGING: dict[str, Reader] = {"level": _text, "format": _text, "log_requests": _flag, "log_prompts": _flag}
_TELEMETRY: dict[str, Reader] = {"traces": _flag, "service_name": _text}

SCHEMA_KEYS: dict[str, tuple[str, ...]] = {
    "": (
        "rate_unit",
        "server",
        "database",
        "vault",
        "providers",
        "policies",
        "routing",
        "aliases",
        "limits",
        "discovery",
        "tokenstats",
        "logging",
        "telemetry",
    ),
    "server": (*_SERVER, *_SERVER_SECRETS),
    "database": tuple(_DATABASE),
    "vault": (*_VAULT, *_VAULT_SECRETS),
    "providers": (*_PROVIDER, "api_key", "proxy", "models", "rate_unit", *_RATES),
    "providers.models": (*_MODEL, *_RATES),
    "policies": _POLICIES,
    "policies.rules": (*_RULE, *_CAPS),
    "routing": (*_ROUTING, "complexity_weights"),
    "routing.complexity_weights": tuple(_WEIGHTS),
    "limits": (*_LIMIT, "agent", "agents"),
    "limits.agent": tuple(_LIMIT),
    "limits.agents": ("agent", "models", *_LIMIT),
    "discovery": tuple(_DISCOVERY),
    "tokenstats": (*_TOKENSTATS, "keys"),
    "logging": tuple(_LOGGING),
    "telemetry": tuple(_TELEMETRY),
}
"""Every key that may be written, by table (empty: top of the file). The manual is checked against it. ``[aliases]`` and
``[tokenstats.keys]`` are not in it: their keys are names that the operator gives."""

_ABSENT = {
    "routing.standard_threshold": "it is called complexity_threshold_low",
    "routing.frontier_threshold": "it is called complexity_threshold_high",
}
"""Keys that other versions of arbstr know, and why they are not here."""


# --- Reading ----------------------------------------------------------------------------------------------------------


class _Report:
    """Collects what is found in one text."""

    def __init__(self, text: str, source: str, environ: Mapping[str, str], *, lenient: bool) -> None:
        self.source = source
        self.environ = environ
        self.problems: list[Problem] = []
        self.warnings: list[str] = []
        self.literal_keys: list[str] = []
        self.convention_keys: list[tuple[str, str]] = []
        self._lenient = lenient
        self._lines = Locator(text)

    def at(self, path: KeyPath, message: str) -> Problem:
        return Problem(self.source, self._lines.line_of(path), dotted(path), message)

    def problem(self, path: KeyPath, message: str) -> None:
        self.problems.append(self.at(path, message))

    def warn(self, path: KeyPath, message: str) -> None:
        self.warnings.append(str(self.at(path, message)))

    def unknown(self, path: KeyPath, message: str) -> None:
        (self.warn if self._lenient else self.problem)(path, message)

    def line_of(self, path: KeyPath) -> int | None:
        return self._lines.line_of(path)


class _Table:
    """One table being read. A value that is absent or wrong is simply not there; wrong ones are reported."""

    def __init__(self, report: _Report, path: KeyPath, data: Mapping[str, object]) -> None:
        self.report = report
        self.path = path
        self.data = data
        name = data.get("name")
        self._owner = f"{_OWNERS[path[:-1]]} {shown(name)}: " if path[:-1] in _OWNERS and isinstance(name, str) else ""

    def child(self, key: str) -> _Table | None:
        """The table under this key; None when absent or not a table."""
        value = self.data.get(key, _NOTHING)
        if value is _NOTHING:
            return None
        if not isinstance(value, dict):
            self.problem(key, f"{shown(value)} is not a table; write [{dotted((*self.path, key))}] above its keys")
            return None
        return _Table(self.report, (*self.path, key), value)

    def children(self, key: str) -> Iterator[_Table]:
        """The tables of the array of tables under this key."""
        value = self.data.get(key, [])
        header = f"[[{dotted((*self.path, key))}]]"
        if not isinstance(value, list):
            self.problem(key, f"is not an array of tables; write {header} with two brackets")
            return
        for index, item in enumerate(value):
            path = (*self.path, key, index)
            if isinstance(item, dict):
                yield _Table(self.report, path, item)
            else:
                self.report.problem(path, f"{shown(item)} is not a table; write {header} above its keys")

    def refuse_unknown(self, table: str) -> None:
        """Report every key that is not in ``SCHEMA_KEYS`` for this table."""
        known = SCHEMA_KEYS[table]
        for key in self.data:
            if key not in known:
                message = f"{self._owner}unknown key; {_about_unknown(table, key, known)}"
                self.report.unknown((*self.path, key), message)

    def get(self, key: str, reader: Callable[[object], _T]) -> _T | None:
        """The value read; None when absent or when it was reported as wrong."""
        if key not in self.data:
            return None
        try:
            return reader(self.data[key])
        except ValueError as error:
            self.problem(key, str(error))
            return None

    def fields(self, readers: Mapping[str, Reader], kind: type) -> dict[str, Any]:
        """All plain values of the table, read and checked by the rules of the class they are for."""
        values = {}
        for key, reader in readers.items():
            rule = attrs.fields_dict(kind)[key].validator

            def read(value: object, reader: Reader = reader, rule: object = rule) -> Any:
                result = reader(value)
                if isinstance(rule, Rule):
                    rule.check(result)
                return result

            value = self.get(key, read)
            if value is not None:
                values[key] = value
        return values

    def secret(self, key: str, rule: Rule, *, public: bool = False) -> tuple[Secret | None, str]:
        """The secret under this key, ``${VAR}`` expanded, and where it came from. No message shows it.

        ``public``: if it stands in the file as it is, the file need not be kept from others for it.
        """
        value = self.data.get(key)
        if value is None:
            return None, "none"
        if not isinstance(value, str):
            self.problem(key, f'is not text (value not shown); write it in quotes, like "${{{key.upper()}}}"')
            return None, "none"
        source = "config-literal"
        if has_reference(value):
            source = "env-expanded"
            value, complaints = expand(value, self.report.environ)
            for complaint in complaints:
                self.problem(key, complaint)
            if complaints:
                return None, source
        elif value and not public:
            self.report.literal_keys.append(dotted((*self.path, key)))
        try:
            rule.check(Secret(value))
        except ValueError as error:
            self.problem(key, str(error))
            return None, source
        return Secret(value), source

    def problem(self, key: str, message: str) -> None:
        self.report.problem((*self.path, key), self._owner + message)

    def warn(self, message: str) -> None:
        self.report.warn(self.path, self._owner + message)

    def missing(self, key: str, example: str) -> None:
        """Report a required key, at the table's own line. One that is there but wrong has been reported already."""
        if key not in self.data:
            self.problem(key, f"is missing; write {key} = {example}")


_NOTHING = object()
_OWNERS: dict[KeyPath, str] = {
    ("providers",): "provider",
    ("policies", "rules"): "policy",
    ("limits", "agents"): "agent",
}
"""What the tables of these arrays are called: their problems name them, since nobody counts tables."""


def _about_unknown(table: str, key: str, known: Sequence[str]) -> str:
    if reason := _ABSENT.get(f"{table}.{key}"):
        return f"{reason}; remove it"
    homes = [name for name, keys in SCHEMA_KEYS.items() if key in keys and name != table]
    if not homes and (near := suggestion(key, known)):
        return f"did you mean {near}?"
    if homes:
        places = [("at the top of the file" if not home else f"in [{home}]") for home in homes]
        return f"it belongs {' or '.join(places)}"
    return f"known here: {', '.join(known)}"


def _rule_of(kind: type, key: str) -> Rule:
    rule = attrs.fields_dict(kind)[key].validator
    assert isinstance(rule, Rule)
    return rule


def _section(root: _Table, name: str, readers: Mapping[str, Reader], kind: type[_T]) -> _T | None:
    """A plain table as its class; None when it is absent."""
    table = root.child(name)
    if table is None:
        return None
    table.refuse_unknown(name)
    return kind(**table.fields(readers, kind))


def _subsection(table: _Table, parent: str, name: str, readers: Mapping[str, Reader], kind: type[_T]) -> _T | None:
    child = table.child(name)
    if child is None:
        return None
    child.refuse_unknown(f"{parent}.{name}")
    return kind(**child.fields(readers, kind))


def _server(root: _Table) -> ServerConfig:
    table = root.child("server")
    if table is None:
        return ServerConfig()
    table.refuse_unknown("server")
    values = table.fields(_SERVER, ServerConfig)
    for key in _SERVER_SECRETS:
        values[key], _ = table.secret(key, _rule_of(ServerConfig, key))
    return ServerConfig(**values)


def _vault(root: _Table) -> VaultConfig | None:
    table = root.child("vault")
    if table is None:
        return None
    table.refuse_unknown("vault")
    values = table.fields(_VAULT, VaultConfig)
    for key in _VAULT_SECRETS:
        values[key], _ = table.secret(key, _rule_of(VaultConfig, key))
    _vault_in_one_place(table)
    return VaultConfig(**values)


_HERE = ("hold_lease_s", "reservation_lease_s", "webhook_url", "webhook_secret")
"""Of ``[vault]``: what is of no use where the accounts are somewhere else."""


def _vault_in_one_place(table: _Table) -> None:
    """Report what has no effect, and a vault that would not let us in."""
    if "url" not in table.data:
        return
    table.missing("internal_token", '"${VAULT_INTERNAL_TOKEN}", as the vault at url has it')
    for key in _HERE:
        if key in table.data:
            table.problem(key, "has no effect beside url: it belongs into the configuration of the vault")


def _provider(table: _Table, default_unit: str) -> ProviderConfig | None:
    """One provider; None when it cannot be made, which has been reported."""
    table.refuse_unknown("providers")
    values = table.fields(_PROVIDER, ProviderConfig)
    table.missing("name", '"my-provider"')
    table.missing("url", '"https://api.example.com/v1"')
    values["api_key"], values["key_source"] = _api_key(table, values.get("name"))
    values["proxy"] = _proxy(table)
    values["rate_unit"] = table.get("rate_unit", _unit) or default_unit
    models = list(_models(table, values["rate_unit"]))
    values["models"] = tuple(models)
    values["price"] = _price(table, values["rate_unit"], needed=not models or any(one.price is None for one in models))
    return ProviderConfig(**values) if "name" in values and "url" in values else None


def _api_key(table: _Table, name: str | None) -> tuple[Secret | None, str]:
    """The key in the file, else the one in the variable that goes with the name, else none."""
    rule = _rule_of(ProviderConfig, "api_key")
    if "api_key" in table.data:
        return table.secret("api_key", rule)
    variable = convention_variable(name or "")
    if name is None or variable not in table.report.environ:
        return None, "none"
    secret = Secret(table.report.environ[variable])
    table.report.convention_keys.append((variable, name))
    try:
        rule.check(secret)
    except ValueError as error:
        table.problem("api_key", f"Environment variable {variable} {error}")
        return None, "convention"
    return secret, "convention"


def _proxy(table: _Table) -> Secret | None:
    """Most have no password, and then it is no secret that stands in the file."""
    written = table.data.get("proxy")
    proxy, _ = table.secret(
        "proxy", _rule_of(ProviderConfig, "proxy"), public=isinstance(written, str) and "@" not in written
    )
    return proxy


def _models(table: _Table, unit: str) -> Iterator[Model]:
    """Of one provider: names, or tables with an ``id``."""
    if "models" not in table.data:
        return
    items = table.data["models"]
    if not isinstance(items, list) or not all(isinstance(item, str | dict) for item in items):
        table.get("models", _texts)  # says what is wrong with it
        return
    for index, item in enumerate(items):
        path = (*table.path, "models", index)
        particulars = _Table(table.report, path, item) if isinstance(item, dict) else None
        model = _named_model(table, item) if particulars is None else _model(particulars, unit)
        if model is not None:
            yield model


def _named_model(table: _Table, name: str) -> Model | None:
    try:
        return Model(name)
    except ValueError as error:
        table.problem("models", str(error).removeprefix("id: "))
        return None


def _model(table: _Table, unit: str) -> Model | None:
    """One model with particulars; None when it cannot be made, which has been reported."""
    table.refuse_unknown("providers.models")
    values = table.fields(_MODEL, Model)
    table.missing("id", '"gpt-4o"')
    if any(key in table.data for key in _RATES):
        values["price"] = _price(table, unit, needed=True)
        if values["price"] is None:
            values["excluded"] = "its price is incomplete"
    return Model(**values) if "id" in values else None


def _price(table: _Table, unit: str, *, needed: bool) -> Price | None:
    """The price, or None, with a warning if it is needed, when half of it is not there: unknown is not zero."""
    rates = {key: table.get(key, _rate) for key in _RATES}
    absent = [key for key in ("input_rate", "output_rate") if key not in table.data]
    if absent and (needed or len(absent) == 1):
        table.warn(
            f"no {' and no '.join(absent)}: the price is unknown, so it is not used; write both rates, 0 if it is free"
        )
    prompt, completion = rates["input_rate"], rates["output_rate"]
    if prompt is None or completion is None:
        return None
    return Price.of(prompt, completion, rates["base_fee"] or 0, cached_input_rate=rates["cached_input_rate"], unit=unit)


def _policies(root: _Table) -> PoliciesConfig:
    table = root.child("policies")
    if table is None:
        return PoliciesConfig()
    table.refuse_unknown("policies")
    first, second = table.get("default", _strategy), table.get("default_strategy", _strategy)
    if "default" in table.data and "default_strategy" in table.data:
        table.problem("default_strategy", "is the same as default; remove one of the two")
    rules = list(table.children("rules"))
    _refuse_repetitions(rules)
    return PoliciesConfig(default=first or second or Strategy.CHEAPEST, rules=_made(map(_policy_rule, rules)))


def _policy_rule(table: _Table) -> PolicyRule | None:
    table.refuse_unknown("policies.rules")
    values = table.fields(_RULE, PolicyRule)
    table.missing("name", '"my-policy"')
    caps = {key: table.get(key, _rate) for key in _CAPS}
    if all(key in table.data for key in _CAPS):
        table.problem("max_sats_per_1m_output", "is the same cap as max_sats_per_1k_output; remove one of the two")
    for key, cap in caps.items():
        if cap is not None:
            values["max_output_rate"] = Fraction(cap) / _CAPS[key]
    return PolicyRule(**values) if "name" in values else None


def _routing(root: _Table) -> RoutingConfig:
    table = root.child("routing")
    if table is None:
        return RoutingConfig()
    table.refuse_unknown("routing")
    values = table.fields(_ROUTING, RoutingConfig)
    weights = _subsection(table, "routing", "complexity_weights", _WEIGHTS, ComplexityWeights)
    if weights is not None:
        values["complexity_weights"] = weights
    try:
        return RoutingConfig(**values)
    except ValueError as error:  # of two values that are right one by one
        key, _, message = str(error).partition(": ")
        table.problem(key, message)
        return RoutingConfig()


def _aliases(root: _Table) -> dict[str, str]:
    table = root.child("aliases")
    if table is None:
        return {}
    found = {alias: table.get(alias, _model_name) for alias in table.data}
    for alias, model in found.items():
        if model is not None and model in found:
            table.problem(alias, f"{shown(model)} is an alias itself; write the name of a model")
    return {alias: model for alias, model in found.items() if model is not None}


def _model_name(value: object) -> str:
    text = _text(value)
    _rules.name(text)
    return text


def _limits(root: _Table) -> LimitsConfig:
    table = root.child("limits")
    if table is None:
        return LimitsConfig()
    table.refuse_unknown("limits")
    agents = list(table.children("agents"))
    _refuse_repetitions(agents, "agent")
    return LimitsConfig(
        total=Limit(**table.fields(_LIMIT, Limit)),
        agent=_subsection(table, "limits", "agent", _LIMIT, Limit) or Limit(),
        agents=tuple(limit for one in agents if (limit := _agent_limit(one)) is not None),
    )


def _agent_limit(table: _Table) -> AgentLimit | None:
    table.refuse_unknown("limits.agents")
    values = table.fields({"agent": _text, "models": _texts}, AgentLimit)
    table.missing("agent", '"alice"')
    return AgentLimit(**values, limit=Limit(**table.fields(_LIMIT, Limit))) if "agent" in values else None


def _tokenstats(root: _Table) -> TokenstatsConfig | None:
    table = root.child("tokenstats")
    if table is None:
        return None
    table.refuse_unknown("tokenstats")
    values = table.fields(_TOKENSTATS, TokenstatsConfig)
    table.missing("url", '"https://feed.example.com"')
    keys = table.child("keys")
    if keys is not None:
        rule = _rule_of(ProviderConfig, "api_key")
        secrets = {name: keys.secret(name, rule)[0] for name in keys.data}
        values["keys"] = {name: secret for name, secret in secrets.items() if secret is not None and secret.reveal()}
    return TokenstatsConfig(**values) if "url" in values else None


def _refuse_repetitions(tables: Sequence[_Table], key: str = "name") -> None:
    """Report each name that was there before, with the line of the first."""
    names = [name if isinstance(name := table.data.get(key), str) else f"\0{n}" for n, table in enumerate(tables)]
    for later, first, name in repeated(names):
        line = tables[first].report.line_of((*tables[first].path, key))
        tables[later].problem(key, f"this name is already on line {line}; write another one than {shown(name)}")


_Named = TypeVar("_Named", bound=ProviderConfig | PolicyRule)


def _made(values: Iterable[_Named | None]) -> tuple[_Named, ...]:
    """Those that could be made, the first of each name: what a report with problems leaves to build with."""
    kept: dict[str, _Named] = {}
    for value in values:
        if value is not None:
            kept.setdefault(value.name, value)
    return tuple(kept.values())


def _providers(root: _Table) -> tuple[ProviderConfig, ...]:
    unit = root.get("rate_unit", _unit) or "sats_per_1k_tokens"
    tables = list(root.children("providers"))
    _refuse_repetitions(tables)
    return _made(_provider(table, unit) for table in tables)


def _decimal(text: str) -> Decimal:
    """A TOML float, exactly. One that even Decimal cannot hold becomes infinite, and is refused where it is used."""
    try:
        return Decimal(text)
    except InvalidOperation:
        return Decimal("Infinity")


def _parse(text: str, source: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text, parse_float=_decimal)
    except (ValueError, RecursionError) as error:  # ValueError: TOMLDecodeError, and integers too long for Python
        line = re.search(r"\(at line (\d+)", str(error))
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        problem = Problem(source, int(line[1]) if line else None, "", f"Failed to parse config: {reason}")
        raise ConfigError([problem]) from error


def _read(text: str, source: str, environ: Mapping[str, str], *, lenient: bool) -> tuple[Config, _Report]:
    """Everything that can be made of the text. It is only to be used when the report has no problems."""
    data = _parse(text, source)
    report = _Report(text, source, environ, lenient=lenient)
    root = _Table(report, (), data)
    root.refuse_unknown("")
    config = Config(
        server=_server(root),
        database=_section(root, "database", _DATABASE, DatabaseConfig) or DatabaseConfig(),
        vault=_vault(root),
        providers=_providers(root),
        policies=_policies(root),
        routing=_routing(root),
        aliases=_aliases(root),
        limits=_limits(root),
        discovery=_section(root, "discovery", _DISCOVERY, DiscoveryConfig) or DiscoveryConfig(),
        tokenstats=_tokenstats(root),
        logging=_section(root, "logging", _LOGGING, LoggingConfig) or LoggingConfig(),
        telemetry=_section(root, "telemetry", _TELEMETRY, TelemetryConfig) or TelemetryConfig(),
    )
    report.problems.sort(key=lambda problem: problem.line or 0)
    return config, report


def _finish(config: Config, report: _Report) -> Config:
    """The configuration with its warnings, or ConfigError."""
    if report.problems:
        raise ConfigError(report.problems)
    warnings = [*report.warnings, *shared_variable_warnings(report.convention_keys)]
    warnings += price_warnings(config.providers)
    if not config.providers and not _is_a_vaults(config):
        warnings.append(f"{report.source} has no [[providers]]: every request will be refused")
    warnings += filter(None, (exposure_warning(config), short_admin_warning(config)))
    return attrs.evolve(config, warnings=tuple(warnings))


def _is_a_vaults(config: Config) -> bool:
    """Whether the file lets others hold and settle here: a vault needs no providers."""
    return config.vault is not None and config.vault.url is None and config.vault.internal_token is not None


def _read_file(path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: a path with a NUL in it
        message = f"Failed to read config file {path}: {getattr(error, 'strerror', None) or error}"
        raise ConfigError([Problem(str(path), None, "", message)]) from error
    if len(content) > MAX_FILE_BYTES:
        message = f"Failed to parse config: longer than {MAX_FILE_BYTES} bytes; is this the right file?"
        raise ConfigError([Problem(str(path), None, "", message)])
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        message = f"Failed to parse config: byte {error.start} is not UTF-8; save the file as UTF-8"
        raise ConfigError([Problem(str(path), line, "", message)]) from error


def loads(text: str, *, source: str, environ: Mapping[str, str], lenient: bool = False) -> Config:
    """Read a configuration from text; ``source`` is the name used in messages.

    ``lenient`` turns unknown keys into warnings. Raises ConfigError with every problem.
    """
    return _finish(*_read(text, source, environ, lenient=lenient))


def load(path: Path, environ: Mapping[str, str], *, lenient: bool = False) -> Config:
    """Read a configuration file. Raises ConfigError with every problem, also for a file that cannot be read.

    A file that others may read and that holds a key in plain text gets a warning.
    """
    config, report = _read(_read_file(path), str(path), environ, lenient=lenient)
    config = _finish(config, report)
    mode = open_mode(path)
    if mode is not None and mode & 0o077 and report.literal_keys:
        config = attrs.evolve(config, warnings=(*config.warnings, mode_warning(path, mode)))
    return config


def load_database(path: Path) -> tuple[DatabaseConfig, VaultConfig | None]:
    """Only ``[database]`` and ``[vault]`` of a file, for tools that need no providers and so no keys of theirs.

    Raises ConfigError for problems in these two tables, and for a file that cannot be read or parsed.
    """
    config, report = _read(_read_file(path), str(path), {}, lenient=False)
    secrets = {f"vault.{key}" for key in _VAULT_SECRETS}  # their variables are the server's
    problems = [
        problem
        for problem in report.problems
        if re.match(r"(database|vault)(\.|$)", problem.key) and problem.key not in secrets
    ]
    if problems:
        raise ConfigError(problems)
    return config.database, config.vault


def load_admin_token(path: Path, environ: Mapping[str, str]) -> Secret | None:
    """Only ``[server] admin_token`` of a file, for tools that speak to a program which runs by it.

    Raises ConfigError for a problem with it, and for a file that cannot be read or parsed.
    """
    config, report = _read(_read_file(path), str(path), environ, lenient=False)
    problems = [problem for problem in report.problems if problem.key == "server.admin_token"]
    if problems:
        raise ConfigError(problems)
    return config.server.admin_token


def with_listen(config: Config, listen: str, *, source: str) -> Config:
    """The same configuration listening elsewhere; ``source`` (the option's name) is used in the ConfigError."""
    try:
        server = attrs.evolve(config.server, listen=listen)
    except ValueError as error:
        raise ConfigError([Problem(source, None, "", str(error).removeprefix("listen: "))]) from None
    before = exposure_warning(config)
    moved = attrs.evolve(config, server=server)
    warnings = [warning for warning in config.warnings if warning != before]
    if exposed := exposure_warning(moved):
        warnings.append(exposed)
    return attrs.evolve(moved, warnings=tuple(warnings))
