"""Screens of programs: windows, dialogs and lists of messages, light and dark."""

from __future__ import annotations

from numpy.random import Generator

from tidegate.models.fitting.drawing.canvas import Canvas, Colour, Picture, title, vivid, word


def window(rng: Generator, height: int, width: int) -> Picture:
    """Return a window with a title, a menu, a toolbar, a side bar, and text or rows."""
    canvas = Canvas.new(rng, height, width, dark_share=0.5)
    size, accent = _text_size(canvas), vivid(rng)
    y = _title_bar(canvas, (0, 0, width), size, accent)
    if rng.random() < 0.7:
        y = _words_in_a_bar(canvas, y, size)
    if rng.random() < 0.7:
        y = _toolbar(canvas, y, size, accent)
    left, bottom = 0.0, height - 1.8 * size
    if rng.random() < 0.7:
        left = rng.uniform(0.12, 0.3) * width
        canvas.draw.rectangle([0, y, left, bottom], fill=canvas.mix(0.06))
        _rows(canvas, (0, y, left, bottom), size, accent)
    draw = (_rows, _code, _grid)[int(rng.integers(3))]
    draw(canvas, (left + size, y, width, bottom), size, accent)
    canvas.draw.rectangle([0, bottom, width, height], fill=canvas.mix(0.12))
    canvas.text(size, bottom + 0.3 * size, title(rng, 3), size, canvas.mix(0.7))
    return canvas.picture


def dialog(rng: Generator, height: int, width: int) -> Picture:
    """Return a dialog: labels with fields, boxes to tick, sliders, and buttons."""
    canvas = Canvas.new(rng, height, width, dark_share=0.5)
    size, accent = _text_size(canvas) + 2, vivid(rng)
    y = _title_bar(canvas, (0, 0, width), size, accent) + size
    while y < height - 5 * size:
        _field(canvas, (1.5 * size, y, width - 1.5 * size), size, accent)
        y += rng.uniform(1.9, 2.8) * size
    x = width - 1.5 * size
    for index in range(int(rng.integers(1, 4))):
        wide = rng.uniform(4.5, 7) * size
        fill = accent if index == 0 else canvas.mix(0.12)
        box = (x - wide, height - 3 * size, x, height - size)
        canvas.draw.rounded_rectangle(box, radius=size / 4, fill=fill, outline=canvas.mix(0.4))
        canvas.text(x - wide + size, height - 2.6 * size, word(rng)[:7], size, canvas.ink)
        x -= wide + size
    return canvas.picture


def messages(rng: Generator, height: int, width: int) -> Picture:
    """Return a conversation on a phone or in a window."""
    canvas = Canvas.new(rng, height, width, dark_share=0.5)
    size, accent = _text_size(canvas) + 2, vivid(rng)
    y = _title_bar(canvas, (0, 0, width), size, accent) + size / 2
    while y < height - 4 * size:
        wide = rng.uniform(0.3, 0.7) * width
        mine = rng.random() < 0.5
        left = width - wide - size if mine else 3.0 * size
        lines = int(rng.integers(1, 5))
        box = (left, y, left + wide, min(height - 3 * size, y + (1.4 * lines + 1) * size))
        canvas.draw.rounded_rectangle(
            box, radius=size / 2, fill=accent if mine else canvas.mix(0.1)
        )
        inner = (left + size / 2, y + size / 2, left + wide - size / 2, box[3])
        canvas.paragraph(inner, size, canvas.ink, 100)
        if not mine:
            canvas.draw.ellipse([size / 2, y, 2.5 * size, y + 2 * size], fill=vivid(rng))
        y = box[3] + rng.uniform(0.4, 1.2) * size
    field = (size, height - 2.4 * size, width - size, height - size / 2)
    canvas.draw.rounded_rectangle(field, radius=size, outline=canvas.mix(0.5))
    return canvas.picture


def _text_size(canvas: Canvas) -> int:
    return round(min(canvas.size) / canvas.rng.uniform(26, 50)) + 5


def _title_bar(canvas: Canvas, box: tuple[float, float, float], size: int, accent: Colour) -> float:
    """Draw a title bar in (left, top, right), and return where it ends."""
    left, top, right = box
    rng, bottom = canvas.rng, top + 2 * size
    fill = accent if rng.random() < 0.3 else canvas.mix(rng.uniform(0.08, 0.25))
    canvas.draw.rectangle([left, top, right, bottom], fill=fill)
    canvas.text(left + rng.uniform(0.5, 12) * size, top + size / 2, title(rng, 2), size, canvas.ink)
    for index in range(3):
        x = right - (index + 1) * 1.8 * size
        canvas.draw.ellipse([x, top + size / 2, x + size, top + 1.5 * size], fill=canvas.mix(0.5))
    return bottom


def _words_in_a_bar(canvas: Canvas, top: float, size: int) -> float:
    x, width = 0.7 * size, canvas.size[0]
    for _ in range(int(canvas.rng.integers(4, 9))):
        if x > width - 4 * size:
            break
        x += canvas.text(x, top + size / 3, word(canvas.rng).capitalize(), size, canvas.ink)
        x += 1.2 * size
    return top + 1.8 * size


def _toolbar(canvas: Canvas, top: float, size: int, accent: Colour) -> float:
    rng, (width, _) = canvas.rng, canvas.size
    canvas.draw.rectangle([0, top, width, top + 2.6 * size], fill=canvas.mix(0.07))
    x = 0.6 * size
    for _ in range(int(rng.integers(5, 22))):
        if x > width - 3 * size:
            break
        colour = vivid(rng) if rng.random() < 0.4 else canvas.mix(0.6)
        box = (x, top + 0.5 * size, x + 1.6 * size, top + 2.1 * size)
        shape = (canvas.draw.rectangle, canvas.draw.ellipse)[int(rng.integers(2))]
        shape(box, outline=colour, width=max(1, size // 6))
        x += rng.choice([2.2, 2.2, 3.4]) * size
    canvas.draw.line([0, top + 2.6 * size, width, top + 2.6 * size], fill=accent)
    return top + 2.6 * size


def _rows(
    canvas: Canvas, box: tuple[float, float, float, float], size: int, accent: Colour
) -> None:
    left, top, right, bottom = box
    rng = canvas.rng
    y, step = top + size / 2, rng.uniform(1.5, 2.2) * size
    while y < bottom - step:
        if rng.random() < 0.08:
            canvas.draw.rectangle([left, y, right, y + step], fill=accent)
        indent = float(rng.integers(0, 3)) * size
        canvas.draw.rectangle(
            [left + indent + size / 3, y + size / 4, left + indent + size, y + size],
            fill=vivid(rng),
        )
        words = int(rng.integers(1, 2 + max(1, int((right - left) / size / 12))))
        canvas.text(left + indent + 1.5 * size, y, title(rng, words), size, canvas.ink)
        y += step


def _code(
    canvas: Canvas, box: tuple[float, float, float, float], size: int, accent: Colour
) -> None:
    left, top, right, bottom = box
    rng, y, indent = canvas.rng, top + size / 2, 0
    colours = (canvas.ink, accent, vivid(rng), vivid(rng), canvas.mix(0.5))
    for number in range(1, 200):
        if y > bottom - 1.5 * size:
            break
        canvas.text(left, y, str(number), size, canvas.mix(0.4))
        x = left + (3 + 2 * indent) * size
        for _ in range(int(rng.integers(0, 8))):
            if x > right - 4 * size:
                break
            colour = colours[int(rng.integers(len(colours)))]
            x += canvas.text(x, y, word(rng), size, colour) + size / 2
        indent = max(0, min(4, indent + int(rng.integers(-1, 2))))
        y += 1.4 * size


def _grid(
    canvas: Canvas, box: tuple[float, float, float, float], size: int, accent: Colour
) -> None:
    left, top, right, bottom = box
    rng, column = canvas.rng, canvas.rng.uniform(4, 8) * size
    rows, columns = int((bottom - top) / (1.6 * size)), max(1, int((right - left) / column))
    for r in range(rows):
        for c in range(columns):
            x, y = left + c * column, top + r * 1.6 * size
            fill = canvas.mix(0.12) if r == 0 or c == 0 else None
            canvas.draw.rectangle(
                [x, y, x + column, y + 1.6 * size], fill=fill, outline=canvas.mix(0.25)
            )
            if r == 0 or rng.random() < 0.6:
                canvas.text(x + size / 3, y + size / 4, word(rng)[:8], size, canvas.ink)
    canvas.draw.rectangle(
        [left + column, top + 1.6 * size, left + 2 * column, top + 3.2 * size],
        outline=accent,
        width=2,
    )


def _field(canvas: Canvas, box: tuple[float, float, float], size: int, accent: Colour) -> None:
    left, y, right = box
    rng, kind = canvas.rng, int(canvas.rng.integers(4))
    middle = left + 0.35 * (right - left)
    if kind == 0:
        canvas.text(left, y, title(rng, 5), size, canvas.ink)
        return
    canvas.text(left, y, title(rng, 1), size, canvas.ink)
    if kind == 1:
        canvas.draw.rectangle(
            [middle, y - size / 4, right, y + 1.3 * size], outline=canvas.mix(0.5)
        )
        canvas.text(middle + size / 2, y, word(rng), size, canvas.mix(0.7))
    elif kind == 2:
        ticked = accent if rng.random() < 0.5 else None
        canvas.draw.rectangle([middle, y, middle + size, y + size], fill=ticked, outline=canvas.ink)
        canvas.text(middle + 1.6 * size, y, title(rng, 2), size, canvas.ink)
    else:
        canvas.draw.line([middle, y + size / 2, right, y + size / 2], fill=canvas.mix(0.4), width=2)
        x = rng.uniform(middle, right)
        canvas.draw.ellipse([x - size / 2, y, x + size / 2, y + size], fill=accent)
