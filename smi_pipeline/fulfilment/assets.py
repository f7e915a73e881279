"""Assets of the operational side: the sources outside, the state of the shop, and what fulfilment runs report."""

from dagster import AssetSpec

_OWNERS = ["team:data-ops"]

ASSETS = [
    AssetSpec(
        "stripe_payments",
        description="Confirmed payments: Stripe webhooks, and the events and PaymentIntents found by reconciliation.",
        group_name="sources",
        owners=_OWNERS,
        kinds={"stripe"},
    ),
    AssetSpec(
        "upsampler_api",
        description="Upscales requested from Upsampler, and the credits they cost.",
        group_name="sources",
        owners=_OWNERS,
    ),
    AssetSpec(
        "upscale_jobs",
        deps=["stripe_payments", "upsampler_api"],
        description="One row per upscale job in PostgreSQL, schema smi: the state of the shop.",
        group_name="fulfilment",
        owners=_OWNERS,
        kinds={"postgres"},
    ),
    AssetSpec(
        "deliveries",
        deps=["upscale_jobs"],
        description="Files delivered to customers. Each fulfilment run records one materialisation for its batch.",
        group_name="fulfilment",
        owners=_OWNERS,
    ),
]
