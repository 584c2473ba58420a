"""Images that can be read at a glance: ours in one colour, all others in grey."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

OURS = "#d1495b"
OTHERS = "#9aa5b1"
LIMITS = "#30638e"


def _colour(name: str) -> str:
    if name.startswith("comet_async"):
        return OURS
    return LIMITS if name.startswith(("raw", "floor")) else OTHERS


def _figure(width: float, height: float, columns: int = 1) -> tuple[Any, Any] | None:
    if importlib.util.find_spec("matplotlib") is None:
        return None
    import matplotlib as mpl  # noqa: PLC0415 - a library of the benchmark's group only

    mpl.use("Agg")
    from matplotlib import pyplot  # noqa: PLC0415 - after the choice of the backend

    figure, axes = pyplot.subplots(1, columns, figsize=(width, height), layout="constrained")
    return figure, axes


def _dress(axis: Any, title: str) -> None:  # noqa: ANN401 - matplotlib is there or not
    axis.set_title(title, loc="left", fontsize=11, fontweight="bold")
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
    axis.tick_params(labelsize=9)


def _save(figure: Any, path: Path) -> None:  # noqa: ANN401 - the same
    path.parent.mkdir(parents=True, exist_ok=True)
    # No time stamp: the same figures make the same file.
    figure.savefig(path, dpi=110, metadata={"Software": None})


def bars(
    path: Path, panels: Sequence[tuple[str, Mapping[str, float]]], *, form: str = "{:,.1f}"
) -> bool:
    """Draw one panel of horizontal bars for each (title, figures by name), smallest on top."""
    longest = max(len(figures) for _, figures in panels)
    drawn = _figure(5.2 * len(panels), 0.9 + 0.32 * longest, len(panels))
    if drawn is None:
        return False
    figure, axes = drawn
    for axis, (title, figures) in zip(axes if len(panels) > 1 else [axes], panels, strict=True):
        names = sorted(figures, key=lambda name: -figures[name])
        values = [figures[name] for name in names]
        shown = axis.barh(names, values, color=[_colour(name) for name in names], height=0.72)
        axis.bar_label(shown, [form.format(value) for value in values], padding=4, fontsize=9)
        axis.set_xlim(0, max(values) * 1.17)
        axis.xaxis.set_visible(False)
        axis.spines["bottom"].set_visible(False)
        axis.spines["left"].set_visible(False)
        axis.tick_params(axis="y", length=0)
        _dress(axis, title)
    _save(figure, path)
    return True


def lines(
    path: Path,
    title: str,
    figures: Mapping[str, Mapping[int, float]],
    *,
    across: str,
    up: str,
) -> bool:
    """Draw a line for each name through its figures, over a logarithmic axis."""
    drawn = _figure(6.4, 3.4)
    if drawn is None:
        return False
    figure, axis = drawn
    styles = ["-", "--", ":", "-."]
    for place, (name, points) in enumerate(figures.items()):
        style = styles[place % len(styles)]
        axis.plot(
            list(points), list(points.values()), style, marker="o", color=_colour(name), label=name
        )
    axis.set_xscale("log")
    axis.set_ylim(bottom=0)
    axis.set_xlabel(across, fontsize=9)
    axis.set_ylabel(up, fontsize=9)
    axis.legend(fontsize=9, frameon=False)
    _dress(axis, title)
    _save(figure, path)
    return True


@attrs.frozen(kw_only=True)
class Panel:
    """What `front` draws side by side.

    Attributes:
        title: What it is about.
        points: Strategies by name: requests and delay of each.
        curve: Our own for several aims.
        limit: The best that is possible.
    """

    title: str
    points: Mapping[str, tuple[float, float]]
    curve: Mapping[int, tuple[float, float]]
    limit: Sequence[tuple[float, float]]


def front(path: Path, panels: Sequence[Panel]) -> bool:
    """Draw requests against delay: both are better when less, so near the corner is good."""
    drawn = _figure(6.0 * len(panels), 5.0, len(panels))
    if drawn is None:
        return False
    figure, axes = drawn
    for axis, panel in zip(axes if len(panels) > 1 else [axes], panels, strict=True):
        _draw_front(axis, panel)
    _save(figure, path)
    return True


def _draw_front(axis: Any, panel: Panel) -> None:  # noqa: ANN401 - the same
    axis.plot(*zip(*panel.limit, strict=True), "--", color=LIMITS, label="best possible")
    aims = list(panel.curve)
    label = f"comet_async, one by one, aim {aims[0]} to {aims[-1]}"
    axis.plot(*zip(*panel.curve.values(), strict=True), "o-", ms=4, color=OURS, label=label)
    for name, at in panel.points.items():
        mine = name.startswith("comet_async")
        axis.plot(*at, "D" if mine else "o", color=_colour(name), markersize=7)
        where: Any = {"xytext": (0, 8), "ha": "center", "va": "bottom"} if mine else {}
        axis.annotate(
            name.removeprefix("comet_async, ").replace(" ", "\n", 2 if "flight" in name else 0),
            at,
            **({"xytext": (9, 0), "va": "center"} | where),
            textcoords="offset points",
            fontsize=8.5,
            color=_colour(name) if mine else "#52606d",
        )
    axis.set_xscale("log")
    axis.set_yscale("log")
    axis.set_xlim(0.1, 4000)
    axis.set_ylim(0.03, 20)
    for side in (axis.xaxis, axis.yaxis):
        side.set_major_formatter("{x:g}")
    axis.set_xlabel("requests a task", fontsize=9)
    axis.set_ylabel("mean delay, s", fontsize=9)
    axis.legend(fontsize=9, frameon=False, loc="lower left")
    _dress(axis, panel.title)
