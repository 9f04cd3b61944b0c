"""The configuration is read again and again under load: nobody notices, nobody pays another price than chosen by."""

from __future__ import annotations

import signal
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager

from arbstr.config import ReloadOutcome, read_outcome
from tests.live.program import Household, Program, arbstr, mock_provider

RELOADS = 50
CLIENTS = 4
CHEAP, DEAR = "1", "2"
BODY = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 20}


def config(base_fee: str, *, guest: bool) -> str:
    """Providers that cost nothing but a fee, so that the price is read off the charge; now and then one more."""
    providers = mock_provider("one", "ttft_ms=10&tokens_per_s=400", rates=("0", "0"), base_fee=base_fee)
    if guest:
        providers += mock_provider("guest", "ttft_ms=10&tokens_per_s=400", rates=("0", "0"), base_fee=base_fee)
    return providers + "[policies]\ndefault = 'round_robin'\n"


class Client(threading.Thread):
    """Asks one thing after the other, plain and streamed, until told to stop."""

    def __init__(self, program: Program, token: str, stop: threading.Event) -> None:
        super().__init__()
        self._program, self._token, self._stop_asked = program, token, stop
        self.answered = 0
        self.failed: list[str] = []

    def run(self) -> None:
        with self._program.client(self._token, timeout_s=60) as http:
            while not self._stop_asked.is_set():
                stream = self.answered % 2 == 0
                body = {
                    "model": "m",
                    "messages": [{"role": "user", "content": "hi"}],
                    "max_tokens": 20,
                    "stream": stream,
                }
                answer = http.post("/v1/chat/completions", json=body)
                if answer.status_code != 200 or (stream and not answer.text.endswith("data: [DONE]\n\n")):
                    self.failed.append(answer.text)
                self.answered += 1


def reload(household: Household, program: Program, generation: int) -> ReloadOutcome:
    """As ``arbstr reload`` does, without a process for each time."""
    program.process.send_signal(signal.SIGHUP)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        outcome = read_outcome(household.path / "books.db")
        if outcome is not None and outcome.generation == generation:
            return outcome
        time.sleep(0.01)
    raise AssertionError(f"no word of reading {generation}: {''.join(program.output)}")


def wait_for_answers(clients: list[Client]) -> None:
    """Until one has been answered that asked after now: each of them may have been under way with one."""
    deadline = time.monotonic() + 60
    enough = sum(client.answered for client in clients) + len(clients) + 1
    while sum(client.answered for client in clients) < enough:
        assert time.monotonic() < deadline, "the clients are not answered"
        time.sleep(0.01)


@contextmanager
def load(program: Program, token: str) -> Iterator[list[Client]]:
    stop = threading.Event()
    clients = [Client(program, token, stop) for _ in range(CLIENTS)]
    for client in clients:
        client.start()
    try:
        yield clients
    finally:
        stop.set()
        for client in clients:
            client.join(60)


def test_no_request_fails_and_none_pays_a_changed_price_while_the_file_is_read_again_fifty_times(
    household: Household,
) -> None:
    household.write_config(config(CHEAP, guest=False))
    token = household.add_agent("a", "1000000")
    with household.serve() as program:
        with load(program, token) as clients:
            for number in range(RELOADS):
                household.write_config(config(DEAR if number % 2 == 0 else CHEAP, guest=number % 3 == 0))
                outcome = reload(household, program, number + 2)
                assert outcome.problems == ()
                assert outcome.changed == ("providers",)
                wait_for_answers(clients)
        assert program.stop() == 0
    assert [client.failed for client in clients] == [[]] * CLIENTS
    report = household.check()
    assert report.open_holds == 0
    with closing(sqlite3.connect(household.path / "books.db")) as db:
        charged = set(db.execute("SELECT expected_msat, cost_msat FROM receipts WHERE outcome = 'ok'"))
        providers = {name for (name,) in db.execute("SELECT DISTINCT provider FROM receipts")}
    assert charged == {(1_000, 1_000), (2_000, 2_000)}
    assert providers == {"one", "guest"}


def test_a_file_with_an_error_changes_nothing(household: Household) -> None:
    household.write_config(config(CHEAP, guest=False))
    token = household.add_agent("a", "1000")
    with household.serve() as program:
        household.write_config(mock_provider("other").replace("url", "ulr"))
        done = arbstr("reload", cwd=household.path)
        assert done.returncode == 1
        assert "did you mean url?" in done.stderr
        with program.client(token) as http:
            answer = http.post("/v1/chat/completions", json=BODY)
        assert answer.headers["x-arbstr-provider"] == "one"
        assert program.stop() == 0
