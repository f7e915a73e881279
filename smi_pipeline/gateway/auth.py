"""Authentication: the storefront's key, operators' password, customers' signed keys, and the shop's origin."""

import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import Callable, Iterable
from contextlib import suppress

from pydantic import SecretStr
from starlette.exceptions import HTTPException
from starlette.requests import Request

from smi_pipeline.core.errors import NotFound
from smi_pipeline.core.lifecycle import TOKEN_LENGTH, end_waiting_token, rating_token, view_token
from smi_pipeline.core.models import UpscaleJob
from smi_pipeline.gateway.context import gateway_of
from smi_pipeline.services.intake import require_known
from smi_pipeline.settings import several

_JOB_ID = re.compile(r"[0-9a-f]{32}")
_TOKEN = re.compile(rf"[0-9a-f]{{{TOKEN_LENGTH}}}")


def same(given: str | bytes, wanted: str | bytes) -> bool:
    """Compares two secrets in a time that tells nothing about them, not even their length."""
    digests = [
        hashlib.sha256(v.encode("utf-8", "surrogatepass") if isinstance(v, str) else v).digest()
        for v in (given, wanted)
    ]
    return hmac.compare_digest(*digests)


def any_of(given: str | bytes, wanted: Iterable[str]) -> bool:
    """Compare a secret with several, always with all of them, as `same` does."""
    return any([same(given, each) for each in wanted])


def require_key(request: Request, keys: SecretStr, setting: str, *, patient: bool = False) -> None:
    """Raises HTTPException: 503 while `setting` is empty (an empty key must not open), 401 for a key that is none of
    `keys`, 429 for too many wrong ones; with `patient`, a right one is refused then, too."""
    wanted = several(keys)
    if not wanted:
        raise HTTPException(503, f"This interface is disabled: {setting} is not set.", {"Retry-After": "3600"})
    wrong_secrets = gateway_of(request).wrong_secrets
    if patient:
        wrong_secrets.require_patience(request)
    shown = request.headers.get("authorization", "")
    scheme, _, given = shown.partition(" ")
    if scheme.lower() != "bearer" or not any_of(given.strip().encode("latin-1"), wanted):
        if shown:
            wrong_secrets.note_wrong(request)
        raise HTTPException(401, "The API key is missing or wrong.", {"WWW-Authenticate": 'Bearer realm="smi"'})


def require_operator(request: Request) -> None:
    """Raises HTTPException: 503 while no password is configured, 401 for a wrong one, 429 after too many wrong ones,
    403 for a request that can change something and does not come from a page of this site."""
    require_own_page(request)
    gateway = gateway_of(request)
    settings = gateway.settings
    user, password = settings.smi_ui_user, settings.smi_ui_password.get_secret_value()
    if not user or not password:
        words = "This page is closed: set SMI_UI_USER and SMI_UI_PASSWORD."
        raise HTTPException(503, words, {"Retry-After": "3600"})
    gateway.wrong_secrets.require_patience(request)
    shown = request.headers.get("authorization", "")
    scheme, _, encoded = shown.partition(" ")
    try:
        given = base64.b64decode(encoded.strip(), validate=True) if scheme.lower() == "basic" else b""
    except (binascii.Error, ValueError):
        given = b""
    given_user, _, given_password = given.partition(b":")
    right = same(given_user, user) & same(given_password, password)  # both, always
    if not right:
        if shown:
            gateway.wrong_secrets.note_wrong(request)
        ask = {"WWW-Authenticate": 'Basic realm="operations", charset="UTF-8"'}
        raise HTTPException(401, "User or password is missing or wrong.", ask)


def require_own_page(request: Request) -> None:
    """Raises HTTPException (403) if this request can change something and a page of another site may have made it.

    For what is protected by a password that browsers remember: they send it along with whatever any page asks for.
    """
    if request.method in ("GET", "HEAD"):
        return
    origins = request.headers.getlist("origin")
    sites = request.headers.getlist("sec-fetch-site")
    own = origins == [gateway_of(request).settings.public_origin] and len(sites) <= 1
    if not own and (origins or sites != ["same-origin"]):
        raise HTTPException(403, "This must be sent from a page of this site: open the page and try again.")


def find_job(request: Request) -> UpscaleJob:
    """The job that the path names by its id, with or without hyphens. Raises NotFound, or HTTPException (429) after too
    many that do not exist."""
    gateway = gateway_of(request)
    plain = request.path_params["job_id"].replace("-", "").lower()
    if _JOB_ID.fullmatch(plain):
        with suppress(NotFound):
            return require_known(gateway.ctx, plain)
    gateway.wrong_secrets.note_wrong(request)
    raise NotFound("There is no such order.")


def may_view(request: Request, job: UpscaleJob) -> bool:
    """Return whether `view` is the signed key to the link and the refund of this job.

    Raises HTTPException (429) after too many wrong ones."""
    return _signed(request, "view", view_token, job)


def may_rate(request: Request, job: UpscaleJob) -> bool:
    """Return whether `key` is the signed key that lets a customer rate this job.

    Raises HTTPException (429) after too many wrong ones."""
    return _signed(request, "key", rating_token, job)


def may_end_waiting(request: Request, job: UpscaleJob) -> bool:
    """Return whether `key` is the signed key that lets a customer end the waiting for this job.

    Raises HTTPException (429) after too many wrong ones."""
    return _signed(request, "key", end_waiting_token, job)


def _signed(request: Request, parameter: str, token: Callable[[str, str, int], str], job: UpscaleJob) -> bool:
    given = request.query_params.get(parameter)
    if not given:
        return False
    keys = gateway_of(request).ctx.secret_keys
    right = any_of(given, [token(key, job.job_id, job.links_revoked) for key in keys])
    if not right:
        gateway_of(request).wrong_secrets.note_wrong(request)
    return right


def is_token(given: str) -> bool:
    """Whether this can be a token at all: nothing else is looked up."""
    return bool(_TOKEN.fullmatch(given))


def shop_headers(request: Request) -> dict[str, str]:
    """CORS headers for the shop's own origin, which may poll the status from its pages; none for any other."""
    allowed = gateway_of(request).settings.smi_shop_origin.rstrip("/")
    headers = {"Vary": "Origin"}
    if allowed and request.headers.get("origin") == allowed:
        headers["Access-Control-Allow-Origin"] = allowed
        if request.method == "OPTIONS":
            headers |= {
                "Access-Control-Allow-Methods": "GET",
                "Access-Control-Allow-Headers": "Accept, Content-Type",
                "Access-Control-Max-Age": "600",
            }
    return headers
