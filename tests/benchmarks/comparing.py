"""What was measured, beside what it is compared with and what is aimed at."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Comparison:
    """Ours beside the bare thing, one number a round each.

    `aim_least` and `aim_most` bound the ratio, `aim_more` the difference; without any of them it
    is for information.
    """

    what: str
    unit: str
    ours: Sequence[float]
    bare: Sequence[float]
    bare_is: str
    aim_least: float | None = None
    aim_most: float | None = None
    aim_more: float | None = None

    @property
    def ratio(self) -> float:
        """Ours over the bare thing's: the median of the rounds' ratios, since what else a machine
        does weighs on both sides of a round alike."""
        return median(ours / bare for ours, bare in zip(self.ours, self.bare, strict=True))

    @property
    def row(self) -> tuple[str, ...]:
        """A line of the table."""
        return (
            self.what,
            _number(median(self.ours)) + f" {self.unit}",
            f"{_number(median(self.bare))} {self.unit}, {self.bare_is}",
            f"{self.ratio:.2f}",
            self._aim(),
            self._verdict(),
        )

    @property
    def figures(self) -> dict[str, Any]:
        """What the JSON file has of it."""
        medians = {"ours_median": median(self.ours), "bare_median": median(self.bare)}
        return asdict(self) | medians | {"ratio": self.ratio, "verdict": self._verdict()}

    def _aim(self) -> str:
        if self.aim_least is not None:
            return f">= {self.aim_least:g}"
        if self.aim_more is not None:
            return f"<= {self.aim_more:g} {self.unit} more"
        return "" if self.aim_most is None else f"<= {self.aim_most:g}"

    def _verdict(self) -> str:
        if self.aim_least is not None:
            met = self.ratio >= self.aim_least
        elif self.aim_most is not None:
            met = self.ratio <= self.aim_most
        elif self.aim_more is not None:
            met = median(self.ours) - median(self.bare) <= self.aim_more
        else:
            return ""
        return "met" if met else "missed"


_TITLES = ("measured", "ours", "beside", "ratio", "aim", "")


def table(comparisons: Sequence[Comparison]) -> str:
    """All of them, a line each."""
    rows = [_TITLES, *(comparison.row for comparison in comparisons)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)
    return "\n".join(lines)


def _number(number: float) -> str:
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"
