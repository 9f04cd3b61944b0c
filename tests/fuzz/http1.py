"""Fuzz the reader of HTTP/1.1 against h11, guided by coverage, until something differs or the time is over.

    pip install atheris
    python tests/fuzz/http1.py -max_total_time=300 [CORPUS_DIRECTORY] [other options of libFuzzer]

atheris 3 is no dependency of the project: it is there for CPython on Linux and macOS only. What is found is written to
``crash-...`` in the working directory, and becomes a plain test in ``tests/edge/test_http1.py`` with its repair.
"""

import sys
import tempfile
from pathlib import Path

import atheris

sys.path.insert(0, str(Path(__file__).parents[2]))

with atheris.instrument_imports(include=["arbstr.edge._http1", "h11"]):
    from tests.edge.http1_readers import check

SEEDS = (
    b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET http://x/y?z HTTP/1.0\r\nConnection: keep-alive, close\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\nhelloGET / HTTP/1.0\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nTrailer: t\r\n\r\n",
    b"CONNECT x:1 HTTP/1.1\r\nHost: x\r\nUpgrade: h2c\r\nConnection: upgrade\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 5\r\nTransfer-Encoding: gzip\r\n\r\nhello",
)
WORDS = (
    "HTTP/1.1", "HTTP/1.0", "\\x0d\\x0a", "\\x0a", "\\x0d", "\\x09", "\\x00", " :", ": ", ",", ";",
    "Host: x\\x0d\\x0a", "Content-Length: ", "Transfer-Encoding: chunked\\x0d\\x0a", "Connection: close\\x0d\\x0a",
    "Expect: 100-continue\\x0d\\x0a", "Upgrade: h2c\\x0d\\x0a", "0\\x0d\\x0a\\x0d\\x0a", "5\\x0d\\x0ahello\\x0d\\x0a",
)  # fmt: skip


def one_input(data: bytes) -> None:
    """The first bytes say where the rest is cut in two."""
    at = int.from_bytes(data[:2], "big") % (len(data) + 1)
    stream = data[2:]
    check(stream, [stream[:at], stream[at:]])


def main() -> None:
    with tempfile.TemporaryDirectory() as made:
        for number, seed in enumerate(SEEDS):
            (Path(made) / f"seed-{number}").write_bytes(b"\0\x20" + seed)
        words = Path(made) / "words"
        words.write_text("".join(f'"{word}"\n' for word in WORDS))
        given = [argument for argument in sys.argv[1:] if not argument.startswith("-")]
        corpus = given or [str(Path(made) / "corpus")]
        if not given:
            Path(corpus[0]).mkdir()
        options = [argument for argument in sys.argv[1:] if argument.startswith("-")]
        atheris.Setup([sys.argv[0], f"-dict={words}", *options, *corpus, made], one_input)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
