"""Matplotlib figures as inline SVG that takes its colors and type from the page.

Inline, and not an image, so that one drawing serves light, dark and paper: every color becomes a
CSS variable of the page, every label stays text.
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

# Stand-ins that no plot uses for anything else; each is replaced by the variable of its name.
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
    """A figure with one pair of axes; all lengths in CSS pixels, so that panels line up."""
    figure = Figure(figsize=(width / _PIXELS_PER_INCH, height / _PIXELS_PER_INCH))
    axes = figure.add_axes(
        (
            left / width,
            bottom / height,
            (width - left - right) / width,
            (height - top - bottom) / height,
        )
    )
    axes.set_axisbelow(True)
    return figure, axes


def inline_svg(figure: Figure, *, name: str, description: str) -> str:
    """Draw a figure made under `STYLE` as an `<svg>` element for the body of a page.

    Args:
      figure: its size in inches times 72 is the size of the drawing in CSS pixels; the page may
        scale it.
      name: unique on the page; ids within the drawing are made from it.
      description: read out in place of the drawing.

    Returns:
      The element. It holds no address, needs no font and is the same for the same input.
    """
    buffer = io.StringIO()
    salt = hashlib.sha256(name.encode()).hexdigest()
    with mpl.rc_context({"svg.hashsalt": salt, "svg.fonttype": "none"}):
        nothing = {"Date": None, "Creator": None, "Format": None, "Type": None}
        figure.savefig(buffer, format="svg", metadata=nothing)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    # A style element within the drawing would style the whole page; `report.css` says the same.
    text = re.sub(r"<(metadata|style).*?</\1>", "", text, flags=re.DOTALL)
    text = text.replace("xlink:href=", "href=")
    # Names of groups (`axes_1`) would stand on the page once per drawing; nothing refers to them.
    text = re.sub(r'<g id="[^"]*"', "<g", text)
    for color, value in COLORS.items():
        text = text.replace(value, f"var(--{color})")
    text = re.sub(r"font-family: [^;\"]*;? ?", "", text)
    text = re.sub(r"\s*\n\s*", " ", text)
    return _opening_tag(text, description)


def _opening_tag(text: str, description: str) -> str:
    """Replace the root's attributes: no fixed size, no namespaces, a description."""
    match = re.match(r"<svg[^>]*viewBox=\"([^\"]*)\"[^>]*>", text)
    if match is None:
        raise AssertionError("matplotlib wrote an SVG without a viewBox")
    label = escape(description, quote=True)
    root = f'<svg class="plot" viewBox="{match[1]}" role="img" aria-label="{label}">'
    return root + text[match.end() :].strip()
