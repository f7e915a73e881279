"""The kill matrix as data: which process dies where, how often, and in which waves.

A case is one failpoint, the process that passes it, and the victim: the passing process itself, which kills itself
there, or another one, which is killed while the passing process waits at the point.
"""

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from smi_pipeline.failpoints import CALLS
from smi_pipeline_tests.chaos.recipes import (
    FINAL,
    GATEWAY,
    NEAR_MONEY,
    NOT_KILLED,
    PASSED_BY,
    PRIORITY,
    SENSORS,
    WORKER,
)

ITSELF = "itself"
VICTIMS = ("daemon", SENSORS, GATEWAY, "postgres")
REPEATS, FULL_REPEATS = 3, 20

_PER_WAVE = {WORKER: 12, PRIORITY: 5, GATEWAY: 7, SENSORS: 6}
"""Deaths of each process in one wave: an order may die four times before it is set aside."""


@dataclass(frozen=True, kw_only=True)
class Kill:
    """One cell of the matrix, once. `recipe` is the order that passes the point."""

    point: str
    process: str
    victim: str
    recipe: str
    repeat: int = 1

    @property
    def armed(self) -> str:
        """Name of the file that arms it."""
        return f"{self.point}@{self.process}"

    @property
    def name(self) -> str:
        """What `--only` takes."""
        return self.armed if self.victim == ITSELF else f"{self.armed}/{self.victim}"


@dataclass(frozen=True, kw_only=True)
class Wave:
    """Kills that share one set of orders. `victim`: who is killed while others wait; `itself` if nobody does."""

    number: int
    victim: str
    kills: tuple[Kill, ...]
    final: bool = False


def matrix(repeats: int = REPEATS) -> list[Kill]:
    """Every point with each process that passes it as its own victim, those near money `repeats` times; and every
    point with every other victim, once, while the first of its processes waits there."""
    kills = []
    for call in CALLS:
        passed_by = PASSED_BY.get(call, {})
        for moment in ("before", "after"):
            point = f"{call}.{moment}"
            for process, recipe in passed_by.items():
                often = repeats if call in NEAR_MONEY else 1
                kills += [
                    Kill(point=point, process=process, victim=ITSELF, recipe=recipe, repeat=repeat)
                    for repeat in range(1, often + 1)
                ]
            for process, recipe in list(passed_by.items())[:1]:
                if recipe not in FINAL:
                    kills += [
                        Kill(point=point, process=process, victim=victim, recipe=recipe)
                        for victim in VICTIMS
                        if victim != process
                    ]
    return kills


def waves(kills: Sequence[Kill], seed: int) -> list[Wave]:
    """The kills in a random but repeatable order, grouped by victim, the final recipes last."""
    shuffled = list(kills)
    random.Random(seed).shuffle(shuffled)
    grouped: list[tuple[str, bool, list[Kill]]] = []
    for victim in (ITSELF, *VICTIMS):
        of_victim = [kill for kill in shuffled if kill.victim == victim]
        for final in (False, True):
            left = [kill for kill in of_victim if (kill.recipe in FINAL) == final]
            while left:
                taken = _some(left, 1 if victim == ITSELF else 3)
                left = [kill for kill in left if kill not in taken]
                grouped.append((victim, final, taken))
    grouped.sort(key=lambda group: group[1])
    return [
        Wave(number=number, victim=victim, kills=tuple(taken), final=final)
        for number, (victim, final, taken) in enumerate(grouped, start=1)
    ]


def _some(left: Iterable[Kill], factor: int) -> list[Kill]:
    """As many as one wave can bear, no point twice."""
    taken: list[Kill] = []
    for kill in left:
        of_process = sum(other.process == kill.process for other in taken)
        if of_process < _PER_WAVE[kill.process] * factor and all(other.armed != kill.armed for other in taken):
            taken.append(kill)
    return taken


def unlisted() -> list[str]:
    """Failpoints that no process of the matrix passes."""
    return [call for call in CALLS if call not in PASSED_BY]


def surprises(passed: Iterable[str]) -> list[str]:
    """`CALL@PROCESS` that were seen to be passed (`POINT@PROCESS`) and are neither in the matrix nor known."""
    known = {(call, process) for call, processes in PASSED_BY.items() for process in processes} | NOT_KILLED.keys()
    seen = {(point.rpartition(".")[0], process) for point, _, process in (name.partition("@") for name in passed)}
    return sorted(f"{call}@{process}" for call, process in seen - known)
