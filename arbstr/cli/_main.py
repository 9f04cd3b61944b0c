"""Which verbs and options there are, and how errors leave the program.

Exit codes: 0 done, 1 refused or failed (the reason on stderr), 2 not understood (usage on stderr), 130 interrupted.
A verb's module is imported when it is used: ``--version`` needs no network and no database.
"""

from __future__ import annotations

import os
import sys
from argparse import SUPPRESS, ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from arbstr import __version__
from arbstr.cli._amounts import parse_amount_msat
from arbstr.cli._errors import Refused
from arbstr.cli._times import DEFAULT_RANGE, RANGES, parse_time_ns
from arbstr.config import ConfigError
from arbstr.units import Msat

if TYPE_CHECKING:
    from argparse import _SubParsersAction

MAX_NUMBER = 1_000


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line (default: that of the process) and return its exit code.

    Raises SystemExit for ``--help``, ``--version`` and for what argparse does not understand.
    """
    arguments = _parser().parse_args(argv)
    try:
        code: int = arguments.run(arguments)
        sys.stdout.flush()
        return code
    except ConfigError as error:
        _print_config_error(error, arguments)
    except Refused as error:
        print(f"Error: {error}", file=sys.stderr)
    except BrokenPipeError:  # the reader of our output has left; let nothing more be written to it at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        return 130
    return 1


def _print_config_error(error: ConfigError, arguments: Namespace) -> None:
    """Every problem on its own line, ``check`` in other words than the rest; then the cause, for who does not check."""
    checking = arguments.verb == "check"
    for problem in error.problems:
        print(f"{'Configuration error' if checking else 'Error'}: {problem}", file=sys.stderr)
    if error.__cause__ is not None and not checking:
        print(f"\nCaused by:\n    {error.__cause__}", file=sys.stderr)
    if isinstance(error.__cause__, FileNotFoundError):
        print(
            "\nCopy config.example.toml to config.toml and edit it, or try arbstr without any: arbstr serve --mock",
            file=sys.stderr,
        )


def _run(module: str, function: str) -> Callable[[Namespace], int]:
    def run(arguments: Namespace) -> int:
        code: int = getattr(import_module(f"arbstr.cli._{module}"), function)(arguments)
        return code

    return run


def _amount(text: str) -> Msat:
    try:
        return parse_amount_msat(text)
    except ValueError as error:
        raise ArgumentTypeError(str(error)) from None


def _time(text: str) -> int:
    try:
        return parse_time_ns(text)
    except ValueError as error:
        raise ArgumentTypeError(str(error)) from None


def _number(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and 0 < len(text) < 6 and 0 < int(text) <= MAX_NUMBER):
        raise ArgumentTypeError(f"{text!r} is not a number of requests; write 1 to {MAX_NUMBER}")
    return int(text)


def _parser() -> ArgumentParser:
    parser = ArgumentParser(
        prog="arbstr", description="Send each LLM request to the cheapest provider that qualifies.", allow_abbrev=False
    )
    parser.add_argument("-V", "--version", action="version", version=f"arbstr {__version__}")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)

    serve = _verb(verbs, "serve", "run the proxy")
    serve.add_argument("-l", "--listen", metavar="ADDR", help="host:port to listen on; overrides [server] listen")
    serve.add_argument("--mock", action="store_true", help="a market of pretended providers; no file, no network")
    vault = _verb(verbs, "vault", "run the vault alone, for proxies in other processes")
    vault.add_argument("-l", "--listen", metavar="ADDR", help="host:port to listen on; overrides [server] listen")
    _verb(verbs, "reload", "have the arbstr that runs read its configuration again")
    check = _verb(verbs, "check", "read the configuration and report all that is wrong with it")
    check.add_argument("--lenient", action="store_true", help="unknown keys are warnings, not errors")
    _add_json(_verb(verbs, "providers", "show the configured providers"))
    _add_json(_verb(verbs, "models", "show the configured models with their prices, cheapest first"))
    _add_stats(_verb(verbs, "stats", "what was asked, what it cost and what choosing saved"))
    _add_requests(_verb(verbs, "requests", "show the newest requests, or one of them whole"))
    _add_replay(_verb(verbs, "replay", "price the recorded requests, or a trace, by this configuration"))
    _add_agents(_verb(verbs, "agents", "agents and their balances"))
    _add_approvals(_verb(verbs, "approvals", "what waits for a human, and the word of one"))
    _add_audit(_verb(verbs, "audit", "check the books and the audit log; works while an arbstr runs"))
    _add_json(_verb(verbs, "settlements", "what a vault in another process has still to hear, or will not take"))
    backup = _verb(verbs, "backup", "copy the database, also while an arbstr runs", action=("backup", "backup"))
    backup.add_argument("file", metavar="FILE", type=Path, help="where to; audited before it is there")
    backup.add_argument("--force", action="store_true", help="overwrite the file")
    restore = _verb(verbs, "restore", "put a backup in the place of the database", action=("backup", "restore"))
    restore.add_argument("file", metavar="FILE", type=Path, help="what backup wrote; audited first")
    for verb in (backup, restore):
        verb.set_defaults(config=Path("config.toml"))
    help_verb = verbs.add_parser("help", help="show this help")
    help_verb.set_defaults(run=lambda _arguments: _help(parser))
    return parser


def _help(parser: ArgumentParser) -> int:
    parser.print_help()
    return 0


def _add_approvals(approvals: ArgumentParser) -> None:
    approvals.add_argument("--all", action="store_true", help="also those that have been decided")
    _add_json(approvals)
    actions = approvals.add_subparsers(dest="action", metavar="ACTION")
    for name, text in (("grant", "let it happen"), ("deny", "give its money back")):
        action = _verb(actions, name, text, action=("approvals", name))
        action.add_argument("id", metavar="ID", help="of the approval, apr_...")
        action.add_argument("--why", metavar="TEXT", type=_words(500), required=True, help="for the audit log")
        action.add_argument("--by", metavar="NAME", type=_words(100), help="who decides (default: your user name)")


def _words(most: int) -> Callable[[str], str]:
    def words(text: str) -> str:
        if not text.strip() or len(text) > most or not text.isprintable():
            raise ArgumentTypeError(f"{text[:60]!r} is not 1 to {most} printable characters")
        return text

    return words


def _add_audit(audit: ArgumentParser) -> None:
    actions = audit.add_subparsers(dest="action", metavar="ACTION", required=True)
    _add_json(_verb(actions, "verify", "walk the hash chain of the audit log", action=("audit", "verify")))
    _add_json(_verb(actions, "check", "add up everything that is in the books", action=("audit", "check")))


def _add_agents(agents: ArgumentParser) -> None:
    actions = agents.add_subparsers(dest="action", metavar="ACTION", required=True)
    add = _verb(actions, "add", "register an agent; its token is shown once", action=("agents", "add"))
    add.add_argument("name", metavar="NAME")
    add.add_argument("--deposit", metavar="SATS", type=_amount, help="first balance, as for deposit")
    _verb(actions, "list", "agents with their balances in sats", action=("agents", "list_agents"))
    deposit = _verb(actions, "deposit", "add to an agent's balance", action=("agents", "deposit"))
    deposit.add_argument("agent", metavar="AGENT", help="id or name")
    deposit.add_argument("amount", metavar="AMOUNT", type=_amount, help="sats, up to 3 decimals; or an integer + msat")
    deposit.add_argument("--key", help="names this deposit: repeated with the same key it is booked once")


def _add_json(parser: ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="for programs; amounts are integers of msat")


def _add_period(parser: ArgumentParser) -> None:
    begin = parser.add_mutually_exclusive_group()
    begin.add_argument("--range", choices=tuple(RANGES), help=f"how long before the end (default: {DEFAULT_RANGE})")
    begin.add_argument(
        "--since", metavar="TIME", type=_time, help='RFC 3339, or local time as 2026-07-31 or "2026-07-31 12:00"'
    )
    parser.add_argument("--until", metavar="TIME", type=_time, help="the end (default: now)")
    parser.add_argument("--agent", metavar="NAME", help="only of this agent; its id or name")


def _add_stats(stats: ArgumentParser) -> None:
    _add_period(stats)
    groups = ("model", "tier", "provider", "agent", "policy")
    stats.add_argument("--group-by", metavar="WHAT", choices=groups, help=f"a row for each {', '.join(groups)}")
    _add_json(stats)


def _add_requests(requests: ArgumentParser) -> None:
    requests.add_argument("id", metavar="ID", nargs="?", help="a request's id or number: all that is known of it")
    requests.add_argument("-f", "--follow", action="store_true", help="go on with those that come, until interrupted")
    requests.add_argument(
        "-n", "--number", metavar="N", type=_number, default=20, help="how many of the newest (default: 20)"
    )
    requests.add_argument("--agent", metavar="NAME", help="only of this agent; its id or name")
    requests.add_argument("--model", metavar="NAME", help="only for this model")
    requests.add_argument("--failed", action="store_true", help="only those that were not answered in full")
    _add_json(requests)


def _add_replay(replay: ArgumentParser) -> None:
    _add_period(replay)
    replay.add_argument(
        "--trace",
        metavar="FILE",
        type=Path,
        help="a csv or csv.gz with the columns t_s,input_tokens,output_tokens, instead of the recorded requests",
    )
    replay.add_argument("--model", metavar="NAME", help="which model a trace is for")
    _add_json(replay)


def _verb(
    verbs: _SubParsersAction[ArgumentParser], name: str, text: str, *, action: tuple[str, str] | None = None
) -> ArgumentParser:
    """A verb with ``-c``, run by ``arbstr.cli._<name>.run``; an ``action`` names its module and function instead.

    An action leaves ``config`` alone when ``-c`` is not given, so that ``-c`` before the action counts.
    """
    parser = verbs.add_parser(name, help=text, description=text, allow_abbrev=False)
    default = Path("config.toml") if action is None else SUPPRESS
    parser.add_argument(
        "-c", "--config", metavar="FILE", type=Path, default=default, help="configuration (default: config.toml)"
    )
    module, function = action or (name, "run")
    parser.set_defaults(run=_run(module, function))
    return parser
