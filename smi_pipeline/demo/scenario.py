"""The demo's cases as data: what is ordered, which faults are injected, and how each order must end."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import cycle, islice
from typing import Any, Literal

Resolution = Literal["4x", "8x"]
Outcome = Literal["delivered", "refunded"]
MatchBy = Literal["image_url", "job_id", "path", "to"]


@dataclass(frozen=True, kw_only=True)
class Fault:
    """A fault, added to a service of the sandbox after its order was registered and before it is paid.

    `match_by`: the property of the order by which the fault matches, None for one that hits every order. `match`:
    further conditions; `params`: the fault's own fields, which the modules of the services list.
    """

    service: Literal["upsampler", "stripe", "mail", "origin"]
    kind: str
    match_by: MatchBy | None
    match: Mapping[str, Any] = field(default_factory=dict)
    params: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Case:
    """A kind of order. `photo`: its name at the image origin; `mail_says`: part of the reason in the refund mail;
    `submissions`: how often it is submitted at most."""

    name: str
    resolution: Resolution
    photo: str
    expected: Outcome
    description: str
    faults: tuple[Fault, ...] = ()
    mail_says: str = ""
    submissions: int = 1

    @property
    def scale(self) -> int:
        """Factor by which each side grows."""
        return int(self.resolution.removesuffix("x"))


def _result(kind: str, **params: Any) -> tuple[Fault, ...]:
    return (Fault(service="upsampler", kind=kind, match_by="image_url", params=params),)


SPECIAL = (
    Case(
        name="never-finishes",
        resolution="4x",
        photo="moon-300.jpg",
        expected="refunded",
        description="Upsampler never finishes",
        faults=_result("never_finishes"),
        mail_says="longer than we promise",
    ),
    Case(
        name="lost-stripe-webhook",
        resolution="4x",
        photo="rocket-400.jpg",
        expected="delivered",
        description="the webhooks of the payment are lost",
        faults=(Fault(service="stripe", kind="lose_webhook", match_by="job_id", params={"times": None}),),
    ),
    Case(
        name="lost-upsampler-webhook",
        resolution="4x",
        photo="coffee-512.webp",
        expected="delivered",
        description="the webhook of the result is lost",
        faults=_result("lose_webhook"),
    ),
    Case(
        name="source-swapped",
        resolution="4x",
        photo="gravel-333.jpg",  # no other order has this path: the origin swaps by path
        expected="refunded",
        description="the image is replaced by a GIF after the order",
        faults=(Fault(service="origin", kind="swap", match_by="path", params={"content": "gif"}),),
        mail_says="changed after you ordered",
    ),
    Case(
        name="upscale-fails",
        resolution="8x",
        photo="grass-200.jpg",
        expected="refunded",
        description="Upsampler reports a failure",
        faults=_result("fail", error="The image has no recognisable content"),
        mail_says="could not process",
    ),
    Case(
        name="black-tile",
        resolution="4x",
        photo="astronaut-400.png",
        expected="delivered",
        description="one tile of the first result is black",
        faults=_result("black_tile"),
        submissions=2,
    ),
    Case(
        name="webhook-three-times",
        resolution="8x",
        photo="retina-300.png",
        expected="delivered",
        description="every webhook is sent three times",
        faults=(
            Fault(service="stripe", kind="repeat_webhook", match_by="job_id", params={"n": 3, "times": None}),
            Fault(service="upsampler", kind="repeat_webhook", match_by="image_url", params={"n": 3}),
        ),
    ),
    Case(
        name="api-429",
        resolution="4x",
        photo="coins-300.jpg",
        expected="delivered",
        description="Upsampler responds 429 at first",
        faults=(
            Fault(
                service="upsampler",
                kind="status",
                match_by="image_url",
                match={"endpoint": "submit"},
                params={"code": 429, "retry_after": 3},
            ),
        ),
    ),
    Case(
        name="mail-451",
        resolution="4x",
        photo="motorcycle-400.webp",
        expected="delivered",
        description="the mail server responds 451 at first",
        faults=(Fault(service="mail", kind="code", match_by="to", params={"code": 451, "at": "RCPT"}),),
    ),
    Case(
        name="no-credits",
        resolution="4x",
        photo="retina-300.png",
        expected="delivered",
        description="Upsampler has no credits for a while: all wait",
        faults=(
            Fault(
                service="upsampler",
                kind="status",
                match_by=None,
                match={"endpoint": "submit"},
                params={"code": 402, "times": 2},
            ),
        ),
    ),
)
"""All cases with a fault, the slowest first."""

_GOOD_PHOTOS: tuple[tuple[Resolution, str], ...] = (
    ("4x", "astronaut-512.jpg"),
    ("8x", "coffee-300.png"),
    ("4x", "chelsea-400.webp"),
    ("8x", "rocket-200.jpg"),
    ("4x", "cutout-300.png"),
    ("8x", "tissue-200.webp"),
    ("4x", "retina-1024.jpg"),
    ("8x", "coins-200.png"),
    ("4x", "hubble-512.png"),
    ("8x", "brick-200.webp"),
    ("4x", "camera-400.png"),
    ("8x", "motorcycle-300.jpg"),
)

GOOD = tuple(
    Case(name=f"good-{resolution}", resolution=resolution, photo=photo, expected="delivered", description="no fault")
    for resolution, photo in _GOOD_PHOTOS
)
"""Cases without fault: PNG, JPEG and WebP; colour, grey and transparent; several sizes."""

BY_NAME = {case.name: case for case in (*GOOD, *SPECIAL)}
"""Cases of the same name differ only in their photograph."""

MINIMUM_JOBS = len(SPECIAL) + 2  # every special case, a good 4x and a good 8x


def cases(jobs: int) -> list[Case]:
    """Return `jobs` cases: every special one, with good ones in between. Raises ValueError below `MINIMUM_JOBS`."""
    if jobs < MINIMUM_JOBS:
        raise ValueError(f"the demo needs at least {MINIMUM_JOBS} jobs to show every case, not {jobs}")
    good = list(islice(cycle(GOOD), jobs - len(SPECIAL)))
    mixed: list[Case] = []
    for special in SPECIAL:
        mixed += [special, *good[:1]]
        del good[:1]
    return mixed + good
