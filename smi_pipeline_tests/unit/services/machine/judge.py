"""Says what is wrong, by the ledgers of the outside world: the books of Stripe, Upsampler, mail server, files."""

import re
from collections import defaultdict

from smi_pipeline_tests.unit.services.machine.stress import Order, Stress, mails_of

SLACK = 10.0
"""Seconds of real time that a test may take between two calls."""


def violations(stress: Stress) -> list[str]:
    """What must never be, at any moment."""
    return [*_money(stress), *_calls(stress), *_mails(stress), *_files(stress)]


def unsettled(stress: Stress) -> list[str]:
    """What must not be left when everything has worked again for long enough."""
    found = []
    for row in stress.world.state.views.alarms(stress.shop.policy):
        found.append(f"the alarm query names {row['job_id']}")
    for order in stress.orders:
        if not order.payments:
            continue
        job = stress.shop.job(order.job_id)
        kept = _kept(stress, order)
        delivered = job.status == "completed"
        if job.status not in ("completed", "refunded") and not order.gifts:
            found.append(f"lost: {order.job_id} is paid and ends as {job.status} ({job.reason_text})")
        if order.disputed or order.gifts:
            continue
        if delivered and not _mailed(stress, order, "completion") and "mail_failed" not in stress.shop.tasks():
            found.append(f"lost: {order.job_id} is delivered and nobody was told")
        if not delivered and kept:
            found.append(f"lost: {order.job_id} is not delivered and {kept} cents are kept")
        if delivered and kept != order.price_cents and not (order.goodwill or order.by_hand):
            found.append(f"{order.job_id} is delivered for {kept} instead of {order.price_cents} cents")
    return found


def _kept(stress: Stress, order: Order) -> int:
    stripe = stress.shop.payments
    return sum(stripe.intents[p].amount_received_cents - stripe.returned_cents(p) for p in order.payments)


def _mailed(stress: Stress, order: Order, kind: str) -> bool:
    return any(order.job_id in message_id and of == kind for message_id, of in mails_of(stress))


def _money(stress: Stress) -> list[str]:
    stripe, found = stress.shop.payments, []
    for intent, facts in stripe.intents.items():
        if stripe.returned_cents(intent) > facts.amount_received_cents:
            found.append(f"double refund: {intent} has more returned than received")
        ours = [r for r in stripe.refunds_in(intent) if r.alive and r.metadata.get("idempotency_key")]
        if len(ours) > 1:
            found.append(f"double refund: {intent} has {len(ours)} refunds of ours")
    for order in stress.orders:
        touched = order.gifts or order.goodwill or order.by_hand or order.disputed
        if not touched and _mailed(stress, order, "completion") and _kept(stress, order) < order.price_cents:
            found.append(f"{order.job_id} is delivered and refunded")
    return found


def _calls(stress: Stress) -> list[str]:
    found, made = [], defaultdict(list)
    for request in stress.shop.upscaler.submissions:
        made[request.job_id].append(request)
    begun = defaultdict(list)
    for call in stress.calls:
        begun[call.job_id].append(call)
    for order in stress.orders:
        rounds = 1 + order.gifts
        if len(made[order.job_id]) > 2 * rounds:
            found.append(f"double submission: {order.job_id} was submitted {len(made[order.job_id])} times")
        if len({r.webhook_url for r in made[order.job_id]}) < len(made[order.job_id]):
            found.append(f"double submission: {order.job_id} was submitted twice under one intent")
        if len(made[order.job_id]) == len(begun[order.job_id]) == 2 and rounds == 1:
            first, second = begun[order.job_id]
            grace = stress.shop.policy.ambiguous_grace.total_seconds()
            if second.at - first.at < grace - first.waited - SLACK:
                found.append(f"double submission: {order.job_id} again after {second.at - first.at:.0f} s")
    return found


def _mails(stress: Stress) -> list[str]:
    found, bytes_of, kinds = [], defaultdict(set), defaultdict(set)
    for mail in stress.shop.mailer.taken:
        bytes_of[mail.message_id].add(mail.content)
        kinds[mail.subject].add(mail.message_id)
    for message_id, contents in bytes_of.items():
        if len(contents) > 1:
            found.append(f"double mail: {message_id} with different bytes")
    for (message_id, _), times in mails_of(stress).items():
        if times > 2:
            found.append(f"double mail: {message_id} was handed over {times} times")
    for order in stress.orders:
        for kind, ids in kinds.items():
            mine = [message_id for message_id in ids if order.job_id in message_id]
            if len(mine) > 1 + order.gifts + order.resends:
                found.append(f"double mail: {len(mine)} {kind} mails of {order.job_id}")
    return found


def _files(stress: Stress) -> list[str]:
    found = []
    for mail in stress.shop.mailer.taken:
        if mail.subject != "completion":
            continue
        token = re.search(rb"/download/([0-9a-f]{64})", mail.content)
        file = stress.world.state.deliveries.find_download(token[1].decode()) if token else None
        job_id = mail.message_id.split("@")[0].rsplit(".", 1)[1]
        if file is None or file["job_id"] != job_id:
            found.append(f"wrong file: the link of {job_id} leads nowhere")
        elif job_id.encode() not in stress.shop.storage.files.get(file["result_key"], b""):
            found.append(f"wrong file: the link of {job_id} leads to {file['result_key']}")
    return found
