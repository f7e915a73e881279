"""`smi jobs …`: register, list and show upscale jobs. The verbs that change a job come from the admin actions."""

from typing import Any

import click

from smi_pipeline.commands.action_group import ActionGroup
from smi_pipeline.commands.cli_support import json_option, load_context, plain, print_json, print_table
from smi_pipeline.core.vocabulary import Status
from smi_pipeline.services.admin_actions import Target

_STATUSES = [status.value for status in Status]
_PRIVATE = ("customer_email", "customer_name")


@click.group(cls=ActionGroup, targets=(Target.JOB, Target.PAYMENT))
def jobs() -> None:
    """Look at upscale jobs and act on them."""


@jobs.command()
@click.argument("url")
@click.argument("resolution", metavar="4x|8x")
@click.argument("email", required=False)
@click.option("--name", help="The customer's name, for the mails.")
@json_option
def add(url: str, resolution: str, email: str | None, name: str | None, as_json: bool) -> None:
    """Register an order for the image at URL and print where EMAIL pays. This charges nobody.

    Without EMAIL Checkout asks for it."""
    from smi_pipeline.formatting import dimensions, money
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
@click.option("--limit", type=click.IntRange(1, 10_000), default=50, show_default=True, help="Maximum number of rows.")
@json_option
def list_jobs(status: str | None, limit: int, as_json: bool) -> None:
    """List the newest jobs."""
    from smi_pipeline.formatting import money

    found = load_context().state.queries.jobs(status=status, limit=limit)
    if as_json:
        print_json({"jobs": [{k: v for k, v in plain(job).items() if k not in _PRIVATE} for job in found]})
        return
    if not found:
        click.echo("no upscale jobs" + (f" are {status}" if status else " yet"))
        return
    print_table(
        None,
        ("job", "ordered (UTC)", "status", "size", "price", "tries", "note"),
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
    """Show everything about one job: calls, refunds, mails, the audit trail, and what to do next."""
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
    from smi_pipeline.formatting import dimensions, money

    job = known["job"]
    facts = {
        "status": f"{job.status}" + (f", round {job.fulfilment_round}" if job.fulfilment_round > 1 else ""),
        "on hold": job.hold_reason,
        "why": job.reason_text,
        "last error": job.last_error,
        "customer": f"{job.customer_name or ''} <{job.customer_email or 'no address'}>".strip(),
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
    sections = (
        (
            "payments",
            "payments",
            ("payment_intent_id", "role", "received_cents", "currency", "fee_cents", "dispute", "paid_at"),
        ),
        (
            "calls to Upsampler",
            "submissions",
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
        ),
        (
            "refunds",
            "refunds",
            ("kind", "state", "amount_cents", "currency", "stripe_refund_id", "created_at", "settled_at", "failure"),
        ),
        ("mails", "emails", ("kind", "sequence", "state", "attempts", "created_at", "accepted_at", "last_error")),
    )
    for title, rows, columns in sections:
        if known[rows]:
            heads = [column.replace("_", " ").removesuffix(" at") for column in columns]
            print_table(title, heads, [[getattr(row, column) for column in columns] for row in known[rows]])
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
