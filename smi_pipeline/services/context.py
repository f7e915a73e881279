"""Everything a use case needs, in one value."""

import logging
from dataclasses import dataclass, field, replace

from smi_pipeline.core.policy import Policy
from smi_pipeline.core.ports import (
    FetcherPort,
    ImagesPort,
    LimiterPort,
    MailerPort,
    PaymentsPort,
    StoragePort,
    UpscalerPort,
)
from smi_pipeline.core.pricing import Prices
from smi_pipeline.state import State

log = logging.getLogger("smi_pipeline")


@dataclass(frozen=True, kw_only=True)
class ServiceContext:
    """State, ports and policy of one process. The audit trail names `actor`."""

    state: State
    upscaler: UpscalerPort
    payments: PaymentsPort
    mailer: MailerPort
    fetcher: FetcherPort
    images: ImagesPort
    storage: StoragePort
    limiter: LimiterPort
    policy: Policy
    prices: Prices
    secret_keys: tuple[str, ...] = field(repr=False)  # the first one signs, all are accepted
    actor: str = "service"

    @property
    def secret_key(self) -> str:
        """The key that signs."""
        return self.secret_keys[0]

    def acting_as(self, actor: str) -> "ServiceContext":
        """Return a copy whose audit entries name `actor`."""
        return replace(self, actor=actor)
