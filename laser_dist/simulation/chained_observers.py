"""Simulated viewers under MCL-JCI's protocol: levels are chained per viewer.

The viewers are those of `laser_dist.simulation.observers`, who see one number per encoded image,
its visibility. The protocol is MCL-JCI's (Jin et al. 2016): a viewer compares with the JPEG of
quality factor 100 and finds the highest factor that looks different. That image is the viewer's
next anchor, and so on downwards. No anchor is shared, so a sensitive viewer has more levels.
"""

import numpy as np
from numpy.typing import NDArray

from laser_dist.jnd.scale import QF
from laser_dist.simulation.observers import Panel, needed_visibility, visibility_curve

MAX_LEVELS = 8
"""Largest number of levels of a viewer in MCL-JCI."""

Chain = tuple[int, ...]
"""Levels of one viewer, JND1 first: quality factors, strictly descending."""

_COARSEST = QF.reference - QF.lowest


def judge_image(
    qfs: NDArray[np.int64],
    visibilities: NDArray[np.float64],
    panel: Panel,
    *,
    image_seed: int,
) -> tuple[Chain, ...]:
    """Simulate the levels that each viewer of a panel finds for an image.

    Args:
      qfs: [Q] int, two or more measured quality factors, strictly descending, 99 to 1.
      visibilities: [Q] float, 0 or more, of the image at each factor against factor 100.
      panel: the viewers.
      image_seed: random seed for the trials, so the labels of an image are independent of others.

    Returns:
      One chain per viewer in panel order, of 1 to `MAX_LEVELS` levels. It ends if no factor down
      to 1 differs enough from the previous level; factor 1 is JND1 of a viewer who notices
      nothing.

    Raises:
      ValueError: as `visibility_curve`, whose axis here is 100 minus the quality factor.
    """
    steps = QF.reference - qfs
    curve = visibility_curve(steps, visibilities, coarsest=_COARSEST)
    rng = np.random.default_rng([panel.seed, 1, image_seed])
    usual = panel.log_thresholds()
    trials = rng.normal(0.0, 1.0, (MAX_LEVELS, panel.num_viewers))
    spreads = np.array([panel.trial_spread, *[panel.increment_spread] * (MAX_LEVELS - 1)])
    thresholds = np.exp(usual + spreads[:, None] * trials)
    return tuple(_chain(curve, thresholds[:, viewer], panel) for viewer in range(panel.num_viewers))


def _chain(curve: NDArray[np.float64], thresholds: NDArray[np.float64], panel: Panel) -> Chain:
    """Return the chain of one viewer.

    Args:
      curve: [100] visibility at 100 minus the quality factor, non-decreasing.
      thresholds: [MAX_LEVELS] threshold at each level, relative to the median viewer's.
      panel: panel that defines the increments.
    """
    found: list[int] = []
    anchor = 0
    for threshold in thresholds:
        seen = float(curve[anchor])
        wanted = seen + float(threshold) * needed_visibility(seen, panel)
        step = max(int(np.searchsorted(curve, wanted)), anchor + 1)
        if step > _COARSEST:
            break
        found.append(QF.reference - step)
        anchor = step
    return tuple(found) or (QF.lowest,)
