"""The whole matrix, wave by wave, with the random part, the measurement of recovery, and a judgement over all."""

from collections.abc import Callable
from dataclasses import dataclass

from smi_pipeline.demo.evidence import collect
from smi_pipeline_tests.chaos import cases, recovery, waves
from smi_pipeline_tests.chaos.arena import Arena
from smi_pipeline_tests.chaos.report import Report
from smi_pipeline_tests.chaos.verdict import judge

RANDOM_SECONDS, RANDOM_ROUNDS = 60.0, 3
RECOVERY_ROUNDS = 4


@dataclass(frozen=True, kw_only=True)
class Options:
    """What is run. `only` names cells, `victims` parts; both empty: all."""

    seed: int = 1
    only: tuple[str, ...] = ()
    victims: tuple[str, ...] = ()
    repeats: int = cases.REPEATS


def chosen(options: Options) -> list[cases.Kill]:
    """The kills that the options name."""
    kills = cases.matrix(options.repeats)
    if options.only:
        wanted = options.only
        kills = [kill for kill in kills if {kill.point, kill.armed, kill.name} & set(wanted)]
        if all("/" not in name for name in wanted):
            kills = [kill for kill in kills if kill.victim == cases.ITSELF or kill.point in wanted]
    if options.victims:
        kills = [kill for kill in kills if kill.victim in options.victims]
    return kills


def carry_through(arena: Arena, options: Options, report: Report, say: Callable[[str], None]) -> None:
    """Runs what the options name and fills the report as it goes."""
    planned = cases.waves(chosen(options), options.seed)
    ordinary = [wave for wave in planned if not wave.final]
    for wave in ordinary:
        _one(arena, wave, options, report, say, len(planned))
    if _asked_for(options, "random"):
        for round_ in range(1, RANDOM_ROUNDS + 1):
            result = waves.at_random(arena, options.seed * 1000 + round_, RANDOM_SECONDS)
            report.add(result, f"random part {round_}")
            say(report.line(result, f"random part {round_}"))
    if _asked_for(options, "recovery"):
        for round_ in range(1, RECOVERY_ROUNDS + 1):
            result, seconds = recovery.measure(arena, round_)
            report.recovered += seconds
            report.add(result, f"recovery {round_}")
            say(report.line(result, f"recovery {round_}: {', '.join(f'{s:.1f}' for s in sorted(seconds))}"))
    for wave in planned:
        if wave.final:
            _one(arena, wave, options, report, say, len(planned))
    report.passed = sorted(path.name for path in (arena.failpoints / "passed").iterdir())
    report.deaths = len(arena.deaths)
    report.outcomes["mail sent anew by a person"] = len(arena.sent_anew)
    everybody = [guest for guest in arena.memory.orders if guest.paid_at is not None]
    verdict = judge(
        everybody,  # type: ignore[arg-type]
        collect(arena.shop, arena.memory),
        arena.now(),
        ambiguous=None,
        everybody=everybody,  # type: ignore[arg-type]
    )
    report.violations += [f"at the end: {what}" for what in verdict.violations]
    if not options.only and not options.victims:
        report.violations += [f"no process of the matrix passes {call}" for call in cases.unlisted()]
    report.violations += [f"{name} is passed, but not in the matrix" for name in cases.surprises(report.passed)]


def _asked_for(options: Options, part: str) -> bool:
    return not options.only and (not options.victims or part in options.victims)


def _one(
    arena: Arena, wave: cases.Wave, options: Options, report: Report, say: Callable[[str], None], count: int
) -> None:
    result = waves.run(arena, wave, options.seed)
    name = f"wave {wave.number} of {count}, victim {wave.victim}"
    report.add(result, name)
    say(report.line(result, name))
