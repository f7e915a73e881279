"""Why a job failed or a payment was returned: codes stored in rows and reports, and the sentences customers read."""

UNSUPPORTED_FORMAT = "unsupported_format"
SOURCE_TOO_LARGE = "source_too_large"
SOURCE_CHANGED = "source_changed"
SOURCE_UNREACHABLE = "source_unreachable"
INVALID_IMAGE = "invalid_image"
REJECTED_BY_API = "rejected_by_api"
UPSCALE_FAILED = "upscale_failed"
NO_RESULT = "no_result"
RESULT_UNREACHABLE = "result_unreachable"
RESULT_REJECTED = "result_rejected"
TIMED_OUT = "timed_out"
NOT_STARTED_IN_TIME = "not_started_in_time"
SUBMISSION_LOST = "submission_lost"
SET_ASIDE = "set_aside"
WRONG_AMOUNT = "wrong_amount"
CANCELLED = "cancelled"
DUPLICATE_PAYMENT = "duplicate_payment"
GOODWILL = "goodwill"
REFUNDED_OUTSIDE = "refunded_outside"

FAULTS_OF_THE_ORDER = frozenset({UNSUPPORTED_FORMAT, SOURCE_TOO_LARGE, INVALID_IMAGE, WRONG_AMOUNT, CANCELLED})
"""What our own checks say of one order: no fault of the shop, however many orders have it."""

REFUNDED_IN_FULL = "already refunded in full"
"""Why an owed refund is not needed: all of the payment is returned, or being returned."""

FOR_CUSTOMER: dict[str, str] = {
    UNSUPPORTED_FORMAT: "The image is not in a format that can be upscaled (PNG, JPEG or WebP).",
    SOURCE_TOO_LARGE: "The image is too large to be upscaled.",
    SOURCE_CHANGED: "The image was changed after you ordered it.",
    SOURCE_UNREACHABLE: "The original image could not be fetched.",
    INVALID_IMAGE: "The original image is damaged.",
    REJECTED_BY_API: "The upscaling service could not take this image.",
    UPSCALE_FAILED: "The upscaling service could not process this image.",
    NO_RESULT: "The upscaling service returned no image.",
    RESULT_UNREACHABLE: "The upscaled image could not be fetched from the upscaling service.",
    RESULT_REJECTED: "The upscaled image did not pass our quality check.",
    TIMED_OUT: "The upscaling took longer than we promise.",
    NOT_STARTED_IN_TIME: "The upscaling could not be started in time.",
    SUBMISSION_LOST: "The upscaling service did not confirm the order.",
    SET_ASIDE: "The upscaling failed repeatedly.",
    WRONG_AMOUNT: "The amount paid did not match the price of the order.",
    CANCELLED: "The order was cancelled.",
    DUPLICATE_PAYMENT: "The order was paid twice; the second payment is returned.",
    GOODWILL: "The shop returned your payment as goodwill.",
    REFUNDED_OUTSIDE: "The payment was returned.",
}
