"""Says what is wrong, by the ledgers of the outside world: the books of Stripe, Upsampler, mail server, files."""

import re
from collections import defaultdict

from smi_pipeline_tests.integration.services.machine.customers import Order
from smi_pipeline_tests.integration.services.machine.stress import Stress, mails_of

SLACK = 10.0
"""Seconds of real time that a test may take between two calls."""


def violations(stress: Stress) -> list[str]:
    """What must never be, at any moment."""
    return [*_money(stress), *_strays(stress), *_calls(stress), *_mails(stress), *_files(stress)]


def unsettled(stress: Stress) -> list[str]:
    """What must not be left when everything has worked again for long enough."""
    found = []
    for row in stress.ctx.state.queries.alarms(stress.shop.policy):
        found.append(f"the alarm query names {row.job_id}")
    named = {task.subject for task in stress.ctx.state.manual_tasks.opened() if task.kind == "orphan_payment"}
    returned = set()
    for stray in stress.strays:
        back = stress.shop.payments.returned_cents(stray.intent)
        if back == stress.shop.payments.intents[stray.intent].amount_received_cents:
            returned.add(stray.intent)
        settled = stray.foreign or stray.adopter is not None or stray.intent in returned
        if settled == (stray.intent in named):
            found.append(f"the stray payment {stray.intent} is {'named in vain' if settled else 'forgotten'}")
        elif stray.to_return and not stray.adopter and stray.intent not in returned:
            found.append(f"{stray.intent} was to go back, and {back} cents did")
    found += _books(stress)
    for order in stress.orders:
        job = stress.shop.job(order.job_id)
        if job.status == "abandoned" and any(
            session.metadata["job_id"] == order.job_id and session.status == "open"
            for session in stress.shop.payments.sessions.values()
        ):
            found.append(f"{order.job_id} is abandoned and can still be paid")
        if returned.issuperset(order.payments):  # a stray payment that went back before it was the order's
            continue
        kept = stress.kept(order)
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
        if not touched and _mailed(stress, order, "completion") and stress.kept(order) < order.price_cents:
            found.append(f"{order.job_id} is delivered and refunded")
        if order.seen_back and not order.gifts and _mailed(stress, order, "completion"):
            found.append(f"{order.job_id} is delivered although its money was seen to be back")
    return found


def _strays(stress: Stress) -> list[str]:
    found = []
    for stray in stress.strays:
        ours = [r for r in stress.shop.payments.refunds_in(stray.intent) if r.metadata.get("idempotency_key")]
        if ours and not (stray.to_return or stray.adopter):
            found.append(f"{stray.intent} was returned on nobody's word")
    return found


def _books(stress: Stress) -> list[str]:
    """Refunds in Stripe's ledger that we do not know as they are."""
    found = []
    foreign = {stray.intent for stray in stress.strays if stray.foreign}
    rows = {row["stripe_refund_id"]: row for row in stress.shop.sql("SELECT * FROM smi.refunds")}
    for made in stress.shop.payments.refunds.values():
        row = rows.get(made.refund_id)
        if made.payment_intent_id in foreign:
            if row is not None:
                found.append(f"the refund {made.refund_id} of another shop is recorded")
        elif row is None or row["state"] not in ("pending", "succeeded"):
            if made.alive:
                found.append(f"the refund {made.refund_id} was not taken up: {row and row['state']}")
        elif not made.alive:
            found.append(f"the refund {made.refund_id} is {made.status}, and {row['state']} in our books")
        elif row["amount_cents"] != made.amount_cents:
            found.append(f"the refund {made.refund_id} has {row['amount_cents']} cents in our books")
        elif (row["kind"] == "outside") != ("idempotency_key" not in made.metadata):
            found.append(f"the refund {made.refund_id} is taken for one of kind {row['kind']}")
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
        file = stress.ctx.state.deliveries.find_download(token[1].decode()) if token else None
        job_id = mail.message_id.split("@")[0].rsplit(".", 1)[1]
        if file is None or file.job_id != job_id:
            found.append(f"wrong file: the link of {job_id} leads nowhere")
        elif job_id.encode() not in stress.shop.storage.files.get(file.result_key or "", b""):
            found.append(f"wrong file: the link of {job_id} leads to {file.result_key}")
    return found
