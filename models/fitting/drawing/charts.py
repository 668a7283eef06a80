"""Charts with axes: lines, bars, pies and scatter plots."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

from tidegate.models.fitting.drawing.canvas import Canvas, Colour, Picture, title, vivid, word


@dataclass(frozen=True, slots=True)
class _Axes:
    """A canvas and the rectangle between the axes."""

    canvas: Canvas
    left: float
    top: float
    right: float
    bottom: float
    size: int  # of the text

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Return the point at shares of the width from the left and the height from below."""
        return (
            self.left + x * (self.right - self.left),
            self.bottom - y * (self.bottom - self.top),
        )


def lines(rng: Generator, height: int, width: int) -> Picture:
    """Return curves over a horizontal axis."""
    axes = _axes(rng, height, width)
    n = int(rng.integers(5, 120))
    for _ in range(int(rng.integers(1, 6))):
        smooth = np.cumsum(rng.normal(size=n)) if rng.random() < 0.6 else _curve(rng, n)
        y = (smooth - smooth.min()) / (np.ptp(smooth) or 1.0)
        y = rng.uniform(0, 0.3) + rng.uniform(0.3, 0.7) * y
        points = [axes.at(i / (n - 1), float(value)) for i, value in enumerate(y)]
        colour, wide = _series_colour(axes.canvas), int(rng.integers(1, 4))
        axes.canvas.draw.line(points, fill=colour, width=wide)
        if rng.random() < 0.3 and n < 40:
            _dots(axes.canvas, points, colour, 3)
    return axes.canvas.picture


def bars(rng: Generator, height: int, width: int) -> Picture:
    """Return bars that stand on the axis."""
    axes = _axes(rng, height, width)
    groups, series = int(rng.integers(3, 20)), int(rng.choice([1, 1, 2, 3]))
    colours = [_series_colour(axes.canvas) for _ in range(series)]
    thick = rng.uniform(0.5, 1.0) / series
    for g in range(groups):
        for s, colour in enumerate(colours):
            x = (g + s * thick) / groups
            left, top = axes.at(x, float(rng.uniform(0.03, 0.98)))
            right, _ = axes.at(x + thick / groups, 0)
            axes.canvas.draw.rectangle([left, top, right, axes.bottom], fill=colour)
    return axes.canvas.picture


def pie(rng: Generator, height: int, width: int) -> Picture:
    """Return a pie or a ring with a key."""
    canvas = Canvas.new(rng, height, width, dark_share=0.15)
    shares = np.cumsum(rng.dirichlet(np.ones(int(rng.integers(2, 9)))))
    radius = rng.uniform(0.25, 0.42) * min(height, width)
    x, y = rng.uniform(0.35, 0.5) * width, rng.uniform(0.45, 0.55) * height
    box, size = (x - radius, y - radius, x + radius, y + radius), _text_size(canvas)
    for index, (start, stop) in enumerate(zip([0.0, *shares[:-1]], shares, strict=True)):
        colour = vivid(rng)
        canvas.draw.pieslice(box, 360 * start, 360 * stop, fill=colour, outline=canvas.paper)
        key = (0.82 * width, (1 + 1.6 * index) * size)
        canvas.draw.rectangle([*key, key[0] + size, key[1] + size], fill=colour)
        canvas.text(key[0] + 1.4 * size, key[1], word(rng)[:8], size, canvas.ink)
    if rng.random() < 0.4:
        hole = radius * rng.uniform(0.3, 0.7)
        canvas.draw.ellipse([x - hole, y - hole, x + hole, y + hole], fill=canvas.paper)
    canvas.text(0.05 * width, height - 2 * size, title(rng, 4), size, canvas.ink)
    return canvas.picture


def scatter(rng: Generator, height: int, width: int) -> Picture:
    """Return groups of points."""
    axes = _axes(rng, height, width)
    for _ in range(int(rng.integers(1, 5))):
        centre, spread = rng.uniform(0.2, 0.8, 2), rng.uniform(0.03, 0.2, 2)
        points = np.clip(centre + spread * rng.normal(size=(int(rng.integers(10, 200)), 2)), 0, 1)
        if rng.random() < 0.5:
            points[:, 1] = np.clip(0.4 * points[:, 1] + 0.6 * points[:, 0], 0, 1)
        placed = [axes.at(float(x), float(y)) for x, y in points]
        _dots(axes.canvas, placed, _series_colour(axes.canvas), rng.uniform(1, 5))
    return axes.canvas.picture


def _axes(rng: Generator, height: int, width: int) -> _Axes:
    canvas = Canvas.new(rng, height, width, dark_share=0.12)
    size = _text_size(canvas)
    left, right = rng.uniform(0.06, 0.16) * width, width * (1 - rng.uniform(0.02, 0.1))
    top, bottom = rng.uniform(0.03, 0.12) * height, height * (1 - rng.uniform(0.08, 0.18))
    axes = _Axes(canvas, left, top, right, bottom, size)
    gridded = rng.random() < 0.5
    for step in np.linspace(0, 1, int(rng.integers(4, 9))).tolist():
        x, y = axes.at(step, step)
        if gridded:
            canvas.draw.line([left, y, right, y], fill=canvas.mix(0.15))
            canvas.draw.line([x, top, x, bottom], fill=canvas.mix(0.15))
        canvas.text(x - size / 2, bottom + size / 3, f"{step * 10:.3g}", size, canvas.ink)
        canvas.text(left - 2.2 * size, y - size / 2, f"{step * 50:.3g}", size, canvas.ink)
    canvas.draw.line([left, bottom, right, bottom], fill=canvas.ink, width=2)
    canvas.draw.line([left, top, left, bottom], fill=canvas.ink, width=2)
    if rng.random() < 0.5:
        canvas.draw.rectangle([left, top, right, bottom], outline=canvas.ink)
    if rng.random() < 0.6:
        canvas.text((left + right) / 3, top - 1.4 * size, title(rng, 3), size, canvas.ink)
    return axes


def _text_size(canvas: Canvas) -> int:
    return round(min(canvas.size) / canvas.rng.uniform(28, 48)) + 4


def _series_colour(canvas: Canvas) -> Colour:
    return vivid(canvas.rng) if canvas.rng.random() < 0.8 else canvas.ink


def _curve(rng: Generator, n: int) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    x = np.linspace(0, 1, n)
    waves = np.sin(2 * np.pi * (rng.uniform(0.2, 4) * x + rng.random()))
    return np.asarray(waves * np.exp(-rng.uniform(0, 4) * x) + rng.uniform(-2, 2) * x)


def _dots(canvas: Canvas, points: list[tuple[float, float]], colour: Colour, radius: float) -> None:
    for x, y in points:
        canvas.draw.ellipse([x - radius, y - radius, x + radius, y + radius], fill=colour)
