"""Starting, stopping, dying: what the program does with requests and money that are under way."""

from __future__ import annotations

import signal
import threading
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from tests.live.program import Household, Program, mock_provider

CHAT = "/v1/chat/completions"


def body(max_tokens: int, *, stream: bool = False) -> dict[str, object]:
    return {
        "model": "m",
        "messages": [{"role": "user", "content": "hello there"}],
        "max_tokens": max_tokens,
        "stream": stream,
    }


class StreamInFlight:
    """A streamed request, read in a thread of its own."""

    def __init__(self, program: Program, token: str, max_tokens: int) -> None:
        self.text = ""
        self.begun = threading.Event()
        self._thread = threading.Thread(target=self._read, args=(program, token, max_tokens))
        self._thread.start()
        assert self.begun.wait(20)

    def _read(self, program: Program, token: str, max_tokens: int) -> None:
        with (
            program.client(token, timeout_s=60) as http,
            http.stream("POST", CHAT, json=body(max_tokens, stream=True)) as answer,
        ):
            for piece in answer.iter_text():
                self.text += piece
                self.begun.set()

    def join(self) -> str:
        self._thread.join(60)
        return self.text


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stream_in_flight_ends_within_the_grace_and_new_connections_are_refused(
    household: Household, number: signal.Signals
) -> None:
    household.write_config(mock_provider("one", "tokens_per_s=40"))
    token = household.add_agent("a", "1000")
    with household.serve() as program:
        stream = StreamInFlight(program, token, 60)
        program.process.send_signal(number)
        text = stream.join()
        assert program.process.wait(30) == 0
        with pytest.raises(httpx.ConnectError), program.client(token) as http:
            http.get("/health")
    assert text.count("[DONE]") == 1
    assert "error" not in text
    report = household.check()
    assert report.open_holds == 0
    assert report.spent_msat > 0


def test_stream_that_outlives_the_grace_ends_with_an_error_and_is_settled(household: Household) -> None:
    household.write_config(mock_provider("one", "tokens_per_s=20"), server="shutdown_grace_s = 0.5")
    token = household.add_agent("a", "1000")
    with household.serve() as program:
        stream = StreamInFlight(program, token, 4000)
        program.process.send_signal(signal.SIGTERM)
        text = stream.join()
        assert program.process.wait(30) == 0
    assert "[DONE]" not in text
    assert '"reason":"shutting_down"' in text.replace(" ", "")
    report = household.check()
    assert report.open_holds == 0
    assert report.spent_msat > 0


def test_client_that_leaves_in_the_middle_of_a_stream_pays_for_what_was_relayed(household: Household) -> None:
    household.write_config(mock_provider("one", "tokens_per_s=50"))
    token = household.add_agent("a", "10000")
    with household.serve() as program:
        with (
            program.client(token) as http,
            http.stream("POST", CHAT, json=body(4000, stream=True)) as answer,
        ):
            pieces = answer.iter_bytes()
            for _ in range(5):
                next(pieces)
        assert program.stop() == 0
    report = household.check()
    assert report.open_holds == 0
    assert 0 < report.spent_msat < 1_000_000


def test_budget_for_ten_holds_under_two_hundred_concurrent_requests(household: Household) -> None:
    # 1 sat a token, 4 output tokens and a hold of at most 11 + 16 + 64 + 4: ten holds fit, and ten charges leave room
    # for no more than ten.
    household.write_config(mock_provider("one", "ttft_ms=300", rates=("0", "1000")))
    token = household.add_agent("a", "40")
    with household.serve() as program:
        with program.client(token, timeout_s=60) as http, ThreadPoolExecutor(200) as pool:
            answers = list(pool.map(lambda _: http.post(CHAT, json=body(4)), range(200)))
        assert program.stop() == 0
    served = [answer for answer in answers if answer.status_code == 200]
    refused = [answer for answer in answers if answer.status_code == 402]
    assert len(served) + len(refused) == 200
    assert 1 <= len(served) <= 10
    for answer in refused:
        error = answer.json()["error"]
        assert error["type"] == "billing_error"
        assert error["reason"] == "insufficient_balance"
    report = household.check()
    assert report.open_holds == 0
    assert report.agents[0].available_msat >= 0
    assert report.spent_msat == sum(int(answer.headers["x-arbstr-cost-msat"]) for answer in served)
