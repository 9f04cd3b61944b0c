"""The 117 black-box cases of the core (contract section 21): what each is about, what the predecessor does, what we do.

Data only: ``compatibility`` makes docs/compatibility.md of it, and a test checks that every named test exists.
"""

from __future__ import annotations

from enum import StrEnum

from attrs import frozen


class Verdict(StrEnum):
    """How our result compares with the predecessor's."""

    SAME = "same"
    MENDED = "mended"
    """A listed quirk of the predecessor that must not be copied."""
    DECIDED = "decided"
    """Different by a decision of this project where the predecessor's result is no listed quirk."""
    ACCOUNTS = "accounts here"
    """About a vault in another process. What is told and tested is the same situation with accounts in this process."""
    LATER = "later"
    """Of the vault: about a wallet that cannot be configured yet."""


@frozen
class Case:
    """``tests`` are ``module::function`` under ``tests/contract/core``, without the prefix ``test_`` of the module.

    ``why_none`` says why there is no test; it is given exactly when ``tests`` is empty.
    """

    number: int
    what: str
    predecessor: str
    ours: str
    verdict: Verdict
    tests: tuple[str, ...]
    quirks: tuple[int, ...] = ()
    why_none: str = ""


SECTIONS = (
    ("Routing", 1, 16),
    ("Policies", 17, 25),
    ("Chat on the wire", 26, 40),
    ("Failing providers", 41, 48),
    ("Streams", 49, 63),
    ("Circuits", 64, 73),
    ("Who may ask, and how often", 74, 77),
    ("Vault", 78, 94),
    ("What a request would cost", 95, 98),
    ("Statistics and the log", 99, 107),
    ("Configuration, discovery, market", 108, 117),
)


def _same(number: int, what: str, result: str, *tests: str) -> Case:
    return Case(number, what, result, "the same", Verdict.SAME, tests)


def _mended(number: int, quirks: tuple[int, ...], what: str, predecessor: str, ours: str, *tests: str) -> Case:
    return Case(number, what, predecessor, ours, Verdict.MENDED, tests, quirks)


def _decided(number: int, what: str, predecessor: str, ours: str, *tests: str) -> Case:
    return Case(number, what, predecessor, ours, Verdict.DECIDED, tests)


def _accounts(number: int, what: str, predecessor: str, ours: str, *tests: str, quirks: tuple[int, ...] = ()) -> Case:
    return Case(number, what, predecessor, ours, Verdict.ACCOUNTS, tests, quirks)


def _remote(number: int, what: str, predecessor: str, why: str, quirks: tuple[int, ...] = ()) -> Case:
    return Case(number, what, predecessor, "nothing of the kind can happen", Verdict.ACCOUNTS, (), quirks, why)


NO_MESSAGE = "no message to a vault exists while accounts are in this process"

CASES: tuple[Case, ...] = (
    # Routing
    _same(
        1,
        "two providers of one model",
        "the cheaper answers",
        "routing::test_cheapest_provider_answers_when_two_serve_the_model",
    ),
    _mended(
        2,
        (15,),
        "a high base fee against a higher rate",
        "the one without fee; but sats per request are added to sats per million tokens as they stand",
        "the one without fee; the expected cost of this request decides",
        "routing::test_base_fee_counts_when_providers_are_compared",
        "routing::test_base_fee_is_weighed_as_a_fee_per_request_when_rates_are_lower",
    ),
    _same(
        3,
        "equal rates",
        "the first name by bytes answers",
        "routing::test_first_name_answers_when_costs_are_equal",
    ),
    _mended(
        4,
        (26,),
        "two providers of one name",
        "accepted; the better entry is used",
        "an error of the configuration that names them",
        "command_line::test_name_is_refused_when_two_providers_have_it",
    ),
    _same(
        5,
        "a model that nobody serves",
        "400 `No providers available`, names the model; request id, latency, no provider",
        "routing::test_unknown_model_is_refused_and_named_when_nobody_serves_it",
    ),
    _same(
        6,
        "the model in another case",
        "400",
        "routing::test_model_is_refused_when_its_case_differs",
    ),
    _same(
        7,
        "a provider without a list of models",
        "serves any model; lists none",
        "routing::test_any_model_is_forwarded_and_none_is_listed_when_a_provider_names_no_models",
    ),
    _same(
        8,
        "complexity `low`",
        "local provider, tier `local`, no score",
        "routing::test_local_tier_answers_when_complexity_is_said_to_be_low",
    ),
    _same(
        9,
        "complexity `medium`",
        "cheapest up to `standard`, here the local one; tier `standard`",
        "routing::test_tier_is_a_ceiling_when_complexity_is_said_to_be_higher",
    ),
    _mended(
        10,
        (5,),
        "complexity `HIGH`",
        "cheapest of any tier; tier `frontier`; nothing can force hard prompts upward",
        "the same; with `enforce_tier = true` the tier is a floor too",
        "routing::test_tier_is_a_ceiling_when_complexity_is_said_to_be_higher",
        "routing::test_tier_is_a_floor_too_when_the_configuration_enforces_it",
    ),
    _same(
        11,
        "complexity `banana`",
        "ignored, the score decides",
        "routing::test_score_decides_when_the_complexity_header_is_not_understood",
    ),
    _same(
        12,
        "only a frontier provider, complexity `low`",
        "200 from it, tier `frontier`",
        "routing::test_tier_is_raised_when_only_a_higher_one_serves_the_model",
    ),
    _same(
        13,
        "a plain message of 24 bytes",
        "tier `standard`, score `0.025`",
        "routing::test_tier_and_score_are_told_when_a_plain_message_is_answered",
        "routing::test_score_is_that_of_the_reference_when_there_is_one_message",
        "routing::test_score_grows_when_the_conversation_is_long",
    ),
    _same(
        14,
        "the circuits of the lower tiers open",
        "the next tier answers",
        "routing::test_next_tier_answers_when_the_circuits_below_are_open",
    ),
    _mended(
        15,
        (16,),
        "a price cap that empties the tier",
        "400 `policy constraints`",
        "200 from the next tier",
        "routing::test_tier_is_raised_when_the_price_cap_empties_it",
        "routing::test_price_cap_leaves_the_cheaper_provider_when_both_tiers_are_open_to_it",
    ),
    _same(
        16,
        "no messages",
        "score `1.000`, tier `frontier`, 200",
        "routing::test_score_is_the_highest_when_there_are_no_messages",
    ),
    # Policies
    _same(
        17,
        "a rule that does not allow the model",
        "400 `Invalid request: `, names both",
        "policies::test_model_and_rule_are_named_when_the_rule_does_not_allow_the_model",
    ),
    _same(
        18,
        "a cap on the output rate",
        "who is above it is left out; equal is kept",
        "policies::test_provider_at_or_below_the_cap_answers_when_the_rule_has_one",
    ),
    _same(
        19,
        "a cap below all providers",
        "400 `policy constraints`",
        "policies::test_request_is_refused_when_nobody_is_below_the_cap",
    ),
    _mended(
        20,
        (21,),
        "a header that names no rule",
        "200; the text is kept in the database only",
        "200; the log shows the text",
        "policies::test_unknown_rule_is_logged_and_without_effect_when_a_header_names_it",
    ),
    _mended(
        21,
        (21,),
        "a keyword inside a word, in another case",
        "the rule applies, and is not recorded",
        "the rule applies, and the log names it",
        "policies::test_rule_applies_when_its_keyword_is_in_the_last_user_text",
    ),
    _same(
        22,
        "a keyword in an earlier or in an assistant message",
        "the rule does not apply",
        "policies::test_rule_does_not_apply_when_its_keyword_is_in_an_earlier_message",
        "policies::test_rule_does_not_apply_when_its_keyword_is_in_a_later_assistant_message",
    ),
    _same(
        23,
        "a header and another rule's keyword",
        "the header wins",
        "policies::test_rule_of_the_header_wins_when_the_keyword_of_another_is_there",
    ),
    _same(
        24,
        "a keyword in the second text part; role `User`",
        "not applied",
        "policies::test_only_the_first_text_part_counts_when_content_is_an_array",
        "policies::test_rule_does_not_apply_when_the_role_is_written_in_another_case",
    ),
    _same(
        25,
        "a rule's name in another case",
        "not matched, keywords decide",
        "policies::test_keywords_decide_when_the_header_names_a_rule_in_another_case",
    ),
    # Chat on the wire
    _same(
        26,
        "a success of another 2xx status",
        "200, body intact but for `arbstr_provider`",
        "chat_wire::test_answer_names_its_provider_and_keeps_the_rest_when_the_upstream_says_created",
    ),
    _decided(
        27,
        "cost of known usage",
        "`0.35`; at the lowest rates `0.00` in the header and 0.00003 in the log",
        "`0.35` and 350 msat; a cost is rounded up to 1 msat once, so the lowest is 0.001 in the log",
        "chat_wire::test_cost_is_told_when_usage_is",
        "chat_wire::test_cost_is_rounded_up_to_one_msat_when_it_is_less",
    ),
    _mended(
        28,
        (18,),
        "no usage in the answer",
        "cost unknown: no header, null in the log",
        "counted from what passed, and marked as an estimate",
        "chat_wire::test_cost_is_estimated_when_the_answer_has_no_usage",
    ),
    _mended(
        29,
        (21,),
        "the provider reports a cost of its own",
        "own rates decide; the report is kept in the database only",
        "own rates decide; the log shows the report",
        "chat_wire::test_own_rates_decide_when_the_provider_reports_a_cost",
    ),
    _same(
        30,
        "a body `[1,2]`",
        "passed on, 200",
        "chat_wire::test_body_is_passed_on_when_it_is_json_but_no_object",
    ),
    _decided(
        31,
        "headers to the provider",
        "its key, `idempotency-key` = request id, nothing of the client",
        "the same, and of the client's its correlation id and `traceparent`",
        "chat_wire::test_provider_sees_its_own_key_and_the_request_id_and_nothing_of_the_client",
        "chat_wire::test_request_id_is_ours_and_the_clients_is_the_correlation_id_when_it_sends_one",
    ),
    _same(
        32,
        "a provider without a key",
        "no `authorization`",
        "chat_wire::test_no_authorization_is_sent_when_the_provider_has_no_key",
    ),
    _mended(
        33,
        (6,),
        "unknown and null members",
        "unknown ones pass, nulls of known ones are dropped, the body is written anew",
        "the body passes byte for byte",
        "chat_wire::test_body_arrives_byte_for_byte_when_it_has_members_that_nobody_knows",
    ),
    _decided(
        34,
        "a request id from the client",
        "ignored; a fresh UUID",
        "a fresh UUID; the client's is the correlation id, returned, logged and forwarded",
        "chat_wire::test_request_id_is_ours_and_the_clients_is_the_correlation_id_when_it_sends_one",
    ),
    _same(
        35,
        "a provider's URL with a slash at its end",
        "one slash",
        "chat_wire::test_upstream_path_has_one_slash_when_the_url_ends_with_one",
    ),
    _mended(
        36,
        (14, 34),
        "bodies that cannot be read",
        "422, 400, 415, 413 as text, without request id; 413 above 2 MiB",
        "the same statuses as JSON with a request id; the limit is configurable, 32 MiB unless told",
        "chat_wire::test_body_is_refused_as_json_when_a_required_member_is_missing",
        "chat_wire::test_body_is_refused_as_json_when_it_is_not_json",
        "chat_wire::test_body_is_refused_as_json_when_no_content_type_is_sent",
        "chat_wire::test_body_above_two_mebibytes_is_taken_when_nothing_is_configured",
        "chat_wire::test_body_is_refused_as_json_when_it_is_one_byte_above_the_configured_limit",
    ),
    _mended(
        37,
        (6,),
        "`content` null or absent",
        'null is 422; absent becomes `""`',
        "both pass as they are",
        "chat_wire::test_content_is_forwarded_as_it_is_when_it_is_null_or_absent",
    ),
    _mended(
        38,
        (6,),
        "members of the wrong type",
        "422 each",
        "422 for what is read here (`max_tokens`, `stream`); what is not (`stop`, `user`) is the provider's to judge",
        "chat_wire::test_member_is_refused_and_named_when_what_we_read_has_the_wrong_type",
        "chat_wire::test_member_is_the_providers_to_judge_when_we_do_not_read_it",
        "chat_wire::test_answer_is_plain_when_stream_is_null",
    ),
    _mended(
        39,
        (14,),
        "wrong method, unknown path",
        "405 with `allow`, 404; empty bodies",
        "the same statuses as JSON with a request id",
        "chat_wire::test_method_is_refused_and_the_right_one_named_when_it_is_wrong",
        "chat_wire::test_path_is_not_found_when_it_is_unknown_or_ends_with_a_slash",
    ),
    _same(
        40,
        "a redirect from the provider",
        "followed",
        "chat_wire::test_redirect_is_followed_when_the_provider_sends_one",
    ),
    # Failing providers
    _mended(
        41,
        (7,),
        "upstream 400, 401, 404, 429, 501",
        "502 with the upstream's body in a text; one call",
        "the client's fault (400, 404 with an error body, 413, 422) passes through; 429 stays 429 with `retry-after`; "
        "the rest is 502 without the upstream's words",
        "upstream_failures::test_status_and_error_body_pass_through_when_the_request_is_at_fault",
        "upstream_failures::test_bad_gateway_after_one_call_when_the_provider_does_not_accept_us",
        "upstream_failures::test_bad_gateway_after_one_call_when_the_provider_knows_no_such_path",
        "upstream_failures::test_rate_limit_keeps_its_meaning_and_its_retry_after_when_nobody_else_is_left",
        "upstream_failures::test_bad_gateway_after_three_calls_when_the_fault_may_pass",
    ),
    _decided(
        42,
        "always 500, one provider",
        "three calls after 0, 1 and 3 s; 502",
        "three calls, the waits configurable and with jitter; 502",
        "upstream_failures::test_waits_double_when_one_provider_fails_again_and_again",
        "upstream_failures::test_bad_gateway_after_three_calls_when_the_fault_may_pass",
    ),
    _same(
        43,
        "503, then 200",
        "200 after a wait, retries `1/<name>`",
        "upstream_failures::test_answer_comes_after_a_wait_when_the_second_try_succeeds",
    ),
    _mended(
        44,
        (7, 20),
        "a dead primary, a good second",
        "200 from the second after three tries and 3 s",
        "200 from the second at once, retries `1/<primary>`; who cannot be reached is named without its address",
        "upstream_failures::test_second_answers_without_a_further_try_of_the_first_when_the_first_is_dead",
        "upstream_failures::test_provider_is_named_and_its_address_is_not_when_it_cannot_be_reached",
    ),
    _mended(
        45,
        (7,),
        "two dead, a good third",
        "502, the third is never called",
        "200 from the third, retries `1/<primary>, 1/<second>`",
        "upstream_failures::test_third_answers_when_the_first_and_the_second_are_dead",
    ),
    _mended(
        46,
        (35,),
        "200 that is not JSON",
        "three calls, which may be billed three times; 502",
        "one call, then the next provider; 502 when there is none",
        "upstream_failures::test_provider_is_called_once_when_its_success_is_not_json",
        "upstream_failures::test_next_provider_answers_when_the_success_of_the_first_is_not_json",
    ),
    _mended(
        47,
        (8, 9, 31),
        "a silent provider",
        "504 after 30 s with code 502; not counted",
        "504 with code 504 after the provider's own timeout or the request's deadline; counted once",
        "upstream_failures::test_gateway_timeout_counts_as_one_failure_when_the_provider_is_silent",
        "upstream_failures::test_gateway_timeout_when_the_deadline_of_the_request_passes",
    ),
    _same(
        48,
        "idempotency key of all attempts",
        "one and the same",
        "upstream_failures::test_idempotency_key_is_the_same_when_a_request_is_tried_again_and_elsewhere",
    ),
    # Streams
    _same(
        49,
        "a stream without `include_usage`",
        "usage is asked for",
        "streaming::test_usage_is_asked_for_when_the_client_says_nothing_about_it",
    ),
    _mended(
        50,
        (1, 6),
        "`include_usage: false` and another member",
        "false is kept, the other member dropped",
        "usage is asked for and not shown to the client; the other member is kept",
        "streaming::test_usage_is_asked_for_and_not_shown_when_the_client_does_not_want_it",
    ),
    _same(
        51,
        "`stream_options` of a plain request",
        "left alone",
        "streaming::test_stream_options_are_left_alone_when_the_answer_is_plain",
    ),
    _same(
        52,
        "headers of a stream",
        "event stream, no cache, provider, tier, score; no cost, no latency",
        "streaming::test_headers_are_those_of_an_event_stream_when_a_stream_is_answered",
    ),
    _mended(
        53,
        (2,),
        "the end of a stream",
        "`[DONE]`, cost event, another `[DONE]`",
        "cost event when asked for, then one `[DONE]`",
        "streaming::test_one_done_comes_last_when_the_cost_is_asked_for",
        "streaming::test_no_event_of_ours_comes_when_the_cost_is_not_asked_for",
    ),
    _mended(
        54,
        (1,),
        "the cost event",
        "cost, latency, score, tier; the cost is always null",
        "the same members with the cost, and msat beside it; `usage.arbstr` for who asks for usage",
        "streaming::test_cost_event_tells_cost_latency_score_and_tier_when_it_is_asked_for",
        "streaming::test_usage_carries_its_cost_when_the_client_wants_it",
        "streaming::test_stream_is_logged_with_tokens_and_cost_when_it_is_complete",
    ),
    _same(
        55,
        "a stream with the complexity header",
        "score null, no score header",
        "streaming::test_score_is_null_and_has_no_header_when_the_complexity_is_given",
    ),
    _mended(
        56,
        (2,),
        "a stream that ends without `[DONE]`",
        "cost event and `[DONE]` are made up; `stream_incomplete`",
        "an error event, no `[DONE]`; `stream_incomplete`",
        "streaming::test_no_done_is_made_up_when_the_provider_sends_none",
    ),
    _decided(
        57,
        "a stream that is reset",
        "the client's chunked body breaks off; `stream_incomplete`",
        "an error event, no `[DONE]`; `stream_incomplete`",
        "streaming::test_stream_ends_with_an_error_event_when_the_provider_resets_it",
    ),
    _mended(
        58,
        (7,),
        "a stream refused with 404",
        "502, one call, no other provider is ever tried for a stream",
        "404 passes through; a provider's fault moves on to the next until the first byte",
        "streaming::test_json_error_of_the_provider_passes_when_a_stream_is_refused",
        "streaming::test_next_provider_streams_when_the_first_fails_before_its_first_byte",
    ),
    _same(
        59,
        "all that the event format allows",
        "usage is seen",
        "streaming::test_usage_is_seen_when_the_events_use_all_that_their_format_allows",
    ),
    _same(
        60,
        "usage in pieces; an event that is no JSON",
        "seen; passed on",
        "streaming::test_usage_is_seen_when_it_arrives_in_pieces",
        "streaming::test_stream_is_unaffected_when_one_of_its_events_is_no_json",
    ),
    _decided(
        61,
        "the client leaves a stream",
        "the provider is read to its end, then it is released",
        'the provider is left at once, or read to the end with `on_disconnect = "drain"`; settled either way',
        "streaming::test_provider_is_left_at_once_and_paid_for_what_passed_when_the_client_leaves",
        "streaming::test_stream_is_read_to_its_end_and_paid_by_its_usage_when_the_provider_is_to_be_drained",
    ),
    _mended(
        62,
        (3,),
        "silence, and long streams",
        "502 after 120 s; cut at 120 s in all",
        "504 after the provider's own timeout; a stream lives as long as bytes come",
        "streaming::test_gateway_timeout_when_the_provider_is_silent_before_its_stream",
        "streaming::test_stream_survives_when_it_lasts_longer_than_any_of_its_timeouts",
        "streaming::test_stream_ends_with_an_error_event_when_the_provider_falls_silent",
    ),
    _decided(
        63,
        "an error event inside a stream",
        "passed on, and the stream counts as a success",
        "the stream ends with one error event and counts as a failure",
        "streaming::test_stream_ends_with_one_error_and_counts_as_failed_when_the_provider_reports_an_error",
    ),
    # Circuits
    _same(
        64,
        "three failed streams",
        "503 `open circuits`; `open`, 3 failures",
        "circuit::test_requests_are_refused_without_a_call_when_three_streams_have_failed",
    ),
    _mended(
        65,
        (31,),
        "one request to a dead provider",
        "3 failures, `open`",
        "1 failure, `closed`",
        "circuit::test_one_failure_is_counted_when_one_request_was_tried_three_times",
    ),
    _decided(
        66,
        "400 and 520",
        "not counted; counted once and not tried again",
        "not counted; counted once, tried again like any 5xx",
        "circuit::test_nothing_is_counted_when_the_request_was_at_fault",
        "circuit::test_one_failure_is_counted_per_request_when_the_status_is_an_odd_5xx",
    ),
    _same(
        67,
        "a success between failures",
        "the count starts anew",
        "circuit::test_count_starts_anew_when_a_success_comes_between",
    ),
    _same(
        68,
        "an open cheap provider and a dear one",
        "the dear one; the cheap is not called",
        "circuit::test_dear_provider_answers_and_the_cheap_is_not_called_when_its_circuit_is_open",
    ),
    _same(
        69,
        "the open period",
        "refused before its end; one probe after it, which closes it or opens it again",
        "circuit::test_request_is_refused_when_the_open_period_has_just_begun",
        "circuit::test_circuit_closes_when_the_probe_succeeds",
        "circuit::test_circuit_opens_again_when_the_probe_fails",
    ),
    _mended(
        70,
        (11,),
        "a second request during a probe",
        "it waits for the outcome",
        "it goes to the next provider, or is refused at once",
        "circuit::test_second_request_is_refused_and_does_not_wait_when_the_only_provider_is_being_probed",
    ),
    _mended(
        71,
        (31,),
        "a probe answered with 400",
        "`open` again",
        "`closed`: the provider is well",
        "circuit::test_circuit_closes_when_the_probe_is_rejected_as_the_clients_fault",
    ),
    _mended(
        72,
        (11,),
        "two half-open providers",
        "one stays half open for ever, later requests hang",
        "the next healthy provider answers, both come back",
        "circuit::test_healthy_provider_answers_when_two_others_are_being_probed",
    ),
    _same(
        73,
        "`/health`",
        "`ok`, `degraded`, `unhealthy` by the circuits",
        "circuit::test_health_is_worse_the_more_circuits_are_open",
        "circuit::test_health_is_degraded_when_the_only_provider_is_being_probed",
        "circuit::test_health_is_ok_when_there_are_no_providers",
    ),
    # Who may ask, and how often
    _same(
        74,
        "`auth_token`",
        "401 without it, in any other spelling, or with another",
        "auth::test_bearer_is_required_when_a_token_is_configured",
        "auth::test_everything_answers_when_the_bearer_is_the_configured_token",
    ),
    _mended(
        75,
        (10,),
        "what is open in spite of `auth_token`",
        "`/health`, `/providers`, `/v1/stats`, `/v1/requests`",
        "`/health` and `/ready`; unknown paths are 401 without the token and 404 with it",
        "auth::test_bearer_is_required_when_a_token_is_configured",
        "auth::test_health_and_readiness_need_no_bearer",
        "auth::test_unknown_path_is_not_told_apart_when_the_bearer_is_missing",
    ),
    _accounts(
        76,
        "accounts and `auth_token` together",
        "any bearer reaches the vault; `/v1/models` is open",
        "an agent's token counts, the configured one does not; `/v1/models` needs a bearer; an agent sees its own "
        "requests, the admin all",
        "auth::test_agents_token_counts_and_the_configured_one_does_not_when_there_are_accounts",
        "accounts::test_agent_sees_its_own_requests_and_the_admin_all_of_them",
        quirks=(10,),
    ),
    _mended(
        77,
        (30,),
        "`rate_limit_rps`",
        "per route; requests wait, health checks too",
        "per client; 429 with `retry-after` and `x-ratelimit-*`; health is never limited",
        "auth::test_request_is_refused_with_the_time_to_wait_when_a_client_asks_too_often",
    ),
    # Vault
    _accounts(
        78,
        "no bearer",
        "401 `Authorization: Bearer <token> required`; the vault is not called; logged",
        "401 with the same words; no provider is called; not logged, since it is nobody's",
        "accounts::test_bearer_is_required_when_agents_pay",
    ),
    _accounts(
        79,
        "the hold of a request without a limit",
        "for the dearest provider of the model; `max_tokens` is written into the body",
        "for the provider that is asked; the body is unchanged",
        "accounts::test_hold_covers_the_request_and_the_body_is_unchanged_when_it_names_no_limit",
        quirks=(17,),
    ),
    _accounts(
        80,
        "the hold of a request with a limit",
        "`max_tokens` counts; `max_completion_tokens` does not, and `max_tokens` is added",
        "both count; nothing is added",
        "accounts::test_hold_is_smaller_and_no_limit_is_added_when_the_body_names_one",
        quirks=(17,),
    ),
    _remote(81, "the reserve message", "exactly four members and `x-internal-token`", NO_MESSAGE),
    _accounts(
        82,
        "the order, and refusals",
        "reserve before the provider; 402, 403, 429 pass with `vault_<status>`, without request id",
        "held on disk before the provider is called; 402 `vault_402` with a request id",
        "accounts::test_money_is_held_before_the_provider_is_called_and_none_after_the_answer",
        "accounts::test_payment_is_required_and_the_provider_not_called_when_the_balance_is_too_small",
        quirks=(20,),
    ),
    _accounts(
        83,
        "no ledger",
        "503 when the vault fails, 500 when it says what is not expected; its address leaks",
        "503 while the books cannot be written; nothing internal is told; no provider is called",
        "accounts::test_nothing_is_spent_when_the_books_cannot_be_written",
        quirks=(20,),
    ),
    _accounts(
        84,
        "settlement of known usage",
        "110 msat, in the background",
        "110 msat, on disk before the client is told",
        "accounts::test_charge_is_the_exact_cost_when_usage_is_known",
    ),
    _accounts(
        85,
        "settlement without usage",
        "0 msat",
        "the estimate",
        "accounts::test_estimate_is_charged_when_the_provider_tells_no_usage",
        quirks=(18,),
    ),
    _accounts(
        86,
        "failures of the provider",
        "one release, its reason by kind",
        "all that was held comes back",
        "accounts::test_everything_held_comes_back_when_the_provider_gives_no_answer",
    ),
    _accounts(
        87,
        "a complete stream",
        "released: streams are free",
        "110 msat, whether or not the client asked for usage",
        "accounts::test_charge_is_the_exact_cost_when_usage_is_known",
        "accounts::test_stream_is_charged_when_the_client_asks_for_no_usage",
        quirks=(1,),
    ),
    _remote(88, "a settle that fails", "three calls, then a row of its own", NO_MESSAGE),
    _remote(89, "a release that fails", "three calls, then a row of its own", NO_MESSAGE),
    _accounts(
        90,
        "what an earlier run left behind",
        "rows are replayed; after ten failures they are deleted",
        "holds of a program that was killed are resolved by what is known; nothing is ever dropped",
        "accounts::test_hold_is_resolved_when_the_program_was_killed_in_the_middle_of_a_request",
        quirks=(32,),
    ),
    _accounts(
        91,
        "many rows left behind",
        "503 `vault_backpressure`; an unknown model is 400 still",
        "no rows, no backpressure; an unknown model is told before the balance is looked at",
        "accounts::test_unknown_model_is_told_before_the_balance_is_looked_at",
    ),
    _accounts(
        92,
        "the client leaves a plain request",
        "nothing: the hold leaks, no row",
        "the hold comes back, the log knows",
        "accounts::test_hold_comes_back_and_the_log_knows_when_the_client_leaves_before_the_answer",
        quirks=(19,),
    ),
    _accounts(
        93,
        "a refused hold and a half-open provider",
        "later requests hang",
        "the permit comes back",
        "accounts::test_permit_comes_back_when_the_hold_is_refused_for_a_provider_that_is_half_open",
        quirks=(11,),
    ),
    _accounts(
        94,
        "a variable in `internal_token`",
        "sent as it stands",
        "expanded in every secret there is here",
        "auth::test_variable_is_expanded_when_it_stands_in_a_secret",
        quirks=(4,),
    ),
    # What a request would cost
    _same(
        95,
        "`hello` at 5000/15000",
        "1 and 256 tokens, 3.845 sats",
        "cost::test_cost_is_that_of_256_tokens_when_no_limit_is_given",
        "cost::test_cost_is_told_in_msat_beside_sats",
    ),
    _same(
        96,
        "length and limit",
        "bytes / 4, at least 1; the limit, 0 included",
        "cost::test_tokens_follow_the_length_and_the_limit",
    ),
    _same(
        97,
        "array content",
        "counts with its JSON text",
        "cost::test_array_content_counts_with_its_json_text",
    ),
    _same(
        98,
        "errors, policies, circuits",
        "400; respected; quoted although open; no headers of the routing",
        "cost::test_unknown_model_is_refused",
        "cost::test_policy_counts_when_a_header_names_it",
        "cost::test_provider_is_quoted_when_its_circuit_is_open",
        "cost::test_no_header_tells_of_routing_or_cost",
    ),
    # Statistics and the log
    _same(
        99,
        "sums of a week and of a month",
        "counts, costs, tokens, mean latency",
        "stats::test_sums_are_those_of_the_last_week_when_nothing_is_asked_for",
        "stats::test_older_requests_count_when_the_range_is_longer",
    ),
    _mended(
        100,
        (14, 23),
        "bounds and nonsense",
        "bounds win over the range; 400, part of it as text; the current second is hidden",
        "the same, all errors as JSON; the current second is shown",
        "stats::test_bounds_win_when_a_range_is_given_too",
        "stats::test_query_is_refused_when_a_value_has_no_meaning",
        "stats::test_timestamp_is_refused_when_its_plus_is_not_escaped",
        "stats::test_request_of_this_second_is_there_at_once",
    ),
    _same(
        101,
        "filters by model and provider",
        "any case; 404 when unknown to configuration and log",
        "stats::test_model_is_found_in_any_case",
        "stats::test_unknown_name_is_not_found",
        "stats::test_model_is_known_when_only_old_requests_name_it",
    ),
    _same(
        102,
        "an empty window; sums by model and by tier",
        "`empty` and zeros; idle models; always all tiers",
        "stats::test_empty_window_says_so",
        "stats::test_idle_models_are_listed_when_the_sums_are_by_model",
        "stats::test_all_tiers_are_listed_when_the_sums_are_by_tier",
    ),
    _mended(
        103,
        (14,),
        "pages",
        "brought into bounds; 400 as text",
        "brought into bounds; 400 as JSON",
        "stats::test_newest_come_first_when_nothing_is_asked_for",
        "stats::test_page_is_brought_into_bounds",
        "stats::test_query_is_refused_as_json_when_a_value_has_the_wrong_type",
    ),
    _mended(
        104,
        (14,),
        "number of pages; `success=yes`",
        "rounded up; 400 as text",
        "rounded up; 400 as JSON",
        "stats::test_last_page_is_counted_when_it_is_not_full",
        "stats::test_query_is_refused_as_json_when_a_value_has_the_wrong_type",
        "stats::test_requests_are_filtered_when_success_and_streaming_are_asked_for",
    ),
    _same(
        105,
        "order",
        "by latency, cost, time; else 400 `Valid options`",
        "stats::test_requests_are_sorted_when_an_order_is_asked_for",
        "stats::test_valid_orders_are_named_when_the_order_is_unknown",
    ),
    _same(
        106,
        "entries of the log",
        "`error`, `provider`, `stream_duration_ms` only where they apply",
        "stats::test_error_is_told_when_the_request_failed",
        "stats::test_provider_is_absent_when_nobody_was_asked",
        "stats::test_error_is_absent_when_the_request_succeeded",
    ),
    _decided(
        107,
        "a database that cannot be opened",
        "chat works, statistics are 500",
        "the program does not start: no ledger, no spending",
        "stats::test_program_does_not_start_when_its_database_cannot_be_opened",
    ),
    # Configuration, discovery, market
    _decided(
        108,
        "no `[server]`; `[server]` alone",
        "exit 1; exit 0 with 0 providers",
        "exit 0 with 0 providers: every section has defaults",
        "command_line::test_every_section_has_defaults",
    ),
    _mended(
        109,
        (26,),
        "unknown tier, empty URL, duplicate names",
        "errors that name the variants, the provider; duplicates accepted",
        "errors, all three",
        "command_line::test_variants_are_named_when_a_tier_is_unknown",
        "command_line::test_provider_is_named_when_its_url_is_empty",
        "command_line::test_name_is_refused_when_two_providers_have_it",
    ),
    _same(
        110,
        "variables in keys",
        "expanded, several too; unset, `${` and `${}` are errors; `$A` is literal",
        "command_line::test_key_is_expanded_when_it_names_two_variables",
        "command_line::test_variable_and_provider_are_named_when_the_variable_is_not_set",
        "command_line::test_dollar_without_braces_is_literal",
        "command_line::test_expansion_is_refused_when_it_is_not_well_formed",
        "chat_wire::test_provider_sees_its_own_key_and_the_request_id_and_nothing_of_the_client",
        "chat_wire::test_dollar_without_braces_is_literal_when_it_stands_in_a_key",
    ),
    _same(
        111,
        "the variable that goes with a name",
        "`ARBSTR_MY_SVC_X_API_KEY` for `my-svc x`",
        "command_line::test_variable_goes_with_the_name_when_no_key_is_written",
    ),
    _decided(
        112,
        "mode of the file; `providers`",
        "0644 is warned about; keys masked; rates per 1M",
        "the same; rates in the unit they were written in",
        "command_line::test_mode_of_the_file_is_warned_about_when_others_may_read_it",
        "command_line::test_keys_are_masked_and_rates_are_short_when_providers_are_shown",
        "command_line::test_nobody_is_shown_when_there_are_no_providers",
    ),
    _mended(
        113,
        (28,),
        "discovery",
        "replaces the list, keeps it when it fails; an empty list that could not be filled serves any model",
        "the same, but who could not be asked and has no list serves nothing",
        "market::test_list_of_the_provider_replaces_the_written_one_when_it_can_be_had",
        "market::test_written_list_stays_when_the_provider_gives_none",
        "market::test_provider_is_not_asked_when_discovery_is_off",
        "market::test_key_is_sent_when_there_is_one",
        "market::test_provider_serves_nothing_when_its_list_is_unknown",
    ),
    _same(
        114,
        "quotes of the market feed",
        "skipped for want of a key, of reliability, or of age; else a provider `<source>-<slug>`",
        "market::test_offer_is_skipped_when_there_is_no_key_for_its_source",
        "market::test_offer_becomes_a_provider_when_there_is_a_key_for_its_source",
        "market::test_offer_is_skipped_when_its_node_is_unreliable",
        "market::test_old_quotes_are_one_entry_when_they_are_dropped",
    ),
    _mended(
        115,
        (29,),
        "endpoints that are one; a written provider with the same address",
        "one provider, rates per model; the overlay clears the base fee and the wildcard; a null price is free",
        "one provider, rates per model; base fee and wildcard stay; a null price is no price",
        "market::test_endpoints_are_one_provider_when_they_differ_in_slash_and_version_only",
        "market::test_written_provider_takes_the_prices_and_keeps_its_fee_when_the_feed_quotes_its_address",
        "market::test_written_provider_serves_any_model_still_when_the_feed_quotes_its_address",
        "market::test_quote_is_left_out_when_one_of_its_prices_is_unknown",
    ),
    _same(
        116,
        "`/providers` without a feed",
        "`market.enabled` false, one note; keys masked",
        "market::test_providers_are_shown_with_masked_keys_and_one_note_when_there_is_no_feed",
    ),
    _mended(
        117,
        (12,),
        "`serve --mock`",
        "three models; chat is 502, statistics 500",
        "a market of its own: the three models and more, chat and statistics 200",
        "market::test_mock_market_answers_when_nothing_is_configured",
    ),
)
