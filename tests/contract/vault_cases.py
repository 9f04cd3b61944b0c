"""The 90 black-box cases of the vault (contract: vault, section 22), and the 39 weaknesses of its section 20.

Data only, as ``cases``. Tests are ``module::function`` under ``tests/contract/vault``; one that stands elsewhere is
named with its whole path.
"""

from __future__ import annotations

from attrs import frozen

from tests.contract.cases import Case, Verdict

SECTIONS = (
    ("Service and authentication", 1, 13),
    ("Agents", 14, 23),
    ("Deposit and balance", 24, 27),
    ("Policy", 28, 38),
    ("Payments and status", 39, 47),
    ("Approvals and withdrawals", 48, 56),
    ("Internal billing", 57, 75),
    ("Operator", 76, 78),
    ("Webhooks and alerts", 79, 82),
    ("Rails", 83, 90),
)


@frozen
class Weakness:
    """Of the predecessor. ``tests`` show it gone; ``reason`` says why it cannot occur, or what is still to come."""

    number: int
    words: str
    tests: tuple[str, ...]
    reason: str = ""


def _same(number: int, what: str, result: str, *tests: str) -> Case:
    return Case(number, what, result, "the same", Verdict.SAME, tests)


def _mended(number: int, weak: tuple[int, ...], what: str, predecessor: str, ours: str, *tests: str) -> Case:
    return Case(number, what, predecessor, ours, Verdict.MENDED, tests, weak)


def _decided(number: int, what: str, predecessor: str, ours: str, *tests: str) -> Case:
    return Case(number, what, predecessor, ours, Verdict.DECIDED, tests)


def _later(number: int, what: str, predecessor: str, why: str, *tests: str) -> Case:
    return Case(number, what, predecessor, why, Verdict.LATER, tests, why_none="" if tests else "nothing to test yet")


NO_LIGHTNING = "later: no Lightning wallet can be configured yet"
NO_CASHU = "later: no Cashu wallet can be configured yet"
NO_WALLET = "service::test_program_does_not_start_when_its_wallet_cannot_be_had"

CASES: tuple[Case, ...] = (
    # Service and authentication
    _same(
        1,
        "`/health` without a bearer",
        "200, `ok`, ISO time",
        "service::test_health_is_told_to_anybody_with_the_time",
    ),
    _decided(
        2,
        "an unknown path or method",
        "404 of the framework's family",
        "the same under `/agents`, `/operator` and `/internal`; elsewhere 401 without a bearer, 404 with one",
        "service::test_route_is_not_found_when_path_or_method_is_unknown",
        "service::test_path_beside_the_vaults_needs_a_bearer_even_to_be_unknown",
        "service::test_head_is_answered_when_get_is",
    ),
    _same(
        3,
        "an operator's route without the token, and with malformed JSON",
        "401 `Invalid admin token`",
        "service::test_operators_routes_need_the_admin_token_before_the_body_is_looked_at",
    ),
    _same(
        4,
        "`bearer` in lower case",
        "401",
        "service::test_operators_routes_need_the_admin_token_before_the_body_is_looked_at",
    ),
    _same(
        5,
        "the admin token at an agent's route",
        "401 `Invalid agent token`",
        "service::test_agents_routes_refuse_the_admin_token",
    ),
    _same(
        6,
        "an agent's token at an operator's route",
        "401 `Invalid admin token`",
        "service::test_operators_routes_refuse_an_agents_token",
    ),
    _same(
        7,
        "balance, history, payment of another agent",
        "403 `forbidden`",
        "service::test_agent_is_refused_when_it_asks_about_another",
    ),
    _same(
        8,
        "`/agents/foo/balance`",
        "403",
        "service::test_agent_is_refused_when_it_asks_about_another",
    ),
    _same(
        9,
        "a token that nobody has",
        "401",
        "service::test_agents_routes_refuse_a_token_that_nobody_has",
    ),
    _same(
        10,
        "`/internal/*` without its token",
        "401 `Invalid internal token`, before the body is looked at",
        "service::test_internal_routes_need_their_token_before_the_body_is_looked_at",
    ),
    _same(
        11,
        "`/internal/*` when no internal token is configured",
        "404 of the framework's family",
        "service::test_internal_routes_do_not_exist_when_no_internal_token_is_configured",
    ),
    _same(
        12,
        "an internal token that is empty or has 31 characters",
        "exit 1",
        "service::test_program_does_not_start_when_the_internal_token_is_empty_or_short",
    ),
    _decided(
        13,
        "no admin token; wallets without what they need",
        "exit 1",
        "without an admin token, or with a short one, the operator's routes do not exist: 404; wallets: exit 1",
        "service::test_operators_routes_do_not_exist_when_the_admin_token_is_missing_or_short",
        NO_WALLET,
    ),
    # Agents
    _same(
        14,
        "registration",
        "201, `ag_` and `vtk_`; unknown members are ignored",
        "agents::test_agent_gets_id_and_token_when_it_is_registered",
        "agents::test_name_is_not_unique",
    ),
    _same(
        15,
        "no name",
        "400 with the words of the issue",
        "agents::test_registration_is_refused_with_every_issue_when_its_body_is_wrong",
    ),
    _same(
        16,
        "a name of 101 characters",
        "400; counted in UTF-16 units",
        "agents::test_registration_is_refused_with_every_issue_when_its_body_is_wrong",
    ),
    _same(
        17,
        "two issues",
        "400 with both, joined by `, `",
        "agents::test_registration_is_refused_with_every_issue_when_its_body_is_wrong",
    ),
    _same(
        18,
        "a body that is empty, a form, or too large",
        "400, 415, 413",
        "agents::test_body_is_refused_when_it_cannot_be_read",
        "agents::test_body_is_missing_when_neither_it_nor_its_type_is_sent",
    ),
    _same(
        19,
        "pages of the list of agents",
        "ascending, exclusive cursor",
        "agents::test_list_goes_on_behind_the_cursor_when_it_is_longer_than_the_limit",
    ),
    _same(
        20,
        "`limit` out of bounds",
        "400 with the words of the issue",
        "agents::test_limit_of_a_list_is_refused_when_it_is_no_number_in_bounds",
    ),
    _same(
        21,
        "`ag_nope`, `foo` and nothing as an id",
        "404, 400, 400",
        "agents::test_agent_is_not_found_when_nobody_has_its_id",
        "service::test_empty_id_is_invalid_when_the_list_is_asked_for_with_a_slash",
    ),
    _same(
        22,
        "the policy of a new agent",
        "both limits 0",
        "agents::test_new_agent_may_pay_nothing",
    ),
    _same(
        23,
        "a token after it was given out",
        "in no answer and no line of the log",
        "agents::test_token_is_shown_and_logged_nowhere_when_it_was_given_out",
    ),
    # Deposit and balance
    _same(24, "deposits", "add up", "agents::test_deposits_add_up"),
    _same(
        25,
        "amounts that are no positive whole number",
        "400; `1.0` is 1",
        "agents::test_deposit_is_refused_when_its_amount_is_no_positive_whole_number",
        "agents::test_deposit_is_whole_when_its_amount_is_written_with_a_point",
    ),
    _same(
        26,
        "a deposit to nobody",
        "404",
        "agents::test_deposit_is_refused_when_there_is_no_such_agent",
    ),
    _same(
        27,
        "the balance of a new agent",
        "0 `BTC_simulated`",
        "agents::test_balance_is_nothing_when_nothing_was_deposited",
    ),
    # Policy
    _same(
        28,
        "the first and the second change",
        "versions 2 and 3; what was never set is null",
        "policies::test_versions_are_counted_from_two_when_the_operator_sets_a_policy",
        "policies::test_policy_is_refused_when_there_is_no_such_agent",
    ),
    _same(
        29,
        "a change without a limit",
        "400",
        "policies::test_policy_is_refused_when_a_limit_is_missing_or_out_of_bounds",
    ),
    _same(
        30,
        "values out of bounds",
        "400",
        "policies::test_policy_is_refused_when_a_limit_is_missing_or_out_of_bounds",
    ),
    _mended(
        31,
        (33,),
        "a change that does not name the approval timeout",
        "it is cleared; payments above the limit are denied again",
        "the same for JSON; of `application/merge-patch+json` what is not named stays, and `null` clears",
        "policies::test_policy_is_replaced_whole_when_it_is_sent_as_json",
        "policies::test_what_a_change_does_not_name_stays_when_it_is_sent_as_a_merge_patch",
    ),
    _mended(
        32,
        (33,),
        "`PUT` with an approval timeout",
        "ignored; everything but the limits is cleared",
        "ignored; everything but the limits stays",
        "policies::test_legacy_route_changes_the_limits_and_nothing_else",
    ),
    _same(
        33,
        "a payment when no policy was set",
        "DENY `deny_all_policy`",
        "policies::test_nothing_may_be_paid_when_no_policy_was_set",
    ),
    _same(
        34,
        "payments at and above both limits",
        "at: SETTLED; above: DENY with the limit's name",
        "policies::test_limits_are_inclusive_per_payment_and_per_day",
    ),
    _same(
        35,
        "a payment above the balance",
        "DENY `insufficient_balance`",
        "policies::test_payment_is_denied_when_the_balance_is_smaller",
    ),
    _same(
        36,
        "limits of 0",
        "DENY with the name of the limit that is 0",
        "policies::test_limit_of_nothing_denies_everything",
    ),
    _mended(
        37,
        (3, 7),
        "what counts in the day",
        "`PAYMENT` rows of 24 hours; not holds, not Lightning",
        "every charge of 24 hours and every open hold",
        "policies::test_payment_counts_for_a_day_and_no_longer",
        "policies::test_open_holds_count_in_the_day",
        "policies::test_approved_payments_and_withdrawals_count_in_the_day",
    ),
    _mended(
        38,
        (34,),
        "a policy that changes",
        "the version by its time: ties within a millisecond, old ones back in force when the clock is",
        "the latest version counts from the moment it was made; what was held before is settled by its own",
        "policies::test_hold_is_settled_by_the_rule_of_its_beginning_when_the_policy_has_become_narrower",
        "policies::test_latest_policy_counts_when_two_are_set_one_after_the_other",
        "policies::test_latest_policy_counts_when_the_clock_is_set_back",
    ),
    # Payments and status
    _same(
        39,
        "an allowed payment; a denied one",
        "four members; a reason too",
        "payments::test_allowed_payment_is_settled_at_once",
        "payments::test_denied_payment_has_an_id_and_a_reason",
    ),
    _decided(
        40,
        "the same payment twice",
        "two payments",
        "two payments; one when both have the same `Idempotency-Key`, 409 when its body differs",
        "payments::test_same_payment_is_made_twice_when_it_has_no_key",
        "payments::test_same_payment_is_made_once_when_it_has_a_key",
        "payments::test_key_of_a_payment_is_the_agents_own",
        "payments::test_payment_is_made_once_when_it_is_repeated_at_a_program_that_was_started_anew",
    ),
    _same(
        41,
        "a payment without members; an unknown rail",
        "400 with five issues; 400",
        "payments::test_payment_is_refused_with_every_issue_when_its_body_is_wrong",
    ),
    _mended(
        42,
        (2, 22),
        "wishes for a rail; the amount of an invoice",
        "ignored by the simulated wallet; never compared",
        "wishes are ignored by the simulated wallet; an invoice is paid when its amount and its time fit",
        "payments::test_rails_are_wishes_when_the_wallet_is_simulated",
        "payments::test_invoice_is_not_paid_when_it_is_for_another_amount_or_too_old",
        "payments::test_answer_status_and_balance_agree_when_the_invoice_cannot_be_read",
    ),
    _mended(
        43,
        (26, 27),
        "the status of payments",
        "SETTLED with times; unknown and denied 404; `c4` 400",
        "SETTLED with times; unknown 404; denied FAILED; `c4` 400",
        "payments::test_status_of_a_settled_payment_tells_amount_and_times",
        "payments::test_status_is_not_found_when_the_agent_has_no_such_payment",
        "payments::test_status_of_a_denied_payment_is_failed",
    ),
    _same(
        44,
        "the history of an allowed and a denied payment",
        "request and end with one `ref_id`; the reason",
        "payments::test_history_tells_what_was_asked_for_and_what_came_of_it",
    ),
    _same(
        45,
        "filters of the history",
        "by page, kind and time; 400 for an unknown kind",
        "payments::test_history_is_told_in_pages_and_by_kind_and_time",
        "payments::test_history_is_refused_when_its_filter_is_unknown",
    ),
    _same(
        46,
        "20 payments of 90,000 at once on 100,000",
        "one is allowed",
        "payments::test_balance_is_never_overspent_when_many_pay_at_once",
        "payments::test_daily_limit_is_never_exceeded_when_many_pay_at_once",
        "service::test_many_are_answered_at_the_same_time",
    ),
    _decided(
        47,
        "a payment while the books cannot be written",
        "DENY `internal_error`, with an id that nobody will know",
        "503, nothing has happened; the same for deposits, withdrawals and reservations",
        "payments::test_nothing_happens_when_the_books_cannot_be_written",
    ),
    # Approvals and withdrawals
    _same(
        48,
        "a payment above the limit, with an approval timeout",
        "PENDING_APPROVAL, held, listed",
        "approvals::test_payment_waits_for_a_human_when_it_is_above_the_limit",
        "approvals::test_question_outlives_the_program",
    ),
    _same(
        49,
        "approve",
        "SETTLED; again: 409",
        "approvals::test_payment_is_made_when_it_is_approved",
        "approvals::test_one_decision_counts_when_many_are_made_at_once",
        "approvals::test_every_approval_is_whole_when_the_program_is_killed_while_they_are_granted",
    ),
    _same(
        50,
        "deny",
        "the money comes back, FAILED",
        "approvals::test_money_comes_back_when_a_payment_is_denied",
    ),
    _mended(
        51,
        (24,),
        "nobody answers",
        "`timed_out` up to 30 s late, and not while the program is down",
        "`timed_out` when the time is over, also when it was over while the program was down",
        "approvals::test_money_comes_back_and_the_operator_is_told_when_nobody_has_answered",
        "approvals::test_question_expires_when_its_time_is_over_while_the_program_is_down",
    ),
    _same(
        52,
        "unknown approvals; an unknown status",
        "404, 400; 400",
        "approvals::test_approval_is_not_found_when_it_does_not_exist",
    ),
    _mended(
        53,
        (28,),
        "a withdrawal; its body is wrong",
        "PENDING_APPROVAL, held at once; 500",
        "PENDING_APPROVAL, held at once; 400",
        "approvals::test_withdrawal_waits_for_a_human_whatever_its_amount",
        "approvals::test_withdrawal_is_refused_as_any_other_body_when_it_is_wrong",
    ),
    _same(
        54,
        "a withdrawal that the policy forbids",
        "400 with the reason",
        "approvals::test_withdrawal_is_denied_when_the_policy_or_the_balance_forbids_it",
    ),
    _mended(
        55,
        (5,),
        "more than balance or day allow, above the limit, with an approval timeout",
        "accepted; the balance is negative; nothing is asked again at the approval",
        "denied; all is asked again at the approval",
        "approvals::test_withdrawal_is_denied_when_the_policy_or_the_balance_forbids_it",
        "approvals::test_payment_is_denied_when_no_human_could_allow_it",
        "approvals::test_payment_is_not_made_when_the_policy_has_become_narrower_before_it_is_approved",
    ),
    _mended(
        56,
        (24,),
        "approve when the time is over",
        "SETTLED",
        "409",
        "approvals::test_nobody_can_approve_when_the_time_is_over",
    ),
    # Internal billing
    _mended(
        57,
        (14,),
        "reserve",
        "held; not in the history",
        "held; in the history, with the model",
        "billing::test_money_is_held_and_audited_when_it_is_reserved",
    ),
    _same(
        58,
        "reserve more than the balance",
        "402 with both amounts",
        "billing::test_reserve_is_refused_when_the_balance_is_smaller",
    ),
    _same(
        59,
        "reserve for nobody; bodies that are wrong",
        "401; 400",
        "billing::test_reserve_is_refused_when_the_agents_token_is_unknown",
        "billing::test_reserve_is_refused_with_every_issue_when_its_body_is_wrong",
    ),
    _same(
        60,
        "reserve all of the balance",
        "200, 0 remains",
        "billing::test_all_of_the_balance_can_be_reserved",
        "billing::test_never_more_is_held_than_there_is_when_many_reserve_at_once",
    ),
    _same(
        61,
        "settle less",
        "the rest comes back",
        "billing::test_rest_comes_back_when_less_is_settled",
    ),
    _same(
        62,
        "the same settle again",
        "the same answer, nothing new",
        "billing::test_first_answer_is_repeated_when_a_settle_is",
        "billing::test_hold_can_be_settled_when_the_vault_was_killed_meanwhile",
        "billing::test_books_are_right_when_the_vault_is_killed_between_many_settlements",
    ),
    _mended(
        63,
        (9,),
        "settle again with another amount",
        "200 with figures that were never booked",
        "409",
        "billing::test_settle_is_refused_when_it_is_repeated_with_another_amount",
    ),
    _decided(
        64,
        "settle more",
        "`refunded_msats` below 0, which a core cannot read",
        "the same charge; `refunded_msats` 0",
        "billing::test_rest_is_taken_from_the_balance_when_more_is_settled_than_was_held",
    ),
    _mended(
        65,
        (10,),
        "settle more than there is",
        "the balance is negative",
        "the balance is 0; `debt_msats` blocks the next hold until it is paid",
        "billing::test_debt_is_told_and_blocks_the_next_hold_when_the_balance_does_not_cover_a_settle",
    ),
    _decided(
        66,
        "settle 0; below 0",
        "400",
        "0: 200, nothing is charged; below: 400, the hold stays",
        "billing::test_nothing_is_charged_when_nothing_is_settled",
        "billing::test_hold_stays_when_a_settle_is_invalid",
    ),
    _mended(
        67,
        (8,),
        "settle or release what is no reservation",
        "404; the holds of approvals are accepted",
        "404, for the holds of approvals too",
        "billing::test_reservation_is_not_found_when_nobody_reserved_it",
    ),
    _mended(
        68,
        (9,),
        "release; again; settle afterwards",
        "all comes back; the same; 200 without a charge",
        "all comes back; the same; 409",
        "billing::test_all_comes_back_when_a_hold_is_released",
        "billing::test_hold_cannot_be_settled_when_it_was_released",
        "billing::test_hold_comes_back_when_its_core_is_never_heard_of_again",
    ),
    _mended(
        69,
        (9,),
        "release what is settled",
        "`released: true`",
        "409",
        "billing::test_hold_cannot_be_released_when_it_was_settled",
        "billing::test_hold_ends_once_when_it_is_settled_and_released_at_the_same_time",
    ),
    _mended(
        70,
        (12,),
        "two reserves with one correlation id",
        "two holds",
        "one; 409 when the amounts differ; each agent has its own; the empty one is no key",
        "billing::test_same_reservation_is_returned_when_a_reserve_is_repeated",
        "billing::test_same_reservation_is_returned_when_a_reserve_is_repeated_after_a_crash",
        "billing::test_correlation_id_is_the_agents_own",
        "billing::test_empty_correlation_id_is_no_key",
    ),
    _mended(
        71,
        (14,),
        "the history of a settlement",
        "`PAYMENT_SETTLED` with four figures; nothing of reserve and release",
        "`PAYMENT_SETTLED` with four figures; an entry of every reserve and release",
        "billing::test_settlement_is_in_the_history_with_its_figures",
    ),
    _decided(
        72,
        "figures under `metadata`, as the core sends them",
        "400",
        "accepted, here or there or in both places, token counts may be null",
        "billing::test_figures_may_stand_in_an_object_of_their_own",
        "billing::test_figures_may_stand_in_both_places",
    ),
    _same(
        73,
        "release with a reason",
        "200",
        "billing::test_all_comes_back_when_a_hold_is_released",
    ),
    _mended(
        74,
        (13,),
        "reservations and the policy",
        "settlements count in the day of payments; reserve asks no policy",
        "settlements count; reserve asks the policy once an operator has set one: 403 with a reason; so do requests",
        "billing::test_settlements_count_in_the_day_of_payments",
        "billing::test_reserve_asks_the_policy_when_an_operator_has_set_one",
        "tokens::test_agents_of_the_vault_are_those_of_the_requests",
    ),
    _same(
        75,
        "reserve, settle, reserve",
        "the second is granted from what came back",
        "billing::test_next_hold_is_granted_from_what_came_back",
    ),
    # Operator
    _same(
        76,
        "utilization",
        "whole percents, rounded half up, may exceed 100",
        "operator::test_utilization_is_spend_by_limit_rounded_half_up",
    ),
    _same(
        77,
        "order of the dashboard",
        "by balance, spend, name; else 400",
        "operator::test_agents_are_sorted_as_asked",
        "operator::test_dashboard_is_refused_when_its_order_is_unknown",
    ),
    _same(
        78,
        "last payment; balance below the floor",
        "null; true only with a floor above it",
        "operator::test_last_payment_is_told_when_there_was_one",
        "operator::test_balance_is_below_the_floor_when_there_is_one",
    ),
    # Webhooks and alerts
    _same(
        79,
        "the signature",
        "HMAC-SHA256 of the body; `unsigned` without a secret",
        "webhooks::test_body_is_signed_with_the_secret",
        "webhooks::test_body_is_not_signed_when_there_is_no_secret",
    ),
    _mended(
        80,
        (29,),
        "a receiver that answers 500, or nothing",
        "four attempts within 21 s, then dropped; lost when the program ends",
        "the same four, then more for about a day; kept on disk; each event has an id",
        "webhooks::test_event_is_told_again_until_it_is_taken",
        "webhooks::test_event_is_told_when_the_program_was_killed_before_the_receiver_took_it",
        "webhooks::test_event_is_told_when_nobody_listened_at_first",
        "webhooks::test_nobody_waits_for_the_receiver",
    ),
    _mended(
        81,
        (38,),
        "the balance falls below the floor",
        "one alert within its time; not after settlements; the time is forgotten at a restart",
        "one alert within its time, after settlements too; the time is kept",
        "webhooks::test_operator_is_told_once_when_the_balance_falls_below_the_floor",
        "webhooks::test_operator_is_told_when_a_settlement_lets_the_balance_fall_below_the_floor",
        "webhooks::test_operator_is_told_when_an_approved_payment_lets_the_balance_fall_below_the_floor",
        "webhooks::test_alert_is_not_repeated_within_its_time_when_the_program_was_started_anew",
    ),
    _same(
        82,
        "approve; deny",
        "`approval_granted` with `payment_status`; `approval_denied`",
        "webhooks::test_operator_is_told_what_was_decided",
    ),
    # Rails
    _later(83, "which rail", "by amount and hint", NO_CASHU),
    _later(84, "the first rail fails", "the other settles", NO_CASHU),
    _later(85, "both rails fail", "ALLOW, FAILED, the money comes back", NO_CASHU),
    _later(86, "Lightning settles with a fee", "amount and fee are charged", NO_LIGHTNING),
    _later(87, "Lightning fails", "the money comes back, with the hash", NO_LIGHTNING),
    _later(88, "the stream of LND breaks", "PENDING, still held", NO_LIGHTNING),
    _later(89, "a macaroon that may do too much", "the program does not start", NO_LIGHTNING, NO_WALLET),
    _later(90, "Cashu alone; an empty pool", "SETTLED; FAILED, status 404", NO_CASHU, NO_WALLET),
)

WEAKNESSES: tuple[Weakness, ...] = (
    Weakness(1, "the process exits right after it listens", ("service::test_program_serves_until_it_is_told_to_end",)),
    Weakness(
        2,
        "the amount of an invoice is never compared",
        ("payments::test_invoice_is_not_paid_when_it_is_for_another_amount_or_too_old",),
    ),
    Weakness(
        3,
        "Lightning principal does not count in the day",
        (
            "policies::test_open_holds_count_in_the_day",
            "policies::test_approved_payments_and_withdrawals_count_in_the_day",
        ),
        "the day counts what is held and charged, whatever the rail",
    ),
    Weakness(
        4,
        "approved payments and withdrawals run on the simulated wallet",
        ("approvals::test_payment_is_made_when_it_is_approved", NO_WALLET),
        "a payment is one row before and after its approval, its rail with it; " + NO_LIGHTNING.removeprefix("later: "),
    ),
    Weakness(
        5,
        "approvals skip balance and day, and nothing is asked again when they are granted",
        (
            "approvals::test_payment_is_denied_when_no_human_could_allow_it",
            "approvals::test_withdrawal_is_denied_when_the_policy_or_the_balance_forbids_it",
            "approvals::test_payment_is_not_made_when_the_policy_has_become_narrower_before_it_is_approved",
        ),
    ),
    Weakness(
        6,
        "a payment without a hash is taken for never sent",
        ("approvals::test_every_approval_is_whole_when_the_program_is_killed_while_they_are_granted",),
        "a payment is on disk as being sent before its wallet is asked, and then only the wallet's word ends it",
    ),
    Weakness(
        7,
        "recovery releases the holds of approvals",
        ("approvals::test_question_outlives_the_program",),
    ),
    Weakness(
        8,
        "`/internal` ends the holds of approvals",
        ("billing::test_reservation_is_not_found_when_nobody_reserved_it",),
    ),
    Weakness(
        9,
        "settle after release is free; a repeated settle tells what was never booked",
        (
            "billing::test_hold_cannot_be_settled_when_it_was_released",
            "billing::test_hold_cannot_be_released_when_it_was_settled",
            "billing::test_settle_is_refused_when_it_is_repeated_with_another_amount",
            "billing::test_first_answer_is_repeated_when_a_settle_is",
            "billing::test_hold_ends_once_when_it_is_settled_and_released_at_the_same_time",
        ),
    ),
    Weakness(
        10,
        "a settle drives an account arbitrarily negative",
        ("billing::test_debt_is_told_and_blocks_the_next_hold_when_the_balance_does_not_cover_a_settle",),
    ),
    Weakness(
        11,
        "reservations never expire and are not recovered",
        (
            "billing::test_hold_comes_back_when_its_core_is_never_heard_of_again",
            "billing::test_hold_can_be_settled_when_the_vault_was_killed_meanwhile",
        ),
    ),
    Weakness(
        12,
        "a reserve that is repeated holds twice",
        (
            "billing::test_same_reservation_is_returned_when_a_reserve_is_repeated",
            "billing::test_same_reservation_is_returned_when_a_reserve_is_repeated_after_a_crash",
        ),
    ),
    Weakness(
        13,
        "reserve asks no policy",
        ("billing::test_reserve_asks_the_policy_when_an_operator_has_set_one",),
    ),
    Weakness(
        14,
        "reserve and release are not audited, the model is discarded",
        (
            "billing::test_money_is_held_and_audited_when_it_is_reserved",
            "billing::test_settlement_is_in_the_history_with_its_figures",
        ),
    ),
    Weakness(
        15,
        "Cashu holds nothing before it melts",
        ("payments::test_balance_is_never_overspent_when_many_pay_at_once", NO_WALLET),
        "every payment holds before its wallet is asked, whatever the rail; " + NO_CASHU.removeprefix("later: "),
    ),
    Weakness(16, "a melt in doubt is taken for failed and paid again over Lightning", (NO_WALLET,), NO_CASHU),
    Weakness(17, "recovery of an unpaid melt loses the proofs", (NO_WALLET,), NO_CASHU),
    Weakness(18, "the first rotation of keysets wipes the pool", (NO_WALLET,), NO_CASHU),
    Weakness(19, "the Cashu pool cannot be funded, its fees are misbooked", (NO_WALLET,), NO_CASHU),
    Weakness(20, "a fallback to Lightning is refunded at the next start", (NO_WALLET,), NO_CASHU),
    Weakness(
        21,
        "a payment without a fee is settled again at each start",
        (
            "approvals::test_question_outlives_the_program",
            "payments::test_payment_is_made_once_when_it_is_repeated_at_a_program_that_was_started_anew",
        ),
        "whether a payment has ended is its state, not the presence of a fee",
    ),
    Weakness(
        22,
        "an invoice that cannot be read leaves its hold behind a DENY",
        ("payments::test_answer_status_and_balance_agree_when_the_invoice_cannot_be_read",),
    ),
    Weakness(23, "every error of LND becomes PENDING until the next start", (NO_WALLET,), NO_LIGHTNING),
    Weakness(
        24,
        "what has expired can still be approved",
        (
            "approvals::test_nobody_can_approve_when_the_time_is_over",
            "approvals::test_question_expires_when_its_time_is_over_while_the_program_is_down",
        ),
    ),
    Weakness(
        25,
        "claim, audit and execution of an approval are separate transactions",
        (
            "approvals::test_every_approval_is_whole_when_the_program_is_killed_while_they_are_granted",
            "approvals::test_one_decision_counts_when_many_are_made_at_once",
        ),
    ),
    Weakness(
        26,
        "`fee_msat` is the principal",
        (
            "approvals::test_payment_is_made_when_it_is_approved",
            "billing::test_rest_comes_back_when_less_is_settled",
            "payments::test_status_of_a_settled_payment_tells_amount_and_times",
        ),
    ),
    Weakness(27, "denied payments have no status", ("payments::test_status_of_a_denied_payment_is_failed",)),
    Weakness(
        28,
        "a wrong body of a withdrawal is 500",
        ("approvals::test_withdrawal_is_refused_as_any_other_body_when_it_is_wrong",),
    ),
    Weakness(
        29,
        "webhooks are retried in memory, without an id",
        (
            "webhooks::test_event_is_told_again_until_it_is_taken",
            "webhooks::test_event_is_told_when_the_program_was_killed_before_the_receiver_took_it",
            "webhooks::test_event_is_told_when_nobody_listened_at_first",
        ),
    ),
    Weakness(
        30,
        "each balance is a sum over all rows",
        ("tests/store/test_queries.py::test_one_is_found_without_looking_at_others",),
        "balances are kept, not summed; how long an answer takes is measured by `python -m bench`",
    ),
    Weakness(
        31,
        "tokens cannot be replaced or revoked",
        (
            "tokens::test_old_token_ends_when_it_is_replaced",
            "tokens::test_old_token_counts_for_a_while_when_it_is_replaced_with_a_grace",
            "tokens::test_token_ends_when_it_is_revoked",
            "tokens::test_token_is_replaced_by_the_operator_alone",
            "tokens::test_frozen_agent_spends_nothing_until_it_is_unfrozen",
        ),
    ),
    Weakness(
        32,
        "an agent's token travels in a body and may be logged",
        (
            "agents::test_token_is_shown_and_logged_nowhere_when_it_was_given_out",
            "tokens::test_token_is_not_in_the_books",
        ),
    ),
    Weakness(
        33,
        "a small change of a policy turns approvals and alerts off",
        (
            "policies::test_what_a_change_does_not_name_stays_when_it_is_sent_as_a_merge_patch",
            "policies::test_legacy_route_changes_the_limits_and_nothing_else",
        ),
        "plain JSON still replaces the whole policy, as the predecessor's clients have it",
    ),
    Weakness(
        34,
        "the policy of an instant is chosen by its time alone",
        (
            "policies::test_latest_policy_counts_when_two_are_set_one_after_the_other",
            "policies::test_latest_policy_counts_when_the_clock_is_set_back",
        ),
    ),
    Weakness(
        35,
        "registration is four writes; large amounts lose precision",
        (
            "agents::test_agent_is_registered_whole_or_not_at_all_when_the_program_is_killed",
            "agents::test_no_millisatoshi_is_lost_when_deposits_go_beyond_what_a_float_can_say",
        ),
        "deposits are still what the operator says",
    ),
    Weakness(36, "any error passes for proof of a narrow macaroon", (NO_WALLET,), NO_LIGHTNING),
    Weakness(
        37,
        "fees are not held; wallets have no time limit",
        (NO_WALLET,),
        "fees are held with the amount, and every call to a wallet has a time limit; " + NO_LIGHTNING,
    ),
    Weakness(
        38,
        "alerts ignore settlements, and forget when they were last raised",
        (
            "webhooks::test_operator_is_told_when_a_settlement_lets_the_balance_fall_below_the_floor",
            "webhooks::test_alert_is_not_repeated_within_its_time_when_the_program_was_started_anew",
        ),
    ),
    Weakness(
        39,
        "all interfaces, no limit of requests, no TLS",
        ("service::test_callers_without_a_token_are_slowed_when_requests_are_limited",),
        "it listens on loopback unless told otherwise, and then says so; TLS is a proxy's in front of it",
    ),
)
