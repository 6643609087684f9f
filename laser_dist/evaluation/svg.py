"""Matplotlib figures as inline SVG with the page's colors and fonts.

Inline SVG, unlike an image, follows the page's light, dark and print styles: each color becomes a
CSS variable of the page, and labels stay text.
"""

from __future__ import annotations

import hashlib
import io
import re
from html import escape
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Placeholders; `inline_svg` replaces each by the CSS variable of its name.
COLORS = {
    "ink": "#010101",
    "muted": "#020202",
    "rule": "#030303",
    "paper": "#040404",
    "model": "#050505",
    "constant": "#060606",
    "ridge": "#070707",
    "other": "#080808",
    "trees": "#090909",
}
_PIXELS_PER_INCH = 72
STYLE: dict[Any, Any] = {
    "axes.edgecolor": COLORS["rule"],
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.labelcolor": COLORS["muted"],
    "axes.labelsize": 11.5,
    "axes.linewidth": 1.0,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlecolor": COLORS["ink"],
    "axes.titlelocation": "left",
    "axes.titlepad": 9,
    "axes.titlesize": 12.5,
    "axes.titleweight": "bold",
    "figure.facecolor": "none",
    "font.size": 11.5,
    "grid.color": COLORS["rule"],
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "savefig.facecolor": "none",
    "svg.fonttype": "none",
    "text.color": COLORS["ink"],
    "xtick.color": COLORS["rule"],
    "xtick.labelcolor": COLORS["muted"],
    "xtick.labelsize": 11,
    "xtick.major.size": 0,
    "ytick.color": COLORS["rule"],
    "ytick.labelcolor": COLORS["muted"],
    "ytick.labelsize": 11,
    "ytick.major.size": 0,
}


def panel(
    width: int, height: int, *, left: int, right: int, top: int, bottom: int
) -> tuple[Figure, Axes]:
    """Create a figure with one pair of axes; all lengths in CSS pixels, so that panels align."""
    figure = Figure(figsize=(width / _PIXELS_PER_INCH, height / _PIXELS_PER_INCH))
    inner_width, inner_height = width - left - right, height - top - bottom
    axes = figure.add_axes(
        (left / width, bottom / height, inner_width / width, inner_height / height)
    )
    axes.set_axisbelow(True)
    return figure, axes


def inline_svg(figure: Figure, *, name: str, description: str) -> str:
    """Draw a figure made with `STYLE` as an `<svg>` element.

    Args:
      figure: 72 CSS pixels per inch; the page may scale the drawing.
      name: unique on the page; the ids in the drawing are derived from it.
      description: alternative text.

    Returns:
      The element. It refers to nothing outside and is the same for the same input.
    """
    buffer = io.StringIO()
    salt = hashlib.sha256(name.encode()).hexdigest()
    with mpl.rc_context({"svg.hashsalt": salt, "svg.fonttype": "none"}):
        no_metadata = {"Date": None, "Creator": None, "Format": None, "Type": None}
        figure.savefig(buffer, format="svg", metadata=no_metadata)
    text = buffer.getvalue()
    # A style element would apply to the complete page; `report.css` has the same rules.
    text = re.sub(r"<(metadata|style).*?</\1>", "", text, flags=re.DOTALL)
    text = text.replace("xlink:href=", "href=")
    # Group ids such as `axes_1` would repeat in each drawing; nothing refers to them.
    text = re.sub(r'<g id="[^"]*"', "<g", text)
    for color, value in COLORS.items():
        text = text.replace(value, f"var(--{color})")
    text = re.sub(r"font-family: [^;\"]*;? ?", "", text)
    text = re.sub(r"\s*\n\s*", " ", text)
    # The root element gets no fixed size, no namespaces, and the description.
    match = re.search(r"<svg[^>]*viewBox=\"([^\"]*)\"[^>]*>", text)
    if match is None:
        raise AssertionError("matplotlib wrote an SVG without a viewBox")
    label = escape(description, quote=True)
    root = f'<svg class="plot" viewBox="{match[1]}" role="img" aria-label="{label}">'
    return root + text[match.end() :].strip()
