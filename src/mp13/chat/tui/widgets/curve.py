"""Curves of training as text: lines of braille dots, with the numbers of the axes."""

from __future__ import annotations

from collections.abc import Sequence

Points = Sequence[tuple[int, float]]
_BLANK = 0x2800
_DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))  # by row and column in a cell
_AXIS = 7  # cells of the numbers beside a curve


def curve(points: Points, title: str, width: int, height: int) -> list[str]:
    """`height` lines of `width` cells: the title, the curve, and the steps under it."""
    wide, tall = max(width - _AXIS, 1), max(height - 2, 1)
    if not points:
        return [f"{'':{_AXIS}}{title}: nothing yet".ljust(width), *[" " * width] * (tall + 1)]
    (first, _), (last, _) = points[0], points[-1]
    least, most = min(y for _, y in points), max(y for _, y in points)
    cells = _drawn(points, (first, last), (least, most), wide, tall)
    numbers = [f"{most:.2f}", *[""] * (tall - 2), f"{least:.2f}"] if tall > 1 else [f"{most:.2f}"]
    lines = [f"{'':{_AXIS}}{title}"]
    lines += [f"{number:>{_AXIS - 2}} ┤{row}" for number, row in zip(numbers, cells, strict=True)]
    under = f"step {first}" if first == last else f"step {first}{last!s:>{max(wide - len(f'step {first}'), 1)}}"
    return [line[:width].ljust(width) for line in [*lines, f"{'':{_AXIS}}{under}"]]


def _drawn(points: Points, xs: tuple[int, int], ys: tuple[float, float], wide: int, tall: int) -> list[str]:
    """Neighbours are joined, so that a curve is seen and not a cloud."""
    cells = [[_BLANK] * wide for _ in range(tall)]
    columns, rows = wide * 2 - 1, tall * 4 - 1
    placed = [
        (_scaled(x, *xs, columns), rows - _scaled(y, *ys, rows) if ys[1] > ys[0] else rows // 2) for x, y in points
    ]
    for (x0, y0), (x1, y1) in zip(placed, [*placed[1:], placed[-1]], strict=True):
        strokes = max(abs(x1 - x0), abs(y1 - y0), 1)
        for stroke in range(strokes + 1):
            x, y = x0 + (x1 - x0) * stroke // strokes, y0 + (y1 - y0) * stroke // strokes
            cells[y // 4][x // 2] |= _DOTS[y % 4][x % 2]
    return ["".join(map(chr, row)) for row in cells]


def _scaled(value: float, least: float, most: float, size: int) -> int:
    return round((value - least) / (most - least) * size) if most > least else 0
