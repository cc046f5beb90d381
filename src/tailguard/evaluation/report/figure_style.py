"""How figures look: one colour per policy on every figure, a canvas without global state."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple, TypeAlias, cast

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import TextToPath
from matplotlib.ticker import NullFormatter

from tailguard.evaluation.record import Row
from tailguard.risk.checks import Values, to_array

# Matplotlib's stubs leave keyword arguments untyped: its figures and axes are Any here only.
Canvas: TypeAlias = Any
Panel: TypeAlias = Any

_BASE_COLOUR = "#444444"
# Okabe & Ito's colours that read on white, then four of Tol's.
_COLOURS = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#8C6D00",
    "#56B4E9",
    "#882255",
    "#44AA99",
    "#999933",
    "#332288",
)
_MARKERS = {"base": "s", "dial": "D"}
_LINES = {"dial": "--"}
_DOTS_PER_INCH = 160  # 1120 pixels: sharp on the page, which shows figures at 46 rem or less
_WIDTH_INCHES = 7.0


class Room(NamedTuple):
    """How wide a line of a name may be, and its type."""

    inches: float
    points: float


# A legend of one column may be as wide as the figure, a title as wide as one panel of two; names at
# the left of the panels must leave room for both.
LEGEND_ROOM = Room(inches=6.2, points=9.0)
TITLE_ROOM = Room(inches=2.9, points=10.5)
TICK_ROOM = Room(inches=2.0, points=10.0)
_TO_PATH: Canvas = TextToPath()

SETTINGS = {
    "font.size": TICK_ROOM.points,
    "axes.titlesize": TITLE_ROOM.points,
    "axes.labelsize": 10.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#666666",
    "axes.grid": True,
    "grid.color": "#e3e3e3",
    "grid.linewidth": 0.7,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "legend.fontsize": LEGEND_ROOM.points,
    "text.parse_math": False,  # a policy's name may hold a $, which would start a formula
    "figure.constrained_layout.use": True,
    "figure.constrained_layout.h_pad": 0.08,
    "figure.constrained_layout.w_pad": 0.06,
}


@dataclass(frozen=True)
class Look:
    """How one policy is drawn, on every figure.

    Attributes:
        colour: its own; grey for the base.
        marker: square for the base, disc for trained ones, diamond for limits of the dial.
        line: solid but for limits of the dial.
    """

    colour: str
    marker: str
    line: str


def looks_of(rows: Sequence[Row], others: Sequence[str] = ()) -> dict[str, Look]:
    """A look for each row of an evaluation record, then for names that no row has."""
    looks: dict[str, Look] = {}
    colours = iter(_COLOURS * (1 + (len(rows) + len(others)) // len(_COLOURS)))
    for row in rows:
        kind = str(row.get("kind"))
        colour = _BASE_COLOUR if kind == "base" else next(colours)
        looks[str(row["name"])] = Look(colour, _MARKERS.get(kind, "o"), _LINES.get(kind, "-"))
    for name in others:
        if name not in looks:
            looks[name] = Look(next(colours), "o", "-")
    return looks


def new_figure(height_inches: float) -> Canvas:
    """An empty figure on an Agg canvas; call within `styled`."""
    figure = Figure(figsize=(_WIDTH_INCHES, height_inches), dpi=_DOTS_PER_INCH)
    FigureCanvasAgg(figure)
    return figure


def panels(figure: Canvas, num: int, num_columns: int = 2, **shared: bool) -> list[Panel]:
    """So many axes in a grid; the rest of the grid stays empty."""
    num_columns = min(num, num_columns)
    grid = figure.subplots(-(-num // num_columns), num_columns, squeeze=False, **shared)
    axes: list[Panel] = list(grid.ravel())
    for spare in axes[num:]:
        spare.set_axis_off()
    return axes[:num]


def label_below(axes: Sequence[Panel], label: str, num_columns: int = 2) -> None:
    """Label and ticks of a shared x axis, under the last panel of each column."""
    for axis in axes[-num_columns:]:
        axis.set_xlabel(label)
        axis.tick_params(labelbottom=True)


def share_legend(figure: Canvas, axes: Sequence[Panel], num_columns: int = 3) -> None:
    """One legend below all panels, each label once, in as many columns as fit, at most so many."""
    entries: dict[str, Panel] = {}
    for axis in axes:
        handles, labels = axis.get_legend_handles_labels()
        for handle, label in zip(handles, labels, strict=True):
            entries.setdefault(str(label), handle)
    if not entries:
        return
    # The layout makes room below the panels but never at their sides: a legend wider than the
    # figure would be cut off there.
    for columns in range(min(num_columns, len(entries)), 0, -1):
        legend = figure.legend(
            list(entries.values()),
            [wrapped(label, LEGEND_ROOM) for label in entries],
            loc="outside lower center",
            ncols=columns,
        )
        if legend.get_window_extent(figure.canvas.get_renderer()).width <= figure.bbox.width:
            return
        if columns > 1:
            legend.remove()


@cache  # asked again for every panel, and measuring text is slow
def wrapped(name: str, room: Room) -> str:
    """A name over as many lines as it takes; nothing is left out."""
    # Letters differ in width by a factor of four, so lines are measured and not counted in letters.
    font = FontProperties(size=room.points)
    most = int(72.0 * room.inches / (0.25 * room.points))  # hardly a letter is thinner than 1/4 em
    for num_characters in range(min(len(name), most), 0, -1):
        lines = textwrap.wrap(name, num_characters)
        widths = [_TO_PATH.get_text_width_height_descent(line, font, False)[0] for line in lines]
        if max(widths, default=0.0) <= 72.0 * room.inches:  # a point is 1/72 inch
            return "\n".join(lines)
    return name


def further_inches(names: Iterable[str], room: Room) -> float:
    """Height of the lines that the longest of these names takes beyond its first."""
    num_lines = max((wrapped(name, room).count("\n") + 1 for name in names), default=1)
    return (num_lines - 1) * 1.25 * room.points / 72.0


def to_png(figure: Canvas) -> bytes:
    """The figure as PNG; the same bytes for the same figure."""
    buffer = io.BytesIO()
    # The library's version would be written into the picture, and so change its bytes.
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def styled() -> AbstractContextManager[None]:
    """Settings of all figures, in force within the ``with`` block."""
    return cast(Canvas, mpl).rc_context(SETTINGS)


def share_axis(axis: Panel) -> None:
    """A logarithmic y axis of shares, as per cent."""
    axis.set_yscale("log")
    axis.yaxis.set_major_formatter(_per_cent)
    axis.yaxis.set_minor_formatter(NullFormatter())


def _per_cent(share: float, _: int) -> str:
    return f"{100 * share:g}%"


def finite(values: Values) -> np.ndarray:
    """The finite values, 1-D."""
    array = to_array(values).ravel()
    return array[np.isfinite(array)]
