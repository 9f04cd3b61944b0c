"""Run the README's first command as a newcomer would: fresh clone, empty home; ask, read, Ctrl-C. Usage: COMMAND"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import urllib.request
from pathlib import Path

SET_UP_BOUND_S = 300


def main(command: str) -> int:
    root = Path(__file__).resolve().parent.parent
    with tempfile.TemporaryDirectory() as scratch:
        clone, home = Path(scratch) / "clone", Path(scratch) / "home"
        home.mkdir()
        subprocess.run(["git", "clone", "-q", str(root), str(clone)], check=True)
        environment = {**os.environ, "HOME": str(home), "PYTHONUNBUFFERED": "1"}
        program = subprocess.Popen(
            ["bash", "-c", command], cwd=clone, env=environment, stdout=subprocess.PIPE, text=True, process_group=0
        )
        try:
            return check(program)
        finally:
            if program.poll() is None:
                os.killpg(program.pid, signal.SIGKILL)


def check(program: subprocess.Popen[str]) -> int:
    address, token = read_announcement(program)
    body = json.dumps({"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Hello there"}]}).encode()
    for bearer in ({}, {"authorization": f"Bearer {token}"}):
        request = urllib.request.Request(
            f"{address}/v1/chat/completions", body, {"content-type": "application/json", **bearer}
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            told = {name: answer.headers[f"x-arbstr-{name}"] for name in ("provider", "cost-msat", "saved-msat")}
            text = json.load(answer)["choices"][0]["message"]["content"]
        assert answer.status == 200, answer.status
        assert text, "the answer is empty"
        assert all(told.values()), told
        print(f"answered by {told['provider']} for {told['cost-msat']} msat, {told['saved-msat']} msat saved")
    os.killpg(program.pid, signal.SIGINT)
    code = program.wait(timeout=30)
    assert code == 0, f"exit code {code} after Ctrl-C"
    return 0


def read_announcement(program: subprocess.Popen[str]) -> tuple[str, str]:
    """The address and the demo token that the program prints when it serves."""
    assert program.stdout is not None
    watch = threading.Timer(SET_UP_BOUND_S, os.killpg, (program.pid, signal.SIGKILL))
    watch.start()
    seen = ""
    try:
        for line in program.stdout:
            seen += line
            address = re.search(r"listening on (http://\S+)", seen)
            token = re.search(r"OPENAI_API_KEY=(\S+)", seen)
            if address and token:
                return address[1], token[1]
    finally:
        watch.cancel()
    raise SystemExit(f"it did not come up:\n{seen}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
