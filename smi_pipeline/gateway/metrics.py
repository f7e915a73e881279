"""Metrics for Prometheus: counters of this process, and figures of the state read at each scrape."""

from collections.abc import Iterator

import structlog
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from smi_pipeline.core.vocabulary import Queue, Status
from smi_pipeline.services.admin import BREAKERS
from smi_pipeline.services.context import ServiceContext
from smi_pipeline.settings import Settings

log = structlog.get_logger("smi_pipeline.gateway")

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.5, 1, 2.5, 5, 10, 30)


class Metrics:
    """One registry per application."""

    def __init__(self, ctx: ServiceContext, settings: Settings) -> None:
        self._registry = CollectorRegistry()
        self.webhooks = Counter(
            "smi_webhooks", "Webhooks received, by their effect.", ("source", "outcome"), registry=self._registry
        )
        self.webhook_seconds = Histogram(
            "smi_webhook_seconds", "Time to answer a webhook.", ("source",), buckets=_SECONDS, registry=self._registry
        )
        self.requests = Counter(
            "smi_http_requests", "Requests answered.", ("method", "route", "status"), registry=self._registry
        )
        self.request_seconds = Histogram(
            "smi_http_request_seconds",
            "Time until the response started.",
            ("route",),
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._registry.register(_StateCollector(ctx, settings))

    def page(self) -> bytes:
        """Return all metrics in Prometheus' text format. This reads the database."""
        return generate_latest(self._registry)


class _StateCollector(Collector):
    """Reads the state at each scrape; when the database does not answer, only `smi_database_up 0` is reported."""

    def __init__(self, ctx: ServiceContext, settings: Settings) -> None:
        self._ctx = ctx
        self._allowance = {
            ("submissions", "minute"): settings.upsampler_requests_per_minute,
            ("submissions", "hour"): settings.upsampler_requests_per_hour,
            ("status_calls", "minute"): settings.upsampler_status_calls_per_minute,
        }

    def describe(self) -> list[Metric]:
        """Return no metrics: registering must not read the database."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Yield the figures of the state."""
        try:
            metrics = list(self._state())
        except Exception as error:  # not reachable or not migrated: a scrape reports it and does not fail
            log.warning("the state cannot be read", action="metrics", error=type(error).__name__)
            metrics = []
        yield GaugeMetricFamily("smi_database_up", "Whether the state's database answers.", value=bool(metrics))
        yield from metrics

    def _state(self) -> Iterator[Metric]:
        views = self._ctx.state.queries
        counts, queue = views.counts(), views.queue()
        compared = self._ctx.state.reconciliation.standing().items()
        differences = {(what, kind): count for what, found in compared for kind, count in found.differences.items()}
        ages = {(what,): -1 if found.age_seconds is None else found.age_seconds for what, found in compared}
        waiting = {
            (Queue.SUBMIT,): queue.to_submit,
            (Queue.FULFIL,): queue.to_fulfil,
            (Queue.REFUND,): queue.refunds_owed,
            (Queue.MAIL,): queue.mails_owed,
        }
        calls = {
            ("submissions", "minute"): queue.submissions_minute,
            ("submissions", "hour"): queue.submissions_hour,
            ("status_calls", "minute"): queue.status_calls_minute,
        }
        for name, help_, labels, values in (
            ("smi_jobs", "Upscale jobs by status.", "status", {(status,): counts.get(status, 0) for status in Status}),
            ("smi_queue", "Rows that wait or are being worked on.", "queue", waiting),
            ("smi_api_calls", "Calls to Upsampler in the last window.", "calls window", calls),
            ("smi_api_allowance", "Calls allowed by the settings; 0: no limit.", "calls window", self._allowance),
            (
                "smi_differences",
                "Open differences between the state and Stripe or the storage.",
                "compared kind",
                differences,
            ),
            (
                "smi_compared_seconds_ago",
                "Since the last complete comparison; -1: there was none yet.",
                "compared",
                ages,
            ),
        ):
            metric = GaugeMetricFamily(name, help_, labels=labels.split())
            for key, value in values.items():
                metric.add_metric(key, value)
            yield metric
        failing = {f.breaker.name: f for f in self._ctx.state.dashboard.breakers()}
        shut = GaugeMetricFamily("smi_breaker_open", "Whether a circuit breaker is open.", labels=["name"])
        waited_for = GaugeMetricFamily(
            "smi_breaker_waiting_orders",
            "Orders (for stripe: refunds, for mail: mails) that wait for an open circuit breaker.",
            labels=["name"],
        )
        for breaker in dict.fromkeys((*BREAKERS, *failing)):
            found = failing.get(breaker)
            is_open = found is not None and found.breaker.is_open
            shut.add_metric((breaker,), is_open)
            waited_for.add_metric((breaker,), found.waiting if found and is_open else 0)
        yield from (shut, waited_for)
        silent = -1 if queue.silent_seconds is None else queue.silent_seconds
        alarms = len(views.alarms(self._ctx.policy))
        for name, help_, figure in (
            ("smi_in_flight", "Submissions to Upsampler whose result is not known yet.", queue.in_flight),
            ("smi_jobs_leased", "Upscale jobs leased by a worker now.", queue.leased),
            ("smi_jobs_on_hold", "Upscale jobs on hold.", queue.on_hold),
            ("smi_refunds_owed", "Refunds not requested from Stripe yet.", queue.refunds_owed),
            ("smi_refunds_pending", "Refunds that Stripe has not settled yet.", queue.refunds_pending),
            ("smi_mails_owed", "Mails that no mail server has accepted yet.", queue.mails_owed),
            ("smi_person_tasks", "Open manual tasks.", queue.person_tasks),
            ("smi_alarms", "Paid jobs past their last deadline, neither delivered nor refunded.", alarms),
            (
                "smi_sensors_seconds_ago",
                "Since Upsampler was last polled and deadlines enforced; -1: never. Alert above 60.",
                silent,
            ),
            ("smi_credits_this_month", "Credits used since the first of the month (UTC).", views.credits_this_month()),
        ):
            yield GaugeMetricFamily(name, help_, value=figure)
