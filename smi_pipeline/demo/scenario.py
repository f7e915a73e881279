"""What the demo's customers order, what goes wrong on purpose, and how each order has to end.

Belongs here: the cases, as data. Does not belong here: how faults are planted (shop.py) or judged (judge.py).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import cycle, islice
from typing import Any, Literal

Resolution = Literal["4x", "8x"]
Outcome = Literal["delivered", "refunded"]
MatchBy = Literal["image_url", "job_id", "path", "to"]

DEFAULT_JOBS = 24


@dataclass(frozen=True, kw_only=True)
class Fault:
    """A fault for one order, planted at a stand-in's `/_faults` after the order was registered and before it is paid.

    `match_by` names what of the order the fault is matched by: its image's URL or path, its job id, or its customer's
    address. `match` are further conditions, `params` the fault's own fields (see the stand-ins' modules).
    """

    service: Literal["upsampler", "stripe", "mail", "origin"]
    kind: str
    match_by: MatchBy
    match: Mapping[str, Any] = field(default_factory=dict)
    params: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Case:
    """One kind of order. `photo` is a name of the image origin; `words` say what happens; `mail_says` is a part of the
    reason that the refund mail has to give."""

    name: str
    resolution: Resolution
    photo: str
    expected: Outcome
    words: str
    faults: tuple[Fault, ...] = ()
    mail_says: str = ""

    @property
    def scale(self) -> int:
        """How much longer each side becomes."""
        return int(self.resolution.removesuffix("x"))


def _result(kind: str, **params: Any) -> tuple[Fault, ...]:
    return (Fault(service="upsampler", kind=kind, match_by="image_url", params=params),)


_CHECKED = "quality check"

SPECIAL = (
    Case(
        name="never-finishes",
        resolution="4x",
        photo="moon-300.jpg",
        expected="refunded",
        words="Upsampler works on it for ever",
        faults=_result("never_finishes"),
        mail_says="longer than we promise",
    ),
    Case(
        name="lost-stripe-webhook",
        resolution="4x",
        photo="rocket-400.jpg",
        expected="delivered",
        words="no webhook tells of the payment",
        faults=(Fault(service="stripe", kind="lose_webhook", match_by="job_id", params={"times": None}),),
    ),
    Case(
        name="lost-upsampler-webhook",
        resolution="4x",
        photo="coffee-512.webp",
        expected="delivered",
        words="no webhook tells of the result",
        faults=_result("lose_webhook"),
    ),
    Case(
        name="source-swapped",
        resolution="4x",
        photo="gravel-333.jpg",  # no other order has this path: the origin swaps by path
        expected="refunded",
        words="the image became a GIF after the order",
        faults=(Fault(service="origin", kind="swap", match_by="path", params={"content": "gif"}),),
        mail_says="not in a format",
    ),
    Case(
        name="upscale-fails",
        resolution="8x",
        photo="grass-200.jpg",
        expected="refunded",
        words="Upsampler fails",
        faults=_result("fail", error="The model ran out of memory"),
        mail_says="could not process",
    ),
    Case(
        name="wrong-dimensions",
        resolution="4x",
        photo="coffee-400.jpg",
        expected="refunded",
        words="the result is 16 pixels too small",
        faults=_result("wrong_dimensions"),
        mail_says=_CHECKED,
    ),
    Case(
        name="truncated",
        resolution="8x",
        photo="astronaut-200.png",
        expected="refunded",
        words="the result ends in the middle",
        faults=_result("truncated"),
        mail_says=_CHECKED,
    ),
    Case(
        name="bit-flipped",
        resolution="4x",
        photo="chelsea-400.jpg",
        expected="refunded",
        words="some bits of the result are flipped",
        faults=_result("bit_flip"),
        mail_says=_CHECKED,
    ),
    Case(
        name="black-tile",
        resolution="4x",
        photo="astronaut-400.png",
        expected="refunded",
        words="one tile of the result is black",
        faults=_result("black_tile"),
        mail_says=_CHECKED,
    ),
    Case(
        name="webhook-three-times",
        resolution="8x",
        photo="retina-300.png",
        expected="delivered",
        words="every webhook comes three times",
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
        words="Upsampler first answers 429",
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
        words="the mail server first answers 451",
        faults=(Fault(service="mail", kind="code", match_by="to", params={"code": 451, "at": "RCPT"}),),
    ),
)
"""Everything that goes wrong, the slowest first."""

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
    Case(name=f"good-{resolution}", resolution=resolution, photo=photo, expected="delivered", words="all goes well")
    for resolution, photo in _GOOD_PHOTOS
)
"""What mostly happens: PNG, JPEG and WebP, colour, grey and transparent, of several sizes."""

BY_NAME = {case.name: case for case in (*GOOD, *SPECIAL)}
"""Cases of one name differ in nothing but their photograph."""

MINIMUM_JOBS = len(SPECIAL) + 2  # every special case, a good 4x and a good 8x


def cases(jobs: int) -> list[Case]:
    """`jobs` cases: every special one, and good ones in between. Raises ValueError below `MINIMUM_JOBS`."""
    if jobs < MINIMUM_JOBS:
        raise ValueError(f"the demo needs at least {MINIMUM_JOBS} jobs to show every case, not {jobs}")
    good = list(islice(cycle(GOOD), jobs - len(SPECIAL)))
    mixed: list[Case] = []
    for special in SPECIAL:
        mixed += [special, *good[:1]]
        del good[:1]
    return mixed + good
