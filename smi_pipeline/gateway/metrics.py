"""Figures for Prometheus: what this process counts itself, and what the state says at the moment of the scrape."""

from collections.abc import Iterator

import structlog
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from smi_pipeline.core.models import Status
from smi_pipeline.services.context import ServiceContext
from smi_pipeline.settings import Settings

log = structlog.get_logger("smi_pipeline.gateway")

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.5, 1, 2.5, 5, 10, 30)


class Metrics:
    """One registry per application."""

    def __init__(self, ctx: ServiceContext, settings: Settings) -> None:
        self._registry = CollectorRegistry()
        self.webhooks = Counter(
            "smi_webhooks", "Webhooks received, by what they did.", ("source", "outcome"), registry=self._registry
        )
        self.webhook_seconds = Histogram(
            "smi_webhook_seconds", "Time to answer a webhook.", ("source",), buckets=_SECONDS, registry=self._registry
        )
        self.requests = Counter(
            "smi_http_requests", "Requests answered.", ("method", "route", "status"), registry=self._registry
        )
        self.request_seconds = Histogram(
            "smi_http_request_seconds",
            "Time until the answer began.",
            ("route",),
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._registry.register(_StateCollector(ctx, settings))

    def page(self) -> bytes:
        """Everything, in Prometheus' text format. Asks the database."""
        return generate_latest(self._registry)


class _StateCollector(Collector):
    """Reads the state at each scrape; when it does not answer, only `smi_database_up 0` is said."""

    def __init__(self, ctx: ServiceContext, settings: Settings) -> None:
        self._ctx = ctx
        self._allowance = {
            "minute": settings.upsampler_requests_per_minute,
            "hour": settings.upsampler_requests_per_hour,
        }

    def describe(self) -> list[Metric]:
        return []  # registering must not ask the database

    def collect(self) -> Iterator[Metric]:
        up = GaugeMetricFamily("smi_database_up", "Whether the state's database answers.")
        try:
            metrics = list(self._state())
        except Exception as error:  # not reachable, or not migrated: a scrape must tell, not fail
            log.warning("the state cannot be read", action="metrics", error=type(error).__name__)
            up.add_metric([], 0)
            yield up
            return
        up.add_metric([], 1)
        yield up
        yield from metrics

    def _state(self) -> Iterator[Metric]:
        views = self._ctx.state.queries
        counts, queue = views.counts(), views.queue()
        jobs = GaugeMetricFamily("smi_jobs", "Upscale jobs by status.", labels=["status"])
        for status in Status:
            jobs.add_metric([status], counts.get(status, 0))
        yield jobs
        waiting = GaugeMetricFamily("smi_queue", "Work that waits or is worked on.", labels=["queue"])
        for name, key in (
            ("submit", "to_submit"),
            ("fulfil", "to_fulfil"),
            ("refund", "refunds_owed"),
            ("mail", "mails_owed"),
        ):
            waiting.add_metric([name], getattr(queue, key))
        yield waiting
        for name, key, help_ in (
            ("smi_in_flight", "in_flight", "Calls to Upsampler whose result is not known yet."),
            ("smi_jobs_leased", "leased", "Upscale jobs that a worker has now."),
            ("smi_jobs_on_hold", "on_hold", "Upscale jobs on hold."),
            ("smi_refunds_owed", "refunds_owed", "Refunds not asked of Stripe yet."),
            ("smi_refunds_pending", "refunds_pending", "Refunds that Stripe has not settled yet."),
            ("smi_mails_owed", "mails_owed", "Mails that no mail server has accepted yet."),
            ("smi_person_tasks", "person_tasks", "Open tasks for a person."),
        ):
            yield GaugeMetricFamily(name, help_, value=getattr(queue, key))
        alarms = len(views.alarms(self._ctx.policy))
        yield GaugeMetricFamily("smi_alarms", "Paid jobs neither delivered nor refunded in time.", value=alarms)
        yield GaugeMetricFamily(
            "smi_sensors_seconds_ago",
            "Since a sensor last looked for work; -1: none has yet. Alert above 60: a stopped daemon alerts nobody.",
            value=-1 if queue.silent_seconds is None else queue.silent_seconds,
        )
        yield from self._comparisons()
        calls = GaugeMetricFamily("smi_api_calls", "Calls to Upsampler in the last window.", labels=["window"])
        allowed = GaugeMetricFamily("smi_api_allowance", "Calls allowed per window; 0: no limit.", labels=["window"])
        for window, key in (("minute", "calls_minute"), ("hour", "calls_hour")):
            calls.add_metric([window], getattr(queue, key))
            allowed.add_metric([window], self._allowance[window])
        yield calls
        yield allowed
        yield GaugeMetricFamily(
            "smi_credits_this_month", "Credits booked since the first of the month.", value=views.credits_this_month()
        )

    def _comparisons(self) -> Iterator[Metric]:
        differences = GaugeMetricFamily(
            "smi_differences", "Open differences from Stripe and the storage.", labels=["compared", "kind"]
        )
        age = GaugeMetricFamily(
            "smi_compared_seconds_ago", "Since the last whole comparison; -1: there was none yet.", labels=["compared"]
        )
        for what, found in self._ctx.state.reconciliation.standing().items():
            for kind, count in found.differences.items():
                differences.add_metric([what, kind], count)
            age.add_metric([what], -1 if found.age_seconds is None else found.age_seconds)
        yield differences
        yield age
