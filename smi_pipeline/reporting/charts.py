"""Draw charts as SVG text, which needs no library, prints sharply and fits a phone.

All are 400 units wide with text of 12, so that they are legible on a screen of 390 pixels.
"""

from base64 import b64encode
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from math import floor, log10

WIDTH = 400
_INK, _QUIET, _LINE, _TRACK = "#22313f", "#5d6b78", "#d9dee4", "#f2f4f6"
GAIN, LOSS, DARK, NEUTRAL, TOTAL = "#2a9d8f", "#e76f51", "#9b2226", "#c9cdd3", "#457b9d"
_TICKS = (0.001, 0.01, 0.1, 1, 10, 60, 600, 3600, 36_000, 360_000)


@dataclass(frozen=True)
class Bar:
    """A horizontal bar from `start` to `start + size`, labelled with `name` and `words`."""

    name: str
    size: float
    words: str
    colour: str = TOTAL
    start: float = 0


@dataclass(frozen=True)
class Range:
    """The distribution of a value: `marks` of (name, value) in ascending order, above 0."""

    name: str
    marks: Sequence[tuple[str, float]]
    words: str
    colour: str = GAIN


def _text(x: float, y: float, words: str, *, anchor: str = "start", colour: str = _INK, bold: bool = False) -> str:
    weight = ' font-weight="600"' if bold else ""
    halo = 'stroke="#fff" stroke-width="3"'  # keeps lines away from the text
    place = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"'
    return f'<text {place} fill="{colour}" {halo}{weight}>{escape(words)}</text>'


def _rect(x: float, y: float, width: float, height: float, colour: str) -> str:
    return f'<rect x="{x:.1f}" y="{y:.1f}" width="{max(width, 0.8):.1f}" height="{height:.1f}" fill="{colour}"/>'


def _line(x: float, top: float, bottom: float, colour: str, more: str = "") -> str:
    return f'<path d="M{x:.1f} {top}V{bottom}" stroke="{colour}" stroke-width="1.2"{more}/>'


def _svg(title: str, height: float, parts: Sequence[str]) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0f}" role="img" '
        f'aria-label="{escape(title)}" font-family="system-ui, sans-serif" font-size="12" '
        f'paint-order="stroke" stroke-linejoin="round">{"".join(parts)}</svg>'
    )


def bars(title: str, rows: Sequence[Bar]) -> str:
    """Draw horizontal bars, one below the other, with their labels above them, so that no labels overlap."""
    edges = [0.0, *(row.start for row in rows), *(row.start + row.size for row in rows)]
    low, high = min(edges), max(edges)
    scale = (WIDTH - 2) / ((high - low) or 1)
    parts = []
    for place, row in enumerate(rows):
        y = place * 34
        left = min(row.start, row.start + row.size)
        parts += [
            _text(1, y + 13, row.name),
            _text(WIDTH - 1, y + 13, row.words, anchor="end", bold=True),
            _rect(1, y + 18, WIDTH - 2, 9, _TRACK),
        ]
        if row.size:
            parts.append(_rect(1 + (left - low) * scale, y + 18, abs(row.size) * scale, 9, row.colour))
        if low < 0:  # the zero line crosses the bars, not the labels
            parts.append(_line(1 - low * scale, y + 16, y + 29, _INK))
    return _svg(title, len(rows) * 34, parts)


def columns(
    title: str,
    labels: Sequence[str],
    series: Sequence[tuple[str, str, Sequence[float]]],
    *,
    newest: str = "",
    limit: tuple[str, float] | None = None,
) -> str:
    """Draw stacked columns of `series` (name, colour, values), each with a label below, the last with `newest` above.

    `limit` (name, value) draws a line and a legend. Return "" when all values are zero."""
    sums = [sum(values) for values in zip(*(values for _, _, values in series), strict=True)]
    if not any(sums):
        return ""
    highest = _round_up(max([*sums, limit[1] if limit else 0]))
    top, base, left, right = 20, 160, 34, WIDTH - 8
    step = min((right - left) / max(len(labels), 1), 60.0)
    parts = []
    for share in (0, 0.5, 1):
        y = base - (base - top) * share
        parts.append(f'<path d="M{left} {y:.1f}H{WIDTH}" stroke="{_LINE}" stroke-width="1"/>')
        if share != 0.5 or highest > 1:  # no half jobs
            parts.append(_text(left - 5, y + 4, _short(highest * share), anchor="end", colour=_QUIET))
    for place, label in enumerate(labels):
        x, level = left + place * step, 0.0
        for _, colour, values in series:
            height = values[place] / highest * (base - top)
            if values[place]:
                parts.append(_rect(x + step * 0.14, base - level - height, step * 0.72, height, colour))
            level += height
        # as many labels as fit, counted from the newest
        if (len(labels) - 1 - place) % max(1, round(44 / step + 0.49)) == 0:
            anchor, at = ("end", WIDTH) if x + step / 2 > WIDTH - 21 else ("middle", x + step / 2)
            parts.append(_text(at, base + 16, label, anchor=anchor, colour=_QUIET))
    if newest:
        anchor, at = ("end", WIDTH) if x + step > WIDTH - 20 else ("middle", x + step / 2)
        near = sums[max(0, len(sums) - 2 - int(44 / step)) :]  # the columns below this text
        y = base - max(near) / highest * (base - top) - 5
        parts.append(_text(at, y, newest, anchor=anchor, bold=True))
    x = float(left)
    shown = [(name, colour) for name, colour, values in series if any(values)] if len(series) > 1 else []
    for name, colour in shown:
        parts += [_rect(x, base + 26, 10, 10, colour), _text(x + 14, base + 35, name)]
        x += 30 + 7 * len(name)
    if limit:
        y = base - limit[1] / highest * (base - top)
        for start, end, at in ((left, WIDTH, y), (x, x + 18, base + 31)):
            dashes = f'stroke="{_INK}" stroke-width="1.2" stroke-dasharray="5 3"'
            parts.append(f'<path d="M{start:.1f} {at:.1f}H{end:.1f}" {dashes}/>')
        parts.append(_text(x + 23, base + 35, limit[0]))
    return _svg(title, base + (42 if shown or limit else 22), parts)


def _round_up(value: float) -> float:
    """Return the next axis maximum of 1, 2, 3, 4, 5, 6, 8, 10, 20 …"""
    power = 10.0 ** floor(log10(value))
    return next(step * power for step in (1, 2, 3, 4, 5, 6, 8, 10) if step * power >= value * 0.9999)


def _short(value: float) -> str:
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g}{letter}"
    return f"{value:.3g}"


def ranges(title: str, rows: Sequence[Range], limit: tuple[str, float], tick: Callable[[float], str]) -> str:
    """Draw each row from its smallest to its largest mark on one logarithmic scale, with a line at the `limit`."""
    values = [value for row in rows for _, value in row.marks]
    low, high = min(*values, limit[1]) / 1.3, max(*values, limit[1]) * 1.6
    scale = (WIDTH - 20) / log10(high / low)
    bottom = len(rows) * 40 + 2

    def place(value: float) -> float:
        return 10 + log10(value / low) * scale

    parts, ticks = [], list[float]()
    nearest = -60.0
    for value in _TICKS:
        if low <= value <= high and place(value) - nearest >= 44:
            nearest = place(value)
            ticks.append(nearest)
            anchor = "end" if nearest > WIDTH - 30 else "start" if nearest < 30 else "middle"
            parts.append(_text(nearest, bottom + 12, tick(value), anchor=anchor, colour=_QUIET))
    x = place(limit[1])
    for number, row in enumerate(rows):
        y = number * 40
        first, last = place(row.marks[0][1]), place(row.marks[-1][1])
        parts += [
            _text(1, y + 14, row.name),
            _text(WIDTH - 1, y + 14, row.words, anchor="end", bold=True),
            _rect(1, y + 19, WIDTH - 2, 15, _TRACK),
            *(_line(at, y + 19, y + 34, _LINE) for at in ticks),
            _line(x, y + 19, y + 34, LOSS, ' stroke-dasharray="3 1.5"'),
            f'<rect x="{first:.1f}" y="{y + 22}" width="{max(last - first, 1):.1f}" height="9" rx="4.5" '
            f'fill="{row.colour}" opacity="0.35"/>',
            *(
                f'<circle cx="{place(value):.1f}" cy="{y + 26.5}" r="4" fill="{row.colour}"><title>{escape(name)}: '
                f"{escape(tick(value))}</title></circle>"
                for name, value in row.marks
            ),
        ]
    marks = ", ".join(name for name, _ in rows[0].marks)
    parts += [
        *(f'<circle cx="{at}" cy="{bottom + 26}" r="4" fill="{GAIN}"/>' for at in (5, 15)),
        _text(24, bottom + 30, marks, colour=_QUIET),
        _text(WIDTH - 1, bottom + 30, limit[0], anchor="end", colour=_QUIET),
        _line(WIDTH - 8 - 6.6 * len(limit[0]), bottom + 19, bottom + 33, LOSS, ' stroke-dasharray="3 1.5"'),
    ]
    return _svg(title, bottom + 36, parts)


def tiny(values: Sequence[float | None], ends: tuple[str, str]) -> str:
    """Return a row of columns as a data URL of less than 900 characters, as Dagster hides Markdown of over 1,000.

    The last column is highlighted, None leaves a gap, `ends` are the labels of the first and the last column."""
    shown = values[-14:]
    low, high = min([0, *(v for v in shown if v is not None)]), max([0, *(v for v in shown if v is not None)])
    scale = 44 / ((high - low) or 1)
    zero = 46 + low * scale

    def path(places: Sequence[int]) -> str:
        tops = ((place, shown[place]) for place in places)
        return "".join(f"M{place * 17 + 7} {zero:.0f}v{-(v * scale or 1):.0f}" for place, v in tops if v is not None)

    last = max(len(shown) - 1, 0)
    words = f'<text y="58">{escape(ends[0])}</text>' if last > 3 else ""
    anchor, x = ("end", last * 17 + 14) if last > 1 else ("start", last * 17)
    svg = (
        '<svg xmlns="http://www.w3.org/2000/svg" width="238" height="60" font-size="11" font-family="sans-serif">'
        f'<g stroke-width="13"><path stroke="#a9b4bf" d="{path(range(last))}"/>'
        f'<path stroke="{GAIN}" d="{path(range(last, len(shown)))}"/></g>'
        f'<g fill="#777">{words}<text x="{x}" y="58" text-anchor="{anchor}">{escape(ends[1])}</text></g></svg>'
    )
    return "data:image/svg+xml;base64," + b64encode(svg.encode()).decode()
