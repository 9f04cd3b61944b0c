"""Several processes that answer requests, and one that keeps their accounts: together, apart, and when one dies."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import httpx
import pytest

from arbstr.config import ReloadOutcome, read_outcome
from arbstr.store import Store
from tests.live.program import Household, Program, arbstr, mock_provider, serving

pytestmark = pytest.mark.live

CHAT = "/v1/chat/completions"
ADMIN = "the-operators-own-token-of-32-characters"
PATIENCE_S = 60.0
QUICK = "ttft_ms=5&tokens_per_s=2000"


def body(max_tokens: int = 20, *, stream: bool = False) -> dict[str, object]:
    return {
        "model": "m",
        "messages": [{"role": "user", "content": "hello there"}],
        "max_tokens": max_tokens,
        "stream": stream,
    }


@contextlib.contextmanager
def workers(household: Household, count: int = 2) -> Iterator[Program]:
    """Killed whole at the end, if it has not been stopped."""
    with household.serve_workers(count) as program:
        try:
            yield program
        finally:
            if program.process.poll() is None:
                for pid in pids(program).values():
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)


def pids(program: Program) -> dict[str, int]:
    """By name, ``accounts`` or the worker's number; of one that was replaced the newest."""
    found = re.findall(r"(the process of the accounts|worker \d+) is process (\d+)", "".join(program.output))
    return {name.removeprefix("the process of the ").removeprefix("worker "): int(pid) for name, pid in found}


def wait_until(what: str, true: object, program: Program) -> None:
    assert callable(true)
    deadline = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < deadline, f"{what}: never\n{''.join(program.output[-60:])}"
        time.sleep(0.02)


def ask(program: Program, token: str, **options: object) -> httpx.Response:
    """On a connection of its own, so that it may come to any worker."""
    with program.client(token, timeout_s=60) as http:
        return http.post(CHAT, json=body(**options))  # type: ignore[arg-type]


def workers_that_answered(program: Program) -> Counter[str]:
    return Counter(re.findall(r'"event": "request".*"worker": "(\d+)"', "".join(program.output)))


class Load:
    """Clients that ask, plain and streamed, on connections that they keep as long as they can."""

    def __init__(self, program: Program, token: str, clients: int = 6) -> None:
        self.told_msat = 0
        self.outcomes: Counter[str] = Counter()
        self._program, self._token = program, token
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(index,)) for index in range(clients)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(PATIENCE_S)

    def _run(self, index: int) -> None:
        http = self._program.client(self._token, timeout_s=60)
        while not self._stop.is_set():
            stream = index % 2 == 0
            try:
                answer = http.post(CHAT, json=body(20, stream=stream))
                whole = answer.status_code == 200 and (not stream or answer.text.endswith("[DONE]\n\n"))
                outcome = "ok" if whole else f"{answer.status_code}"
                cost = int(answer.headers.get("x-arbstr-cost-msat", 0))
            except httpx.HTTPError:
                outcome, cost = "broken", 0
                http.close()
                http = self._program.client(self._token, timeout_s=60)
            with self._lock:
                self.outcomes[outcome] += 1
                self.told_msat += cost
        http.close()

    def wait_for(self, count: int) -> None:
        """So many more answers that are right."""
        wanted = self.outcomes["ok"] + count
        wait_until(f"{count} more answers", lambda: self.outcomes["ok"] >= wanted, self._program)


def settle_and_check(household: Household, program: Program, told_msat: int = 0) -> None:
    assert program.stop(timeout_s=90) == 0, "".join(program.output[-60:])
    report = household.check()
    assert report.open_holds == 0
    assert report.spent_msat + report.debt_msat >= told_msat
    done = arbstr("audit", "check", cwd=household.path)
    assert done.returncode == 0, done.stdout + done.stderr


def test_both_workers_answer_and_the_books_are_one_when_requests_come_on_many_connections(
    household: Household,
) -> None:
    household.write_config(mock_provider("one", QUICK), server=f'admin_token = "{ADMIN}"')
    token = household.add_agent("a", "100000")
    with workers(household) as program:
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda _: ask(program, token), range(40)))
        assert [answer.status_code for answer in answers] == [200] * 40
        told = sum(int(answer.headers["x-arbstr-cost-msat"]) for answer in answers)
        with program.client(ADMIN) as http:
            stats = http.get("/v1/stats").json()
            metrics = http.get("/metrics").text
        assert stats["counts"]["total"] == 40
        assert re.search(r'arbstr_requests_total\{.*provider="one".*\} 40\.0', metrics)
        assert f'arbstr_cost_msat_total{{model="m",provider="one"}} {float(told)}' in metrics
        for worker in ("accounts", "1", "2"):
            assert f'arbstr_worker_up{{worker="{worker}"}} 1.0' in metrics
            assert f'process_resident_memory_bytes{{worker="{worker}"}}' in metrics
        wait_until("a line of each request", lambda: sum(workers_that_answered(program).values()) == 40, program)
        assert set(workers_that_answered(program)) == {"1", "2"}
        settle_and_check(household, program, told)
    assert household.check().spent_msat == told


def test_receipts_are_kept_when_there_are_no_accounts(household: Household) -> None:
    household.write_config(mock_provider("one", QUICK))
    config = household.path / "config.toml"
    config.write_text(config.read_text().replace("[vault]\n", ""))
    with workers(household) as program:
        answers = [ask(program, "") for _ in range(12)]
        assert program.stop() == 0
    assert [answer.status_code for answer in answers] == [200] * 12
    household.check()
    costs = Store.read_from(household.path / "books.db", lambda db: list(db.execute("SELECT cost_msat FROM receipts")))
    assert sorted(cost for (cost,) in costs) == sorted(int(each.headers["x-arbstr-cost-msat"]) for each in answers)


def test_a_token_counts_with_every_worker_as_soon_as_it_is_told_and_no_more_once_it_is_revoked(
    household: Household,
) -> None:
    household.write_config(mock_provider("one", QUICK), server=f'admin_token = "{ADMIN}"')
    with workers(household) as program:
        admin = httpx.Client(base_url=program.address, headers={"authorization": f"Bearer {ADMIN}"}, timeout=30)
        for number in range(5):
            made = admin.post("/agents", json={"name": f"agent {number}"}).json()
            agent, token = made["agent_id"], made["token"]
            deposit = {"amount_msat": 1_000_000}
            assert admin.post(f"/agents/{agent}/deposit", json=deposit).status_code in (200, 201)
            assert [ask(program, token).status_code for _ in range(4)] == [200] * 4
            issued = admin.post(f"/agents/{agent}/tokens", json={"name": "second"}).json()
            assert ask(program, issued["token"]).status_code == 200
            assert admin.delete(f"/agents/{agent}/tokens/{issued['token_id']}").status_code in (200, 204)
            assert [ask(program, issued["token"]).status_code for _ in range(6)] == [401] * 6
        admin.close()
        settle_and_check(household, program)


@pytest.mark.crash
def test_requests_go_on_and_holds_are_resolved_when_a_worker_is_killed(household: Household) -> None:
    household.write_config(mock_provider("one", "ttft_ms=20&tokens_per_s=400"))
    token = household.add_agent("a", "1000000")
    with workers(household) as program:
        with Load(program, token) as load:
            for _ in range(3):
                load.wait_for(20)
                before = pids(program)
                victim = "1" if load.outcomes["ok"] % 2 else "2"
                os.kill(before[victim], signal.SIGKILL)
                wait_until(f"another worker {victim}", lambda: pids(program)[victim] != before[victim], program)  # noqa: B023
            load.wait_for(20)
        wait_until("the resolution of holds", lambda: Store.check(household.path / "books.db").open_holds == 0, program)
        settle_and_check(household, program, load.told_msat)
    assert set(load.outcomes) <= {"ok", "broken"}, load.outcomes


@pytest.mark.crash
def test_nothing_is_lost_and_requests_go_on_when_the_process_of_the_accounts_is_killed(household: Household) -> None:
    household.write_config(mock_provider("one", "ttft_ms=20&tokens_per_s=400"))
    token = household.add_agent("a", "1000000")
    with workers(household) as program:
        with Load(program, token) as load:
            for _ in range(3):
                load.wait_for(20)
                before = pids(program)["accounts"]
                os.kill(before, signal.SIGKILL)
                wait_until("other accounts", lambda: pids(program)["accounts"] != before, program)  # noqa: B023
            load.wait_for(20)
        settle_and_check(household, program, load.told_msat)
    assert set(load.outcomes) <= {"ok", "503", "200"}, load.outcomes
    assert "HOLD_RESOLVED" not in audit_actions(household.path / "books.db")


def sockets_of_accounts() -> set[Path]:
    return set(Path(tempfile.gettempdir()).glob("arbstr-*/accounts"))


def has_ended(pid: int) -> bool:
    """Also as somebody whom nobody has buried."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def audit_actions(path: Path) -> set[str]:
    return set(Store.read_from(path, lambda db: [action for (action,) in db.execute("SELECT action FROM audit")]))


@pytest.mark.crash
def test_the_books_are_right_when_a_worker_and_the_accounts_are_killed_together(household: Household) -> None:
    household.write_config(mock_provider("one", "ttft_ms=20&tokens_per_s=400"), vault="hold_lease_s = 5")
    token = household.add_agent("a", "1000000")
    with workers(household) as program:
        with Load(program, token) as load:
            load.wait_for(20)
            before = pids(program)
            os.kill(before["1"], signal.SIGKILL)
            os.kill(before["accounts"], signal.SIGKILL)
            wait_until("both again", lambda: pids(program)["1"] != before["1"] != pids(program)["accounts"], program)
            load.wait_for(20)
        wait_until("the end of leases", lambda: Store.check(household.path / "books.db").open_holds == 0, program)
        settle_and_check(household, program, load.told_msat)


@pytest.mark.crash
def test_processes_end_by_themselves_and_in_order_when_the_parent_is_killed(household: Household) -> None:
    household.write_config(mock_provider("one", "ttft_ms=20&tokens_per_s=400"))
    token = household.add_agent("a", "1000000")
    before = sockets_of_accounts()
    with workers(household) as program:
        children = pids(program)
        made = sockets_of_accounts() - before
        assert made
        with Load(program, token, clients=2) as load:
            load.wait_for(10)
            program.process.kill()
            for pid in children.values():
                wait_until(f"the end of {pid}", partial(has_ended, pid), program)
    assert not made & sockets_of_accounts()
    report = household.check()
    assert report.open_holds == 0
    assert report.spent_msat >= load.told_msat


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_streams_in_flight_end_within_the_grace_when_it_is_told_to_stop(
    household: Household, number: signal.Signals
) -> None:
    household.write_config(mock_provider("one", "tokens_per_s=40"))
    token = household.add_agent("a", "1000000")
    texts: list[str] = []

    def read(begun: threading.Semaphore) -> None:
        with (
            program.client(token, timeout_s=60) as http,
            http.stream("POST", CHAT, json=body(60, stream=True)) as answer,
        ):
            pieces = answer.iter_text()
            text = next(pieces)
            begun.release()
            texts.append(text + "".join(pieces))

    with workers(household) as program:
        begun = threading.Semaphore(0)
        threads = [threading.Thread(target=read, args=(begun,)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for _ in threads:
            assert begun.acquire(timeout=PATIENCE_S)
        program.process.send_signal(number)
        for thread in threads:
            thread.join(PATIENCE_S)
        assert program.process.wait(60) == 0
        with pytest.raises(httpx.ConnectError):
            ask(program, token)
    assert [text.count("[DONE]") for text in texts] == [1] * 4
    assert household.check().open_holds == 0


def reload(household: Household, program: Program, generation: int) -> ReloadOutcome:
    done = arbstr("reload", cwd=household.path)
    outcome = read_outcome(household.path / "books.db")
    assert outcome is not None, done.stderr
    assert outcome.generation == generation, (outcome, done.stderr, "".join(program.output[-20:]))
    assert done.returncode == (1 if outcome.problems else 0), done.stderr
    return outcome


def test_every_worker_has_the_new_configuration_or_none_when_it_is_read_again(household: Household) -> None:
    household.write_config(mock_provider("one", QUICK, rates=("0", "0"), base_fee="1"))
    token = household.add_agent("a", "1000000")
    with workers(household) as program:

        def prices() -> set[str]:
            return {ask(program, token).headers["x-arbstr-cost-msat"] for _ in range(8)}

        assert prices() == {"1000"}
        household.write_config(mock_provider("one", QUICK, rates=("0", "0"), base_fee="2"))
        assert reload(household, program, 2).changed == ("providers",)
        assert prices() == {"2000"}
        household.write_config("[[providers]]\nname = 7\n")
        assert reload(household, program, 3).problems
        assert prices() == {"2000"}
        household.write_config(mock_provider("one", QUICK, rates=("0", "0"), base_fee="3"), server="workers = 3")
        assert reload(household, program, 4).needs_restart == ()  # the command line says how many
        assert prices() == {"3000"}
        before = pids(program)["1"]
        os.kill(before, signal.SIGKILL)
        wait_until("another worker", lambda: pids(program)["1"] != before, program)
        assert prices() == {"3000"}
        settle_and_check(household, program)


def test_it_says_why_and_ends_with_1_when_the_database_or_the_address_is_in_use(household: Household) -> None:
    household.write_config(mock_provider("one", QUICK))
    household.add_agent("a", "1")
    with workers(household) as program:
        same_books = arbstr("serve", "--workers", "2", cwd=household.path)
        assert same_books.returncode == 1
        assert f"in use by another arbstr (process {program.process.pid})" in same_books.stderr
        same_port = arbstr("serve", "--workers", "2", "-l", f"127.0.0.1:{program.port}", cwd=household.path)
        assert same_port.returncode == 1
        assert "cannot listen on" in same_port.stderr
        assert program.stop() == 0


def test_it_says_why_and_ends_with_1_when_the_books_are_no_books(household: Household) -> None:
    household.write_config(mock_provider("one", QUICK))
    (household.path / "books.db").write_bytes(b"not a database at all" * 100)
    done = arbstr("serve", "--workers", "2", cwd=household.path)
    assert done.returncode == 1
    assert "Error: " in done.stderr
    assert "books.db" in done.stderr


@pytest.mark.crash
def test_it_gives_up_with_1_when_processes_end_again_and_again(household: Household) -> None:
    household.write_config(mock_provider("one", QUICK))
    household.add_agent("a", "1")
    with workers(household) as program:
        deadline = time.monotonic() + PATIENCE_S
        killed: set[int] = set()
        while program.process.poll() is None and time.monotonic() < deadline:
            pid = pids(program)["1"]
            if pid not in killed:
                killed.add(pid)
                os.kill(pid, signal.SIGKILL)
            time.sleep(0.02)
        assert program.process.wait(60) == 1
    assert "giving up" in "".join(program.output)
    assert household.check().open_holds == 0


class Stream(threading.Thread):
    """One streamed answer, read to whatever end it has."""

    def __init__(self, program: Program, token: str, max_tokens: int) -> None:
        super().__init__()
        self._program, self._token, self._max_tokens = program, token, max_tokens
        self.text = ""
        self.begun = threading.Event()
        self.start()
        assert self.begun.wait(PATIENCE_S)

    def run(self) -> None:
        with (
            self._program.client(self._token, timeout_s=60) as http,
            http.stream("POST", CHAT, json=body(self._max_tokens, stream=True)) as answer,
            contextlib.suppress(httpx.HTTPError),
        ):
            for piece in answer.iter_text():
                self.text += piece
                self.begun.set()


def test_everything_ends_in_order_when_every_process_is_told_at_once(household: Household) -> None:
    household.write_config(mock_provider("one", "tokens_per_s=40"))
    token = household.add_agent("a", "1000000")
    with workers(household) as program:
        streams = [Stream(program, token, 60) for _ in range(3)]
        for pid in (*pids(program).values(), program.process.pid):
            os.kill(pid, signal.SIGTERM)
        for stream in streams:
            stream.join(PATIENCE_S)
        assert program.process.wait(60) == 0
    assert [stream.text.count("[DONE]") for stream in streams] == [1] * 3
    assert "is process" not in "".join(program.output).partition("told to stop")[2]
    assert household.check().open_holds == 0


def test_one_worker_lets_its_streams_end_and_another_takes_its_place_when_it_is_told_alone(
    household: Household,
) -> None:
    household.write_config(mock_provider("one", "tokens_per_s=40"))
    token = household.add_agent("a", "1000000")
    with workers(household) as program:
        streams = [Stream(program, token, 60) for _ in range(4)]
        before = pids(program)["1"]
        os.kill(before, signal.SIGTERM)
        for stream in streams:
            stream.join(PATIENCE_S)
        wait_until("another worker", lambda: pids(program)["1"] != before, program)
        assert ask(program, token).status_code == 200
        settle_and_check(household, program)
    assert [stream.text.count("[DONE]") for stream in streams] == [1] * 4


def test_streams_end_with_an_error_and_are_settled_when_it_is_told_to_stop_twice(household: Household) -> None:
    household.write_config(mock_provider("one", "tokens_per_s=20"), server="shutdown_grace_s = 600")
    token = household.add_agent("a", "1000000")
    with workers(household) as program:
        streams = [Stream(program, token, 4_000) for _ in range(2)]
        program.process.send_signal(signal.SIGTERM)
        program.process.send_signal(signal.SIGINT)
        for stream in streams:
            stream.join(PATIENCE_S)
        assert program.process.wait(60) == 0
    for stream in streams:
        assert "[DONE]" not in stream.text
        assert "shutting_down" in stream.text
    report = household.check()
    assert report.open_holds == 0
    assert report.spent_msat > 0


def test_limits_are_those_of_all_workers_together(household: Household) -> None:
    household.write_config(mock_provider("one", QUICK) + "[limits.agent]\nrequests_per_minute = 10\n")
    token = household.add_agent("a", "1000000")
    with workers(household) as program:
        statuses = Counter(ask(program, token).status_code for _ in range(16))
        assert statuses[200] in (10, 11)  # one more may have come back by now
        assert statuses[429] == 16 - statuses[200]
        settle_and_check(household, program)


@pytest.mark.crash
def test_the_demonstration_has_one_agent_whoever_keeps_its_account(tmp_path: Path) -> None:
    with serving("--mock", "--workers", "2", "-l", "127.0.0.1:0", cwd=tmp_path) as program:
        program.wait_for_token()
        request = body(10) | {"model": "gpt-4o-mini"}
        with program.client() as http:
            assert http.post(CHAT, json=request).status_code == 200
        before = pids(program)["accounts"]
        os.kill(before, signal.SIGKILL)
        wait_until("other accounts", lambda: pids(program)["accounts"] != before, program)
        wait_until("an answer", lambda: httpx.post(program.address + CHAT, json=request).status_code == 200, program)
        assert program.stop() == 0


def test_a_human_can_allow_a_request_when_its_accounts_are_another_process(household: Household) -> None:
    household.write_config(mock_provider("a", QUICK), server=f'admin_token = "{ADMIN}"')
    token = household.add_agent("rich", "1000")
    with workers(household) as program:
        with program.client(ADMIN) as http:
            agent_id = http.get("/agents").json()["agents"][0]["id"]
            limits = {"max_transaction_msat": 1_000, "daily_limit_msat": 10_000_000, "approval_timeout_ms": 60_000}
            assert http.patch(f"/operator/agents/{agent_id}/policy", json=limits).status_code == 200
        put_off = ask(program, token, max_tokens=4_096)
        assert put_off.status_code == 202, put_off.text
        approval_id = put_off.json()["approval_id"]
        granted = arbstr("approvals", "grant", approval_id, "--why", "once", cwd=household.path)
        assert granted.returncode == 0, granted.stderr
        with program.client(token, timeout_s=60) as http:
            answer = http.post(CHAT, json=body(4_096), headers={"x-arbstr-approval": approval_id})
            again = http.post(CHAT, json=body(4_096), headers={"x-arbstr-approval": approval_id})
        assert answer.status_code == 200, answer.text
        assert (again.status_code, again.json()["error"]["reason"]) == (403, "approval_used")
        assert program.stop() == 0
    assert household.check().open_holds == 0
