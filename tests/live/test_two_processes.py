"""``arbstr vault`` and ``arbstr serve`` as two processes: asked, streamed, killed and started again."""

from __future__ import annotations

import contextlib
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.live.program import arbstr, mock_provider
from tests.live.two import CHAT, DEPOSIT_MSAT, INTERNAL, WAIT_S, Two, both, chat


def test_requests_are_paid_from_the_other_process_plain_and_streamed(two: Two) -> None:
    two.write(mock_provider("one"))
    with both(two) as (vault, proxy):
        with proxy.client(two.token) as http:
            assert http.get("/v1/requests").status_code == 401  # nobody here knows the token yet
            plain = http.post(CHAT, json=chat())
            cost = int(plain.headers["x-arbstr-cost-msat"])
            streamed = http.post(CHAT, json=chat(stream=True))
            assert streamed.text.endswith("data: [DONE]\n\n")
            assert [row["agent"] for row in http.get("/v1/requests").json()["data"]] == [two.agent_id] * 2
            assert http.post(CHAT, json=chat(), headers={"authorization": "Bearer vtk_nobodys"}).status_code == 401
            assert http.post(CHAT, json=chat(max_tokens=1_000_000_000)).status_code == 402
        two.wait_until_nothing_is_owed()
        assert cost > 0
        assert two.balance(vault) == DEPOSIT_MSAT - two.bought()
        with vault.client(two.token) as http:
            paid = http.get(f"/agents/{two.agent_id}/history?action_type=PAYMENT_SETTLED").json()["entries"]
            assert [entry["metadata"]["provider"] for entry in paid] == ["one", "one"]
            assert http.get("/v1/models").status_code == 404
            assert http.get("/health").json()["status"] == "ok"
        assert proxy.stop() == 0
        assert vault.stop() == 0
    two.check()
    listed = arbstr("requests", "--agent", two.agent_id, "--json", cwd=two.path / "proxy")
    assert (listed.returncode, len(listed.stdout.splitlines())) == (0, 3)  # with the one that was refused
    assert arbstr("settlements", cwd=two.path / "proxy").returncode == 0


@pytest.mark.parametrize("lease_s", [3600, 1])
def test_restart_of_the_vault_in_mid_traffic_costs_errors_and_never_money(two: Two, lease_s: int) -> None:
    """With a lease of a second it has given back what is settled after its start."""
    two.write(mock_provider("one", "tokens_per_s=40"), vault=f"reservation_lease_s = {lease_s}")
    with two.proxy() as proxy, contextlib.ExitStack() as lives:
        vault = lives.enter_context(two.vault())
        two.register(vault)
        with ThreadPoolExecutor(24) as pool, proxy.client(two.token, timeout_s=60) as http:

            def ask(number: int) -> httpx.Response:
                return http.post(CHAT, json=chat(stream=number % 2 == 0, max_tokens=80))

            early = [pool.submit(ask, number) for number in range(12)]
            end = time.monotonic() + WAIT_S
            while two.owed() < 12:
                assert time.monotonic() < end
                time.sleep(0.02)
            vault.process.kill()
            vault.process.wait()
            refused = [pool.submit(ask, number) for number in range(6)]
            answers = [one.result() for one in early]
            assert [one.result().status_code for one in refused] == [503] * 6
            vault = lives.enter_context(two.vault())
            late = [ask(number) for number in range(2)]
        assert all(one.status_code == 200 for one in (*answers, *late))
        assert all("[DONE]" in one.text for one in answers[::2])
        two.wait_until_nothing_is_owed()
        assert two.bought() > 0
        assert two.balance(vault) == DEPOSIT_MSAT - two.bought()
        assert proxy.stop() == 0
        assert vault.stop() == 0
    two.check()


def test_proxy_that_is_killed_leaves_nothing_held_when_it_is_started_again(two: Two) -> None:
    two.write(mock_provider("one", "tokens_per_s=20"))
    with two.vault() as vault:
        two.register(vault)
        with (
            two.proxy() as proxy,
            proxy.client(two.token) as http,
            http.stream("POST", CHAT, json=chat(stream=True, max_tokens=400)) as answer,
        ):
            for _ in answer.iter_bytes():
                break
            proxy.process.kill()
            proxy.process.wait()
        with two.proxy() as proxy:
            two.wait_until_nothing_is_owed()
            assert two.balance(vault) == DEPOSIT_MSAT - two.bought()
            assert proxy.stop() == 0
        assert vault.stop() == 0
    two.check()


def test_settlements_wait_for_the_vault_over_restarts_of_the_proxy(two: Two) -> None:
    two.write(mock_provider("one", "tokens_per_s=40"), proxy="pending_threshold = 3")
    with two.vault() as vault:
        two.register(vault)
        with two.proxy() as proxy, proxy.client(two.token, timeout_s=60) as http:
            with ThreadPoolExecutor(3) as pool:
                asked = [pool.submit(http.post, CHAT, json=chat(max_tokens=60)) for _ in range(3)]
                end = time.monotonic() + WAIT_S
                while two.owed() < 3:
                    assert time.monotonic() < end
                    time.sleep(0.02)
                vault.process.kill()
                vault.process.wait()
                assert [one.result().status_code for one in asked] == [200] * 3
            refused = http.post(CHAT, json=chat())
            assert (refused.status_code, refused.json()["error"]["code"]) == (503, "vault_backpressure")
            assert proxy.stop() == 0
    with two.proxy() as proxy, proxy.client(two.token, timeout_s=60) as http:
        assert two.owed() == 3
        assert http.post(CHAT, json=chat()).json()["error"]["code"] == "vault_backpressure"
        with two.vault() as vault:
            two.wait_until_nothing_is_owed()
            assert two.balance(vault) == DEPOSIT_MSAT - two.bought() < DEPOSIT_MSAT
            assert http.post(CHAT, json=chat()).status_code == 200
            two.wait_until_nothing_is_owed()
            assert proxy.stop() == 0
            assert vault.stop() == 0
    two.check()


@pytest.mark.parametrize(
    ("vault", "words"),
    [
        ("", "has no [vault]"),
        (f'[vault]\nurl = "http://127.0.0.1:1"\ninternal_token = "{INTERNAL}"\n', "in another process"),
        ("[vault]\n", "nobody could use this vault"),
    ],
)
def test_vault_does_not_start_when_its_file_is_not_a_vaults(tmp_path: Path, vault: str, words: str) -> None:
    config = tmp_path / "config.toml"
    config.write_text(vault)
    config.chmod(0o600)
    done = arbstr("vault", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert words in done.stderr
