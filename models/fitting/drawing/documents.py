"""Rendered text, pages and tables."""

from __future__ import annotations

from numpy.random import Generator

from tidegate.models.fitting.drawing.canvas import (
    Canvas,
    Picture,
    tint,
    title,
    typeface,
    vivid,
    word,
)


def text(rng: Generator, height: int, width: int) -> Picture:
    """Return lines of text that fill the image."""
    canvas = Canvas.new(rng, height, width, dark_share=0.3)
    size = round(min(height, width) / rng.uniform(8, 40)) + 6
    margin = rng.uniform(0.01, 0.12) * width
    box = (margin, margin, width - margin, height - margin)
    canvas.paragraph(box, size, canvas.ink, int(rng.integers(5, 600)))
    return canvas.picture


def page(rng: Generator, height: int, width: int) -> Picture:
    """Return a page with headings, one or two columns, and sometimes a list or a figure."""
    canvas = Canvas.new(rng, height, width)
    body = round(min(height, width) / rng.uniform(32, 70)) + 5
    margin = rng.uniform(0.05, 0.14) * width
    top = rng.uniform(0.03, 0.1) * height
    columns = int(rng.choice([1, 1, 2]))
    if rng.random() < 0.6:
        size = round(body * rng.uniform(1.6, 2.6))
        canvas.text(margin, top, title(rng, 4), size, canvas.ink)
        top += 1.8 * size
    gap = 0.04 * width
    column = (width - 2 * margin - (columns - 1) * gap) / columns
    for index in range(columns):
        left = margin + index * (column + gap)
        stop = height * (1 - rng.uniform(0.04, 0.5 if index == columns - 1 else 0.06))
        _column(canvas, (left, top, left + column, stop), body)
    if rng.random() < 0.5:
        canvas.text(width / 2, height - 1.6 * body, str(rng.integers(1, 400)), body, canvas.ink)
    return canvas.picture


def table(rng: Generator, height: int, width: int) -> Picture:
    """Return a table with a heading row, with rules or shaded rows."""
    canvas = Canvas.new(rng, height, width, dark_share=0.15)
    rows, columns = int(rng.integers(4, 22)), int(rng.integers(2, 8))
    margin = rng.uniform(0.0, 0.08) * width
    row, column = (height - 2 * margin) / rows, (width - 2 * margin) / columns
    size = max(6, round(min(0.55 * row, 0.2 * column)))
    ruled, shaded = rng.random() < 0.6, rng.random() < 0.5
    heading = vivid(rng) if rng.random() < 0.4 else canvas.mix(0.2)
    for r in range(rows):
        y = margin + r * row
        if r == 0 or (shaded and r % 2):
            fill = heading if r == 0 else canvas.mix(0.06)
            canvas.draw.rectangle([margin, y, width - margin, y + row], fill=fill)
        for c in range(columns):
            x = margin + c * column
            if ruled:
                canvas.draw.rectangle([x, y, x + column, y + row], outline=canvas.mix(0.4))
            content = word(rng) if c == 0 or r == 0 else f"{rng.uniform(0, 5000):,.2f}"
            canvas.text(x + 0.08 * column, y + 0.2 * row, content, size, canvas.ink)
    return canvas.picture


def _column(canvas: Canvas, box: tuple[float, float, float, float], body: int) -> None:
    left, y, right, bottom = box
    rng = canvas.rng
    while y < bottom - 3 * body:
        kind = rng.random()
        if kind < 0.2:
            size = round(body * rng.uniform(1.1, 1.5))
            canvas.text(left, y, title(rng, 3), size, canvas.ink)
            y += 1.7 * size
        elif kind < 0.3:
            y = _figure(canvas, (left, y, right, bottom), body)
        elif kind < 0.45:
            for _ in range(int(rng.integers(2, 6))):
                if y > bottom - 2 * body:
                    break
                canvas.text(left + body, y, "–", body, canvas.ink)
                y = canvas.paragraph((left + 2 * body, y, right, bottom), body, canvas.ink, 8)
        else:
            words = int(rng.integers(20, 120))
            y = canvas.paragraph((left, y, right, bottom), body, canvas.ink, words)
        y += rng.uniform(0.3, 1.2) * body


def _figure(canvas: Canvas, box: tuple[float, float, float, float], body: int) -> float:
    left, top, right, bottom = box
    end = min(bottom, top + canvas.rng.uniform(4, 14) * body)
    fill = tint(canvas.rng, 0.7, 0.95)
    canvas.draw.rectangle([left, top, right, end], fill=fill, outline=canvas.mix(0.5))
    caption = title(canvas.rng, 3)
    middle = (left + right) / 2 - typeface(body).getlength(caption) / 2
    canvas.text(middle, (top + end) / 2 - body / 2, caption, body, canvas.ink)
    return end
