"""Simulated viewers under MCL-JCI's protocol: each goes down the quality factors alone.

The viewers are those of `laser_dist.simulation.observers`, who see one number per coded image, its
visibility. The protocol is MCL-JCI's (Jin et al. 2016): a viewer compares with the JPEG of quality
factor 100 and finds the highest one that looks different; that image is what this viewer compares
with next, and so on downwards. No anchor is shared, so a viewer who sees well has more levels.
"""

import numpy as np
from numpy.typing import NDArray

from laser_dist.jnd.scale import QF
from laser_dist.simulation.observers import Panel, needed_visibility, visibility_curve

MAX_LEVELS = 8
"""The most levels that a viewer of MCL-JCI has."""

Chain = tuple[int, ...]
"""One viewer's levels, JND1 first: quality factors, strictly descending."""

_COARSEST = QF.reference - QF.lowest


def judge_image(
    qfs: NDArray[np.int64],
    visibilities: NDArray[np.float64],
    panel: Panel,
    *,
    image_seed: int,
) -> tuple[Chain, ...]:
    """Lets each viewer of a panel find the levels of an image.

    Args:
      qfs: [Q] int, two or more measured quality factors, strictly descending, 99 to 1.
      visibilities: [Q] float, 0 or more, of the image coded at each against that of factor 100.
      panel: the viewers.
      image_seed: of the trials, so that an image's judgment does not depend on the others'.

    Returns:
      One chain per viewer, the panel's order, of 1 to `MAX_LEVELS` levels. It ends where nothing
      down to factor 1 differs enough from the level before; factor 1 itself is JND1 of a viewer
      who notices nothing at all.

    Raises:
      ValueError: as `visibility_curve`, whose axis here is 100 minus the quality factor.
    """
    steps = QF.reference - qfs
    curve = visibility_curve(steps, visibilities, coarsest=_COARSEST)
    rng = np.random.default_rng([panel.seed, 1, image_seed])
    usual = panel.log_thresholds()
    trials = rng.normal(0.0, 1.0, (MAX_LEVELS, panel.num_viewers))
    spreads = np.array([panel.trial_spread, *[panel.increment_spread] * (MAX_LEVELS - 1)])
    answers = np.exp(usual + spreads[:, None] * trials)
    return tuple(_chain(curve, answers[:, viewer], panel) for viewer in range(panel.num_viewers))


def _chain(curve: NDArray[np.float64], answers: NDArray[np.float64], panel: Panel) -> Chain:
    """One viewer's way down.

    Args:
      curve: [100] visibility at 100 minus the quality factor, non-decreasing.
      answers: [MAX_LEVELS] the viewer's threshold at each level, as a multiple of the median one.
      panel: whose increments hold.
    """
    found: list[int] = []
    anchor = 0
    for answer in answers:
        seen = float(curve[anchor])
        wanted = seen + float(answer) * needed_visibility(seen, panel)
        step = max(int(np.searchsorted(curve, wanted)), anchor + 1)
        if step > _COARSEST:
            break
        found.append(QF.reference - step)
        anchor = step
    return tuple(found) or (QF.lowest,)
