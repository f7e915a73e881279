"""`smi jobs …`: what an operator does by hand (W16). Each command is one call of `services.admin` or `.intake`."""

from collections.abc import Callable
from typing import Any

import click

from smi_pipeline.commands.cli_support import done, json_option, load_context, plain, print_json, print_table
from smi_pipeline.core.vocabulary import Status

_STATUSES = [status.value for status in Status]
_PRIVATE = ("customer_email", "customer_name")


@click.group()
def jobs() -> None:
    """Look at upscale jobs and act on them. JOB_ID is 32 characters, with or without hyphens."""


@jobs.command()
@click.argument("url")
@click.argument("resolution", metavar="4x|8x")
@click.argument("email")
@click.option("--name", help="The customer's name, for the mails.")
@json_option
def add(url: str, resolution: str, email: str, name: str | None, as_json: bool) -> None:
    """Register an order for the image at URL and print where EMAIL pays. Takes no money by itself."""
    from smi_pipeline.core.formatting import dimensions, money
    from smi_pipeline.services.intake import JobRequest, register_job

    request = JobRequest(image_url=url, resolution=resolution, email=email, customer_name=name)
    made = register_job(load_context(), request)
    if as_json:
        print_json(made)
        return
    size = dimensions(made.output_width, made.output_height)
    click.echo(f"upscale job {made.job_id}: {size} for {money(made.price_cents, made.currency)}")
    click.echo(f"pay here:    {made.checkout_url}")
    click.echo(f"status page: {made.status_url}")


@jobs.command("list")
@click.option("--status", type=click.Choice(_STATUSES), help="Only jobs in this state.")
@click.option("--limit", type=click.IntRange(1, 10_000), default=50, show_default=True, help="At most so many.")
@json_option
def list_jobs(status: str | None, limit: int, as_json: bool) -> None:
    """The newest jobs."""
    from smi_pipeline.core.formatting import money

    found = load_context().state.queries.jobs(status=status, limit=limit)
    if as_json:
        print_json({"jobs": [{k: v for k, v in plain(job).items() if k not in _PRIVATE} for job in found]})
        return
    if not found:
        click.echo("no upscale jobs" + (f" are {status}" if status else " yet"))
        return
    print_table(
        None,
        ("job", "ordered (UTC)", "status", "size", "price", "tries", "what is known"),
        [
            (
                job.job_id,
                job.created_at,
                job.status,
                job.resolution,
                money(job.price_cents, job.currency),
                job.attempts or None,
                (job.hold_reason and f"on hold: {job.hold_reason}") or job.reason_text or job.last_error or job.stage,
            )
            for job in found
        ],
        right=("price", "tries"),
    )


@jobs.command()
@click.argument("job_id")
@json_option
def show(job_id: str, as_json: bool) -> None:
    """Everything known of one job: calls, refunds, mails, the audit trail, and what to do next."""
    from smi_pipeline.services.admin import details, next_step

    known = details(load_context(), job_id)
    known["next_step"] = next_step(known["job"])
    if as_json:
        document = plain({**known, "emails": []})
        document["emails"] = [{k: v for k, v in vars(mail).items() if k != "content"} for mail in known["emails"]]
        print_json(document)
    else:
        _show(known)


def _show(known: dict[str, Any]) -> None:
    from smi_pipeline.core.formatting import dimensions, money

    job = known["job"]
    facts = {
        "status": f"{job.status}" + (f", round {job.fulfilment_round}" if job.fulfilment_round > 1 else ""),
        "on hold": job.hold_reason,
        "why": job.reason_text,
        "last error": job.last_error,
        "customer": f"{job.customer_name or ''} <{job.customer_email}>".strip(),
        "source": f"{job.source_url} ({job.source_format}, {dimensions(job.source_width, job.source_height)})",
        "bought": f"{job.resolution}, {dimensions(*job.output_size)}, {money(job.price_cents, job.currency)}",
        "payment": job.payment_intent_id,
        "paid": job.paid_at,
        "start by": job.start_by,
        "deadline": job.deadline_at,
        "delivered": job.completed_at,
        "result": job.result_key and f"{job.result_format}, {dimensions(job.result_width, job.result_height)}",
        "next step": known["next_step"],
    }
    print_table(f"upscale job {job.job_id}", ("", ""), [(k, v) for k, v in facts.items() if v])
    if known["payments"]:
        names = ("payment_intent_id", "role", "received_cents", "currency", "fee_cents", "dispute", "paid_at")
        heads = [name.replace("_", " ").removesuffix(" at") for name in names]
        print_table("payments", heads, [[getattr(payment, name) for name in names] for payment in known["payments"]])
    sections = {
        "calls to Upsampler": (
            (
                "fulfilment_round",
                "state",
                "external_id",
                "created_at",
                "accepted_at",
                "finished_at",
                "credits",
                "error",
            ),
            known["submissions"],
        ),
        "refunds": (
            ("kind", "state", "amount_cents", "currency", "stripe_refund_id", "created_at", "settled_at", "failure"),
            known["refunds"],
        ),
        "mails": (
            ("kind", "sequence", "state", "attempts", "created_at", "accepted_at", "last_error"),
            known["emails"],
        ),
    }
    for title, (columns, rows) in sections.items():
        if rows:
            heads = [column.replace("_", " ").removesuffix(" at") for column in columns]
            print_table(title, heads, [[getattr(row, column) for column in columns] for row in rows])
    print_table(
        "audit trail (UTC)",
        ("at", "what", "status", "by", "details"),
        [
            (
                event.at,
                event.event,
                event.to_status,
                event.actor,
                ", ".join(f"{k}: {v}" for k, v in event.details.items() if v is not None),
            )
            for event in known["events"]
        ],
    )


def _act(as_json: bool, service: str, *arguments: Any, subject: dict[str, str], **options: Any) -> None:
    from smi_pipeline.services import admin

    function: Callable[..., str] = getattr(admin, service)
    done(as_json, function(load_context(), *arguments, **options), **subject)


@jobs.command()
@click.argument("job_id")
@click.option("--admin-override", is_flag=True, help="Even if it is unpaid, failed, refunded or delivered: a gift.")
@json_option
def retry(job_id: str, admin_override: bool, as_json: bool) -> None:
    """Start a job again; a closed one in a new round, which delivers or ends without money."""
    _act(as_json, "retry", job_id, subject={"job_id": job_id}, admin_override=admin_override)


@jobs.command()
@click.argument("job_id")
@json_option
def check(job_id: str, as_json: bool) -> None:
    """Ask Upsampler now instead of at the next poll."""
    _act(as_json, "check", job_id, subject={"job_id": job_id})


@jobs.command()
@click.argument("job_id")
@click.argument("minutes", type=float)
@json_option
def extend(job_id: str, minutes: float, as_json: bool) -> None:
    """Move the deadline of an open job by MINUTES."""
    _act(as_json, "extend", job_id, minutes, subject={"job_id": job_id})


@jobs.command()
@click.argument("job_id")
@json_option
def refund(job_id: str, as_json: bool) -> None:
    """Return the payment: ends an open job, is goodwill after delivery, repeats a refund that failed."""
    _act(as_json, "refund_job", job_id, subject={"job_id": job_id})


@jobs.command()
@click.argument("job_id")
@json_option
def resend(job_id: str, as_json: bool) -> None:
    """Send the closing mail once more."""
    _act(as_json, "resend", job_id, subject={"job_id": job_id})


@jobs.command()
@click.argument("job_id")
@click.option("--keep-others", is_flag=True, help="Let the older links live.")
@json_option
def token(job_id: str, keep_others: bool, as_json: bool) -> None:
    """Print a new download link and end the older ones."""
    _act(as_json, "new_token", job_id, subject={"job_id": job_id}, revoke=not keep_others)


@jobs.command()
@click.argument("job_id")
@json_option
def cancel(job_id: str, as_json: bool) -> None:
    """End an open job; a paid one is refunded, an unpaid one can no longer be paid."""
    _act(as_json, "cancel", job_id, subject={"job_id": job_id})


@jobs.command()
@click.argument("job_id")
@click.argument("reason")
@json_option
def hold(job_id: str, reason: str, as_json: bool) -> None:
    """Keep a job from being submitted, and say why."""
    _act(as_json, "hold", job_id, reason, subject={"job_id": job_id})


@jobs.command()
@click.argument("job_id")
@json_option
def release(job_id: str, as_json: bool) -> None:
    """End a hold."""
    _act(as_json, "release", job_id, subject={"job_id": job_id})


@jobs.command()
@click.argument("payment_intent_id")
@click.argument("job_id")
@json_option
def adopt(payment_intent_id: str, job_id: str, as_json: bool) -> None:
    """Give a payment without a job to JOB_ID."""
    subject = {"payment_intent_id": payment_intent_id, "job_id": job_id}
    _act(as_json, "adopt", payment_intent_id, job_id, subject=subject)


@jobs.command("refund-payment")
@click.argument("payment_intent_id")
@json_option
def refund_payment(payment_intent_id: str, as_json: bool) -> None:
    """Return a payment without a job."""
    _act(as_json, "refund_payment", payment_intent_id, subject={"payment_intent_id": payment_intent_id})
