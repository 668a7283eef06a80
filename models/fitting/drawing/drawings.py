"""Drawings: faces like emoji, icons, line drawings and star charts."""

from __future__ import annotations

import math

import numpy as np
from numpy.random import Generator
from PIL import Image, ImageDraw

from tidegate.models.fitting.drawing.canvas import (
    Canvas,
    Colour,
    Picture,
    title,
    typeface,
    vivid,
    word,
)

_SMOOTH = 2  # drawn this many times larger, then reduced, as icons are


def emoji(rng: Generator, height: int, width: int) -> Picture:
    """Return a round face with eyes, a mouth and sometimes more."""
    canvas = Canvas.new(rng, _SMOOTH * height, _SMOOTH * width, dark_share=0.2)
    x, y, r = _place(canvas)
    draw, dark = canvas.draw, (60, 40, 20)
    skin = (255, int(rng.integers(180, 225)), int(rng.integers(30, 90)))
    draw.ellipse([x - r, y - r, x + r, y + r], fill=skin if rng.random() < 0.6 else vivid(rng))
    apart, high, eye = rng.uniform(0.25, 0.45) * r, rng.uniform(0.1, 0.35) * r, rng.uniform(5, 9)
    for side in (-1, 1):
        box = (x + side * apart - r / eye, y - high - r / eye, x + side * apart + r / eye, y - high)
        if rng.random() < 0.3:
            draw.arc(box, 180, 360, fill=dark, width=max(2, int(r / 16)))
        else:
            draw.ellipse([box[0], box[1], box[2], box[3] + r / eye], fill=dark)
    wide, low = rng.uniform(0.25, 0.6) * r, rng.uniform(0.2, 0.4) * r
    mouth = (x - wide, y + low - 0.3 * r, x + wide, y + low + 0.3 * r)
    if rng.random() < 0.4:
        draw.chord(mouth, 0, 180, fill=dark)
    else:
        start = 0 if rng.random() < 0.6 else 180
        draw.arc(mouth, start, start + 180, fill=dark, width=max(2, int(r / 14)))
    if rng.random() < 0.3:
        _ears(canvas, x, y, r)
    return _reduced(canvas)


def icon(rng: Generator, height: int, width: int) -> Picture:
    """Return a few simple shapes, often on a rounded square."""
    canvas = Canvas.new(rng, _SMOOTH * height, _SMOOTH * width, dark_share=0.2)
    x, y, r = _place(canvas)
    if rng.random() < 0.6:
        corner = rng.uniform(0.05, 1.0) * r
        canvas.draw.rounded_rectangle([x - r, y - r, x + r, y + r], radius=corner, fill=vivid(rng))
    for _ in range(int(rng.integers(1, 5))):
        size = rng.uniform(0.3, 0.8) * r
        middle = (x + rng.uniform(-0.3, 0.3) * r, y + rng.uniform(-0.3, 0.3) * r)
        colour = vivid(rng) if rng.random() < 0.5 else (255, 255, 255)
        _shape(canvas, middle, size, colour, outline=rng.random() < 0.4)
    return _reduced(canvas)


def line_drawing(rng: Generator, height: int, width: int) -> Picture:
    """Return closed outlines, some filled, as in clip art."""
    canvas = Canvas.new(rng, _SMOOTH * height, _SMOOTH * width)
    filled, wide = rng.random() < 0.5, int(rng.integers(3, 14))
    for _ in range(int(rng.integers(2, 9))):
        x, y = rng.uniform(0.2, 0.8) * canvas.size[0], rng.uniform(0.2, 0.8) * canvas.size[1]
        r = rng.uniform(0.08, 0.35) * min(canvas.size)
        outline = _closed_curve(rng, x, y, r)
        if filled and rng.random() < 0.7:
            canvas.draw.polygon(outline, fill=vivid(rng))
        canvas.draw.line([*outline, outline[0]], fill=canvas.ink, width=wide, joint="curve")
    return _reduced(canvas)


def star_chart(rng: Generator, height: int, width: int) -> Picture:
    """Return points of several sizes, with lines, names and a grid."""
    canvas = Canvas.new(rng, height, width, dark_share=0.6)
    if rng.random() < 0.6:
        _sky_grid(canvas)
    n = int(rng.integers(60, 700))
    stars = rng.uniform(0, 1, (n, 2)) * canvas.size
    sizes = np.clip(rng.pareto(2.5, n) + 0.5, 0.5, 5) * min(height, width) / 400
    for _ in range(int(rng.integers(0, 12))):
        near = np.argsort(np.square(stars - stars[rng.integers(n)]).sum(axis=1))[: 3 + n // 20]
        chosen = rng.permutation(near)[: int(rng.integers(3, 7))]
        points = [(float(px), float(py)) for px, py in stars[chosen]]
        canvas.draw.line(points, fill=canvas.mix(0.5))
        if rng.random() < 0.7:
            canvas.text(*points[0], word(rng).capitalize(), max(8, height // 40), canvas.mix(0.8))
    for (x, y), r in zip(stars.tolist(), sizes.tolist(), strict=True):
        canvas.draw.ellipse([x - r, y - r, x + r, y + r], fill=canvas.ink)
    if rng.random() < 0.4:
        canvas.text(8, 8, title(rng, 3), max(10, height // 30), canvas.ink)
    return canvas.picture


def _place(canvas: Canvas) -> tuple[float, float, float]:
    """Return the middle and the radius of the main shape."""
    width, height = canvas.size
    r = canvas.rng.uniform(0.3, 0.47) * min(width, height)
    return width / 2, height / 2, float(r)


def _ears(canvas: Canvas, x: float, y: float, r: float) -> None:
    colour = vivid(canvas.rng)
    for side in (-1, 1):
        tip = (x + side * 0.8 * r, y - 1.05 * r)
        base = [(x + side * 0.95 * r, y - 0.3 * r), (x + side * 0.3 * r, y - 0.9 * r)]
        canvas.draw.polygon([tip, *base], fill=colour)


def _shape(
    canvas: Canvas, middle: tuple[float, float], size: float, colour: Colour, *, outline: bool
) -> None:
    rng, draw, (x, y) = canvas.rng, canvas.draw, middle
    box, wide = (x - size, y - size, x + size, y + size), max(2, int(size / 6))
    fill, line = (None, colour) if outline else (colour, None)
    kind = int(rng.integers(5))
    if kind == 0:
        draw.ellipse(box, fill=fill, outline=line, width=wide)
    elif kind == 1:
        draw.rounded_rectangle(box, radius=size / 5, fill=fill, outline=line, width=wide)
    elif kind == 2:
        sides = int(rng.integers(3, 9))
        draw.regular_polygon((x, y, size), sides, int(rng.integers(360)), fill=fill, outline=line)
    elif kind == 3:
        _star(draw, (x, y), size, int(rng.integers(4, 9)), colour)
    else:
        letter = word(rng)[0].upper()
        draw.text((x, y), letter, fill=colour, font=typeface(max(8, int(1.6 * size))), anchor="mm")


def _star(
    draw: ImageDraw.ImageDraw, middle: tuple[float, float], size: float, n: int, colour: Colour
) -> None:
    points = []
    for index in range(2 * n):
        r, angle = size * (1.0 if index % 2 else 0.45), math.pi * index / n
        points.append((middle[0] + r * math.sin(angle), middle[1] - r * math.cos(angle)))
    draw.polygon(points, fill=colour)


def _closed_curve(rng: Generator, x: float, y: float, r: float) -> list[tuple[float, float]]:
    """Return points on a smooth or angular outline around (x, y)."""
    angles = np.linspace(0, 2 * math.pi, 5 if rng.random() < 0.3 else 60, endpoint=False)
    radius = np.full(len(angles), r)
    for wave in range(1, 5):
        strength, phase = rng.uniform(0, 0.35) / wave, rng.uniform(0, 2 * math.pi)
        radius += r * strength * np.sin(wave * angles + phase)
    stretch = rng.uniform(0.5, 1.6)
    across, down = x + radius * np.cos(angles) * stretch, y + radius * np.sin(angles) / stretch
    return [(float(a), float(d)) for a, d in zip(across, down, strict=True)]


def _sky_grid(canvas: Canvas) -> None:
    width, height = canvas.size
    x, y = canvas.rng.uniform(-0.2, 1.2) * width, canvas.rng.uniform(-0.2, 1.2) * height
    far, colour = 1.6 * max(width, height), canvas.mix(0.25)
    for ring in range(1, 8):
        r = ring * far / 8
        canvas.draw.ellipse([x - r, y - r, x + r, y + r], outline=colour)
    for ray in range(24):
        angle = math.pi * ray / 12
        canvas.draw.line([x, y, x + far * math.cos(angle), y + far * math.sin(angle)], fill=colour)


def _reduced(canvas: Canvas) -> Picture:
    width, height = canvas.size
    small = canvas.image.resize((width // _SMOOTH, height // _SMOOTH), Image.Resampling.BOX)
    return np.asarray(small)
