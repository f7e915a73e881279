"""A process that calls Upsampler as fast as the shared limiter lets it: one of several, until it is killed."""

import sys
import time

from smi_pipeline.adapters.upsampler.client import UpsamplerClient
from smi_pipeline.core.allowance import Allowance
from smi_pipeline.core.errors import NotFound, RateLimited
from smi_pipeline.core.models import ApiFormat
from smi_pipeline.core.vocabulary import CallPurpose
from smi_pipeline.state.database import Database
from smi_pipeline.state.rate_limiter import RateLimiter


def main(state_url: str, base_url: str, key: str, minute: float, hour: float, per_minute: int, per_hour: int) -> None:
    """Never returns."""
    allowance = Allowance(per_minute=per_minute, per_hour=per_hour, windows=(minute, hour))
    limiter = RateLimiter(Database(state_url), submissions=Allowance(), status_calls=allowance)
    client = UpsamplerClient(base_url, key, ApiFormat.LIVE)
    while True:
        try:
            limiter.acquire(CallPurpose.URGENT_POLL)
            client.status("nobody-knows-this-one")
        except NotFound:
            pass
        except RateLimited as error:
            time.sleep(min(error.retry_after or 0.1, 0.5))


if __name__ == "__main__":
    url, base, api_key, minute_seconds, hour_seconds, minute_limit, hour_limit = sys.argv[1:]
    main(url, base, api_key, float(minute_seconds), float(hour_seconds), int(minute_limit), int(hour_limit))
