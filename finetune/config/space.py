"""What a sweep varies, read in Hydra's override grammar: each key with its choices, or its interval.

Knows the grammar, and no sampler. Loads no torch.
"""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override, Quote, QuotedString, RangeSweep, ValueType
from hydra.errors import HydraException

from finetune.config import written
from finetune.config.origin import COMMAND_LINE, nearest_origin
from finetune.config.provenance import leaves
from finetune.errors import ConfigError, Problem

FORMS = "Write choice(a,b), range(1,9,2), interval(0,0.3), tag(log,interval(1e-5,1e-3)) or int(interval(1,64))"
SWEEPING = re.compile(r"=\s*(choice|range|interval|tag|shuffle|sort|glob)\s*\(|=\s*(int|float|str)\s*\(\s*interval")
Value = str | int | float


@dataclass(frozen=True)
class Choices:
    """A key and the values it may take, each as an override writes it."""

    key: str
    where: str
    values: tuple[Value, ...]

    @property
    def ends(self) -> tuple[Value, ...]:
        """The values that stand for all."""
        return self.values


@dataclass(frozen=True)
class Interval:
    """A key and the ends of the numbers it may take."""

    key: str
    where: str
    low: float
    high: float
    is_log: bool = False
    is_whole: bool = False
    step: int = 1
    """Between whole numbers."""

    @property
    def ends(self) -> tuple[Value, ...]:
        """The smallest and the largest value."""
        return (self.low, self.high)

    @property
    def values(self) -> Sequence[Value] | None:
        """Every value, where they can be counted."""
        return range(int(self.low), int(self.high) + 1, self.step) if self.is_whole else None


Dimension = Choices | Interval


@dataclass(frozen=True)
class Space:
    """Everything that is varied."""

    dimensions: tuple[Dimension, ...]

    @property
    def size(self) -> float:
        """How many points there are; infinite where numbers are not whole."""
        return math.prod(math.inf if each.values is None else len(each.values) for each in self.dimensions)

    def words(self, point: Mapping[str, Value]) -> list[str]:
        """A point as overrides."""
        return [f"{each.key}={point[each.key]}" for each in self.dimensions]


def split(arguments: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """The overrides that are fixed, as they were typed, and those that name several values: key to text."""
    fixed, swept = [], {}
    for text in arguments:
        key, _, value = text.partition("=")
        if _names_several(text):
            swept[key.lstrip("+")] = value
        else:
            fixed.append(text)
    return fixed, swept


def _names_several(text: str) -> bool:
    if written.oversized(text):
        return False
    try:
        return OverridesParser.create().parse_override(text).is_sweep_override()
    except HydraException:
        return bool(SWEEPING.search(text))


def read(
    typed: Mapping[str, str], recipe: Mapping[str, Any], origins: Mapping[str, str], fixed: Sequence[str]
) -> Space:
    """The space of the command line and the recipe; what is typed wins, also where it is one value.

    Args:
        typed: key to text, of the command line.
        recipe: `sweep.space` of the recipe, by dotted keys or nested.
        origins: dotted key to the place it was written.
        fixed: the overrides of the command line that name one value.
    Raises:
        ConfigError: every key whose values cannot be read.
    """
    held = {text.partition("=")[0].lstrip("+~") for text in fixed}
    of_recipe = {key: value for key, value in leaves(recipe) if key not in held}
    texts = {
        key: (_text(value), nearest_origin(f"sweep.space.{key}", dict(origins))) for key, value in of_recipe.items()
    }
    texts |= {key: (value, COMMAND_LINE) for key, value in typed.items()}
    dimensions, problems = [], []
    for key, (text, where) in texts.items():
        try:
            dimensions.append(_dimension(key, text, where))
        except _Unusable as reason:
            problems.append(Problem(key, where, *reason.args))
    if problems:
        raise ConfigError(problems)
    return Space(tuple(dimensions))


def _text(value: Any) -> str:
    """A list of a recipe is a choice; of its texts, those that say more than a word are quoted."""
    if not isinstance(value, list):
        return str(value)
    return f"choice({','.join(Override._get_value_element_as_str(_quotable(item)) for item in value)})"


def _quotable(item: Any) -> Any:
    if isinstance(item, dict):
        return {key: _quotable(value) for key, value in item.items()}
    if isinstance(item, list):
        return [_quotable(value) for value in item]
    return QuotedString(item, Quote.double) if isinstance(item, str) and not re.fullmatch(r"[\w./-]+", item) else item


class _Unusable(Exception):
    """Why values cannot be swept, and what to write."""


def _dimension(key: str, text: str, where: str) -> Dimension:
    if reason := written.oversized(f"{key}={text}"):
        raise _Unusable(f"is refused: {reason}.", "")
    try:
        override = OverridesParser.create().parse_override(f"{key}={text}")
    except HydraException as error:
        raise _Unusable(f"{_short(text)} cannot be read: {_reason(error)}.", FORMS) from None
    if override.value_type == ValueType.GLOB_CHOICE_SWEEP:
        raise _Unusable(f"{_short(text)} names nothing by itself.", "Write the options: choice(a,b)")
    if not override.is_sweep_override():
        raise _Unusable(f"{_short(text)} is one value.", f"{FORMS}. One value is an ordinary key of the recipe")
    value: Any = override.value()
    if isinstance(value, IntervalSweep):
        return _interval(key, where, text, value)
    if isinstance(value, RangeSweep) and all(isinstance(part, int) for part in (value.start, value.stop, value.step)):
        return _whole_range(key, where, text, value)
    return _choices(key, where, text, override)


def _interval(key: str, where: str, text: str, value: IntervalSweep) -> Interval:
    low, high = value.start, value.end
    if low is None or high is None or not math.isfinite(low) or not math.isfinite(high):
        raise _Unusable(f"{_short(text)} has no end.", FORMS)
    if low >= high:
        raise _Unusable(
            f"{_short(text)} is empty: {low:g} is not below {high:g}.", f"Write interval({high:g},{low:g})"
        )
    if strange := value.tags - {"log"}:
        raise _Unusable(f"{_short(text)} is tagged {', '.join(sorted(strange))}.", "The one tag is log")
    if "log" in value.tags and low <= 0:
        raise _Unusable(
            f"{_short(text)} begins at {low:g}, which has no logarithm.", "Begin above 0, or leave tag(log, …) out"
        )
    return Interval(key, where, low, high, "log" in value.tags, isinstance(low, int) and isinstance(high, int))


def _whole_range(key: str, where: str, text: str, value: RangeSweep) -> Dimension:
    numbers = sorted(value.range())
    if not numbers:
        raise _Unusable(f"{_short(text)} is empty.", "Write range(start,stop,step); stop is left out")
    return Interval(key, where, numbers[0], numbers[-1], is_whole=True, step=abs(int(value.step)))


def _choices(key: str, where: str, text: str, override: Override) -> Choices:
    values: tuple[Value, ...] = tuple(_plain(each) for each in override.sweep_string_iterator())
    if override.is_range_sweep():
        # Adding 0.1 leaves a trace in the last digits.
        values = tuple(float(f"{value:.12g}") for value in values)
    if not values:
        raise _Unusable(f"{_short(text)} is empty.", FORMS)
    if twice := next((value for at, value in enumerate(values) if value in values[:at]), None):
        raise _Unusable(f"{_short(text)} names {twice} twice.", "Leave one of them.")
    return Choices(key, where, values)


def _plain(text: str) -> Value:
    """A number as a number, and everything else as an override writes it."""
    for kind in (int, float):
        try:
            number = kind(text)
        except ValueError:
            continue
        return number if str(number) == text else text
    return text


def _short(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:57]}…"


def _reason(error: HydraException) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    first = lines[0] if lines else type(error).__name__
    return re.sub(r"^\w+ while evaluating '.*?': ", "", first).rstrip(".:")


def representatives(space: Space, most: int) -> Iterator[dict[str, Value]]:
    """Points to plan before anything is trained.

    Every point where there are at most `most`; else the first values of all keys, and each other value of each key
    beside the first ones of the others.
    """
    if space.size <= most:
        yield from every(space)
        return
    first = {each.key: each.ends[0] for each in space.dimensions}
    yield first
    for each in space.dimensions:
        yield from ({**first, each.key: value} for value in each.ends[1:])


def every(space: Space) -> Iterator[dict[str, Value]]:
    """Every point of a space that can be counted; the last key varies fastest."""
    keys = [each.key for each in space.dimensions]
    for values in product(*(each.values or () for each in space.dimensions)):
        yield dict(zip(keys, values, strict=True))
