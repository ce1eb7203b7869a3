"""Figures as inline SVG: axes, points, lines, bars. Knows numbers and HTML; nothing of sweeps."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from math import log10
from typing import Any

WIDTH, HEIGHT = 640, 240
LEFT, RIGHT, TOP, BOTTOM = 64, 16, 12, 34


@dataclass(frozen=True)
class Axis:
    """Values to a length of the figure."""

    low: float
    high: float
    is_log: bool = False

    def at(self, value: float) -> float:
        """Where a value lies, from 0 to 1."""
        low, high, value = (log10(each) if self.is_log else each for each in (self.low, self.high, value))
        return 0.5 if high == low else (value - low) / (high - low)

    @property
    def ticks(self) -> list[float]:
        """Five values, evenly spread."""
        parts = [number / 4 for number in range(5)]
        if self.is_log:
            return [self.low * (self.high / self.low) ** part for part in parts]
        return [self.low + (self.high - self.low) * part for part in parts]


def axis_of(values: Sequence[float], is_log: bool = False) -> Axis:
    """An axis on which the values find room."""
    low, high = min(values), max(values)
    margin = 0.0 if is_log else 0.05 * (high - low)
    return Axis(low - margin, high + margin, is_log)


def x(axis: Axis, value: float) -> float:
    """From the left of a figure."""
    return LEFT + axis.at(value) * (WIDTH - LEFT - RIGHT)


def y(axis: Axis, value: float) -> float:
    """From the top of a figure."""
    return HEIGHT - BOTTOM - axis.at(value) * (HEIGHT - TOP - BOTTOM)


def figure(parts: Sequence[str], across: Axis, up: Axis, names: tuple[str, str]) -> str:
    """Marks between two axes with their names."""
    lines = [
        f"<line class=grid x1={LEFT} x2={WIDTH - RIGHT} y1={y(up, tick):.1f} y2={y(up, tick):.1f} />"
        f"<text class=n x={LEFT - 6} y={y(up, tick) + 4:.1f}>{shown(tick)}</text>"
        for tick in up.ticks
    ]
    below = [f"<text class=m x={x(across, tick):.1f} y={HEIGHT - 18}>{shown(tick)}</text>" for tick in across.ticks]
    titles = (
        f"<text class=m x={(LEFT + WIDTH - RIGHT) / 2} y={HEIGHT - 3}>{escape(names[0])}</text>"
        f"<text x={LEFT} y={TOP - 2} class=t>{escape(names[1])}</text>"
    )
    return svg([*lines, *below, titles, *parts])


def svg(parts: Sequence[str], width: float = WIDTH, height: float = HEIGHT) -> str:
    """A drawing."""
    return f"<svg viewBox='0 -8 {width:g} {height + 8:g}'>{''.join(parts)}</svg>"


def dot(at: tuple[float, float], told: str, kind: str = "") -> str:
    """A point that says what it is when it is pointed at."""
    return f"<circle class='{kind}' cx={at[0]:.1f} cy={at[1]:.1f} r=4><title>{escape(told)}</title></circle>"


def line(points: Sequence[tuple[float, float]], kind: str = "", told: str = "", style: str = "") -> str:
    """A line through points."""
    path = " ".join(f"{across:.1f},{up:.1f}" for across, up in points)
    title = f"<title>{escape(told)}</title>" if told else ""
    return f"<polyline class='{kind}' points='{path}' style='{style}'>{title}</polyline>"


def text(at: tuple[float, float], words: str, kind: str = "") -> str:
    """Words at a place."""
    return f"<text class='{kind}' x={at[0]:.1f} y={at[1]:.1f}>{escape(words)}</text>"


def bars(shares: Sequence[tuple[str, float]]) -> str:
    """Names with bars, each a share of one."""
    return "".join(
        f"<div>{escape(name)} <span class=sub>{share:.1%}</span></div>"
        f"<div class=bar><i style='width:{100 * share:.2f}%'></i></div>"
        for name, share in shares
    )


def shown(value: Any) -> str:
    """A number in few digits; anything else as it is."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
