"""The gateway's application: which path leads where. All dependencies are passed in."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.responses import Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from smi_pipeline.core.models import Queue
from smi_pipeline.gateway import admin_api, customers, downloads, ops, reports, storefront, webhooks
from smi_pipeline.gateway.context import Gateway
from smi_pipeline.gateway.errors import EXCEPTION_HANDLERS
from smi_pipeline.gateway.metrics import Metrics
from smi_pipeline.gateway.middleware import RequestMiddleware
from smi_pipeline.gateway.rendering import STATIC, Pages
from smi_pipeline.gateway.threads import BackgroundDispatch, BackgroundWatch, Threads
from smi_pipeline.gateway.throttle import Throttle
from smi_pipeline.services.context import ServiceContext
from smi_pipeline.services.watch import Watch
from smi_pipeline.settings import Settings
from smi_pipeline.wiring import alert_post


def create_app(ctx: ServiceContext, settings: Settings, *, on_work: Callable[[Queue], None]) -> Starlette:
    """The application. `on_work(queue)` is called in the background after a verified payment
    (`Queue.SUBMIT`) and after an accepted Upsampler webhook (`Queue.FULFIL`); it may start a run at once."""
    dispatch = BackgroundDispatch(on_work)
    watch = Watch(ctx, settings.smi_admin_email, alert_post(settings))
    watching = BackgroundWatch(watch.look)
    static = _Static(directory=STATIC)
    routes = [
        Route("/smi-webhook/stripe", webhooks.stripe, methods=["POST"]),
        Route("/smi-webhook/upsampler/{token}", webhooks.upsampler, methods=["GET", "POST"]),
        Route("/smi/v1/jobs", storefront.register, methods=["POST"]),
        Route("/smi/v1/jobs/{job_id}", customers.job_page, methods=["GET"]),
        Route("/smi/v1/job-status/{job_id}", customers.job_status, methods=["GET", "OPTIONS"]),
        Route("/smi/v1/download/{token}", downloads.download, methods=["GET"]),
        Route("/smi/v1/rate/{job_id}", customers.rating, methods=["GET", "POST"]),
        Route("/smi/v1/end-waiting/{job_id}", customers.end_waiting, methods=["GET", "POST"]),
        Route("/smi/v1/admin/{kind}/{subject}/{action}", admin_api.act, methods=["POST"]),
        Route("/ops", ops.ops, methods=["GET"]),
        Route("/ops/breakers", ops.breakers, methods=["GET", "POST"]),
        Route("/ops/jobs/{job_id}", ops.ops_job, methods=["GET"]),
        Route("/ops/reports/{path:path}", reports.file, methods=["GET"]),
        Route("/metrics", ops.metrics, methods=["GET"]),
        Route("/health", ops.health, methods=["GET"]),
    ]
    patterns = {route.endpoint: route.path for route in routes} | {static: "/static"}

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        dispatch.start()
        watching.start()
        yield
        watching.stop()
        dispatch.stop()

    app = Starlette(
        routes=[*routes, Mount("/static", static)],
        middleware=[Middleware(RequestMiddleware, routes=patterns, https=settings.public_url.startswith("https://"))],
        exception_handlers=EXCEPTION_HANDLERS,
        lifespan=lifespan,
    )
    app.router.redirect_slashes = False  # it would answer with an address made from the Host header
    app.state.gateway = Gateway(
        ctx=ctx,
        settings=settings,
        pages=Pages(settings),
        metrics=Metrics(ctx, settings),
        threads=Threads(),
        dispatch=dispatch,
        wrong_secrets=Throttle(),
    )
    app.state.overview = ops.Overview()
    app.state.watch = watch
    return app


class _Static(StaticFiles):
    """Style and script of the pages; their address changes with their content."""

    def file_response(self, *args: Any, **kwargs: Any) -> Response:
        """Return the file with its caching header."""
        response = super().file_response(*args, **kwargs)
        response.headers["Cache-Control"] = "public, max-age=86400"
        return response
