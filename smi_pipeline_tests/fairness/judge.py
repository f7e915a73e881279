"""What the sandbox's ledger says about the order of the starts, and about how much of the allowance was used."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

UNDER_WAY_SECONDS = 2.0
"""Calls that were on their way when the first 429 came may be refused, too."""


@dataclass(frozen=True, kw_only=True)
class Starts:
    """The starts as the API saw them."""

    started: int
    most_places_off: int
    used_percent: float
    refused: int
    refused_later: int


def judge(ledger: Mapping[str, Any], paid: Sequence[str], *, per_minute: int, minute: float = 60.0) -> Starts:
    """Compare the ledger of Upsampler with the addresses of the images in the order of their payments. The allowance
    used is that of the whole minutes since the first start, during which jobs waited."""
    calls = [line for line in ledger["requests"] if line["method"] == "POST"]
    refusals = sorted(line["at"] for line in calls if line["status"] == 429)
    accepted = sorted(ledger["submissions"], key=lambda line: line["at"])
    started = {line["image_url"] for line in accepted}
    places = {url: place for place, url in enumerate(url for url in paid if url in started)}
    off = [abs(place - places[line["image_url"]]) for place, line in enumerate(accepted)]
    times = [line["at"] for line in accepted]
    minutes = int((times[-1] - times[0]) // minute)
    within = sum(at < times[0] + minutes * minute for at in times)
    return Starts(
        started=len(accepted),
        most_places_off=max(off),
        used_percent=round(100 * within / (minutes * per_minute), 1) if minutes else 100.0,
        refused=len(refusals),
        refused_later=sum(at > refusals[0] + UNDER_WAY_SECONDS for at in refusals),
    )
