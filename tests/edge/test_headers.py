import pytest

from arbstr.edge._headers import HEADER_TEXT_MAX, Headers, is_loopback

TRACE = b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def one(name: bytes, value: bytes) -> Headers:
    return Headers([(name, value)])


@pytest.mark.parametrize(
    "value",
    [
        b"application/json",
        b"Application/JSON",
        b"application/json; charset=utf-8",
        b"application/json ;charset=utf-8",
        b"application/problem+json",
        b"application/vnd.api.v1+json;x=1",
    ],
)
def test_content_type_is_json_when_it_says_so(value):
    assert one(b"content-type", value).is_json


@pytest.mark.parametrize(
    "value", [b"", b"text/plain", b"text/json", b"application/jsonx", b"application/+json", b"application/a b+json"]
)
def test_content_type_is_not_json_when_it_says_something_else(value):
    assert not one(b"content-type", value).is_json


def test_content_type_is_not_json_when_it_is_missing_or_said_twice():
    assert not Headers([]).is_json
    assert not Headers([(b"content-type", b"text/plain"), (b"content-type", b"application/json")]).is_json


@pytest.mark.parametrize("value", [b"a", b"job 7 / step 2", b"x" * HEADER_TEXT_MAX])
def test_correlation_id_is_kept_when_it_is_printable(value):
    assert one(b"x-request-id", value).correlation_id == value.decode()
    assert one(b"x-arbstr-request-id", value).correlation_id == value.decode()


@pytest.mark.parametrize("value", [b"", b"x" * (HEADER_TEXT_MAX + 1), b"a\tb", "é".encode(), b"\x7f"])
def test_correlation_id_is_ignored_when_it_is_not_printable_or_too_long(value):
    assert one(b"x-request-id", value).correlation_id is None


def test_our_own_header_wins_when_two_correlation_ids_are_sent():
    both = [(b"x-request-id", b"theirs"), (b"x-arbstr-request-id", b"ours")]
    assert Headers(both).correlation_id == "ours"
    assert Headers([both[0], (b"x-arbstr-request-id", b"\xff")]).correlation_id == "theirs"


@pytest.mark.parametrize("value", [TRACE, b"cc" + TRACE[2:] + b"-what-comes-later"])
def test_traceparent_is_kept_when_its_shape_is_right(value):
    assert one(b"traceparent", value).traceparent == value.decode()


@pytest.mark.parametrize(
    "value",
    [
        b"",
        TRACE[:-1],
        TRACE + b"0",
        TRACE + b"-more",  # version 00 has nothing more
        TRACE.upper(),
        b"ff" + TRACE[2:],
        b"00-" + b"0" * 32 + TRACE[35:],
        TRACE[:36] + b"0" * 16 + b"-01",
        TRACE.replace(b"-", b"_"),
    ],
)
def test_traceparent_is_ignored_when_its_shape_is_wrong(value):
    assert one(b"traceparent", value).traceparent is None


def test_bearers_are_joined_when_there_are_two():
    two = Headers([(b"authorization", b"Bearer a"), (b"authorization", b"Bearer b")])
    assert two.authorization == "Bearer a, Bearer b"


@pytest.mark.parametrize(
    ("pairs", "has_body"),
    [
        ([], False),
        ([(b"content-length", b"0")], False),
        ([(b"content-length", b"1")], True),
        ([(b"transfer-encoding", b"chunked")], True),
    ],
)
def test_body_is_expected_when_the_framing_says_so(pairs, has_body):
    assert Headers(pairs).has_body is has_body


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"])
def test_peer_is_loopback_when_its_address_is_this_machine(host):
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["10.0.0.1", "8.8.8.8", "fe80::1%eth0", "::ffff:10.0.0.1", "", "localhost"])
def test_peer_is_not_loopback_when_its_address_is_elsewhere(host):
    assert not is_loopback(host)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (b"wait=10", 10),
        (b"respond-async, wait=10", 10),
        (b"respond-async; foo=bar, Wait = 10", 10),
        (b'wait="10"', 10),
        (b"wait=0", 0),
        (b"wait=999999", 999_999),
        (b"wait=10, wait=20", 10),
        (b"wait", None),
        (b"wait=", None),
        (b"wait=-1", None),
        (b"wait=1.5", None),
        (b"await=10", None),
        (b"wait=1234567", None),
        (b"", None),
    ],
)
def test_how_long_a_client_would_wait_is_read_when_it_says_so(value, seconds):
    assert one(b"prefer", value).wait_s == seconds


def test_nobody_waits_when_no_preference_is_there():
    assert Headers([]).wait_s is None


@pytest.mark.parametrize(("value", "kept"), [(b"apr_1", "apr_1"), (b"", None), (b"a\x00", None), (b"x" * 201, None)])
def test_an_approval_is_read_when_it_is_printable(value, kept):
    assert one(b"x-arbstr-approval", value).approval_id == kept
