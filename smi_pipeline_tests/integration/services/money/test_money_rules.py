"""Where each money rule (design, section 6) is held: the rule, and the tests that fail when it is broken.

A rule whose test is renamed or removed is named here by a failing test.
"""

from importlib import import_module

import pytest

RULES = {
    "ambiguous submissions": (
        "test_submission.test_an_unanswered_submission_is_closed_after_the_grace_and_submitted_once_more",
        "test_submission.test_a_second_lost_answer_ends_the_job_with_its_refund_and_no_third_call",
        "money.test_ambiguous_submissions.test_the_failure_of_the_second_call_waits_for_the_first_that_was_found_again",
        "money.test_ambiguous_submissions"
        ".test_a_first_call_that_failed_and_a_second_that_was_lost_are_two_there_is_no_third",
    ),
    "one outcome per job": (
        "test_outcome.test_two_workers_on_one_job_give_one_outcome",
        "test_outcome.test_a_zombie_whose_lease_was_lost_changes_nothing",
        "money.test_free_retries.test_a_gift_that_fails_after_delivery_leaves_the_customer_the_link_and_the_file",
    ),
    "refund keys": (
        "test_refunds.test_the_key_and_the_amount_are_committed_before_stripe_is_called",
        "test_refunds.test_an_answer_that_never_came_and_no_effect_is_asked_again_with_the_same_key",
        "test_refunds.test_after_23_hours_a_new_key_is_used_if_no_refund_is_found",
    ),
    "refund adoption": (
        "test_refunds.test_a_refund_whose_answer_was_lost_is_adopted_not_repeated",
        "test_refunds.test_a_partial_refund_made_by_hand_is_completed_not_repeated",
        "test_refunds.test_the_webhook_may_come_before_the_answer_to_our_own_call",
    ),
    "dispute block": (
        "test_refunds.test_an_open_dispute_blocks_the_refund_and_tells_a_person",
        "test_refunds.test_a_lost_dispute_has_refunded_and_a_won_one_lets_the_refund_go_on",
    ),
    "pending and failed refunds": (
        "test_refunds.test_a_pending_refund_is_told_as_started_and_follows_what_becomes_of_it",
        "test_refunds.test_a_refund_that_fails_later_is_a_persons_task_and_can_be_repeated",
    ),
    "orphan payments": (
        "test_payments.test_a_payment_without_a_job_is_never_refunded_by_itself_and_named_after_ten_minutes",
        "test_payments.test_an_orphan_is_returned_on_a_persons_word_and_then_settled",
    ),
    "wrong amounts": ("test_payments.test_a_wrong_amount_or_currency_is_refunded_and_a_person_told",),
    "circuit breaker on 401 and 402": (
        "test_clocks.test_a_refused_account_opens_the_breaker_and_no_orders_are_taken",
        "test_submission.test_a_key_that_is_refused_for_status_calls_opens_the_breaker_too",
    ),
    "poison rows set aside": (
        "test_outcome.test_a_poison_row_is_set_aside_after_five_and_refunded_and_its_batch_mates_go_on",
    ),
    "mail states": (
        "test_mails.test_the_bytes_are_committed_before_the_server_gets_them",
        "test_mails.test_an_unanswered_hand_over_is_sent_once_more_and_then_a_persons_task",
        "test_mails.test_one_row_that_is_worked_on_slowly_is_not_taken_by_another_worker",
    ),
    "late success": ("test_clocks.test_a_late_success_after_the_refund_is_logged_and_not_delivered",),
    "deadline after an outage": (
        "money.test_deadline_after_an_outage.test_a_job_that_waited_through_an_outage_is_submitted_not_refunded",
        "money.test_deadline_after_an_outage.test_an_outage_longer_than_the_limit_counts_from_there_on",
    ),
}


@pytest.mark.parametrize("rule", RULES)
def test_each_money_rule_is_held_by_tests_that_exist(rule: str) -> None:
    for name in RULES[rule]:
        module, _, test = name.rpartition(".")
        assert callable(getattr(import_module(f"smi_pipeline_tests.integration.services.{module}"), test)), name
