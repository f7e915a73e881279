"""Calculate cost, price, fee and margin of an upscale, without floats.

Upsampler's precise-upscale charges 0.25 credits per output megapixel, rounded up, at least one, at $0.04 each. The
price is that of the WordPress plugin: cost x (1 + markup), at least Stripe's minimum. A cent is the smallest unit of
the shop's currency, as Stripe counts it: a cent of a dollar, one yen, a thousandth of a dinar. Costs and prices are
rounded up, so that the shop never asks for less; Stripe's fee to the nearest cent, as Stripe rounds it.
"""

from dataclasses import dataclass
from decimal import ROUND_CEILING, ROUND_HALF_UP, Decimal

from smi_pipeline.core.currencies import chargeable, minimum_charge

PIXELS_PER_MEGAPIXEL = 1_000_000
CREDITS_PER_MEGAPIXEL = Decimal("0.25")
_CENT = Decimal(1)
_HUNDRED = Decimal(100)


def output_pixels(width: int, height: int, scale: int) -> int:
    """Return the pixels of a `width` x `height` source enlarged `scale` times on each side.

    Raises ValueError unless all three are at least 1."""
    if width < 1 or height < 1 or scale < 1:
        raise ValueError(f"not a size: {width}x{height} at {scale}x")
    return width * height * scale * scale


def output_megapixels(width: int, height: int, scale: int) -> Decimal:
    """Return `output_pixels` in millions, exactly. Raises ValueError as it does."""
    return Decimal(output_pixels(width, height, scale)) / PIXELS_PER_MEGAPIXEL


def credits(output_megapixels: Decimal) -> int:
    """Return the credits that Upsampler charges for a result: max(1, ceil(megapixels x 0.25))."""
    return max(1, int((output_megapixels * CREDITS_PER_MEGAPIXEL).to_integral_value(ROUND_CEILING)))


@dataclass(frozen=True, kw_only=True)
class Quote:
    """Price, cost and margin of one upscale. Cents of the shop's currency; `stripe_fee_cents` and `margin_cents` are
    estimates until Stripe's fee and Upsampler's credits are known."""

    credits: int
    cost_cents: int
    price_cents: int
    stripe_fee_cents: int
    margin_cents: int


@dataclass(frozen=True)
class Prices:
    """The shop's price list. `markup_percent` 200 means three times the cost; `credit_cents` is what a credit costs
    the shop; `fee_percent` of the payment plus `fee_fixed_cents` is what Stripe keeps. No price is below
    `minimum_cents`, nor below Stripe's minimum for `currency`. Raises ValueError for negative or non-finite values."""

    markup_percent: Decimal = Decimal(200)
    credit_cents: Decimal = Decimal(4)
    fee_percent: Decimal = Decimal("2.9")
    fee_fixed_cents: int = 30
    currency: str = "usd"
    minimum_cents: int = 0

    def __post_init__(self) -> None:
        for name in ("markup_percent", "credit_cents", "fee_percent", "fee_fixed_cents"):
            value = Decimal(getattr(self, name))
            if not value.is_finite() or value < 0:
                raise ValueError(f"{name} must be a number of at least 0, not {value}")

    def cost_cents(self, credits: int, credit_cents: Decimal | None = None) -> int:
        """Return what Upsampler charges the shop for the credits, rounded up to a cent; `credit_cents` is the price at
        which their order was made, if that was kept."""
        each = self.credit_cents if credit_cents is None else credit_cents
        return int((credits * Decimal(each)).to_integral_value(ROUND_CEILING))

    def price_cents(self, credits: int) -> int:
        """Return what the customer pays: the unrounded cost plus the markup, at least the minimum, rounded up to an
        amount that Stripe charges."""
        price = credits * Decimal(self.credit_cents) * (_HUNDRED + Decimal(self.markup_percent)) / _HUNDRED
        return chargeable(
            max(price, Decimal(self.minimum_cents), Decimal(minimum_charge(self.currency))), self.currency
        )

    def stripe_fee_cents(self, received_cents: int) -> int:
        """Return an estimate of Stripe's fee, used until its balance transaction is known; 0 for no payment."""
        if received_cents <= 0:
            return 0
        fee = received_cents * Decimal(self.fee_percent) / _HUNDRED + self.fee_fixed_cents
        return int(fee.quantize(_CENT, ROUND_HALF_UP))

    def margin_cents(
        self, *, received_cents: int, cost_cents: int, fee_cents: int | None = None, refunded_cents: int = 0
    ) -> int:
        """Return received - refunded - Stripe's fee - cost; negative for a loss. Without `fee_cents` the fee is
        estimated. Stripe keeps its fee when a payment is refunded."""
        fee = self.stripe_fee_cents(received_cents) if fee_cents is None else fee_cents
        return received_cents - refunded_cents - fee - cost_cents

    def quote(self, width: int, height: int, scale: int) -> Quote:
        """Return the quote for a `width` x `height` source. Raises ValueError as `output_pixels`."""
        needed = credits(output_megapixels(width, height, scale))
        cost, price = self.cost_cents(needed), self.price_cents(needed)
        return Quote(
            credits=needed,
            cost_cents=cost,
            price_cents=price,
            stripe_fee_cents=self.stripe_fee_cents(price),
            margin_cents=self.margin_cents(received_cents=price, cost_cents=cost),
        )


def margin_percent(margin_cents: int, received_cents: int) -> Decimal | None:
    """Return the margin in percent of what was received, to one decimal place; None when nothing was received."""
    if received_cents <= 0:
        return None
    return (Decimal(margin_cents) * 100 / received_cents).quantize(Decimal("0.1"), ROUND_HALF_UP)
