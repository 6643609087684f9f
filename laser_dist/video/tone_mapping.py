"""Tone-map HDR to SDR by the formulas of the ITU.

The peak is 1000 cd/m2, for which Report ITU-R BT.2446 gives its figures, and SDR white 100 cd/m2.
"""

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]

_PEAK, _SDR_PEAK, _PQ_PEAK = 1000.0, 100.0, 10_000.0  # cd/m2
_GAMMA = 2.4
_LUMA = np.array([0.2627, 0.6780, 0.0593])  # ITU-R BT.2020
# From linear R, G, B of BT.2020 to those of BT.709: Report ITU-R BT.2407, section 2.2.
_TO_BT709 = np.array(
    [[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]]
)


def sdr_of(signal: FloatArray, hdr: str) -> FloatArray:
    """Return the SDR picture of an HDR picture.

    Args:
      signal: [..., 3] R′G′B′ of ITU-R BT.2100, in [0, 1].
      hdr: transfer function of `signal`, "PQ" or "HLG".

    Returns:
      [..., 3] R′G′B′ of ITU-R BT.709, in [0, 1].

    Source: Report ITU-R BT.2446-1, method A. The color conversion to BT.709 clips what is outside.
    """
    light = _pq_light(signal) if hdr == "PQ" else _hlg_light(signal)
    coded = (light / _PEAK).clip(0, 1) ** (1 / _GAMMA)
    luma = (coded @ _LUMA)[..., None]
    mapped = _mapped_luma(luma)
    scale = mapped / np.maximum(1.1 * luma, 1e-6)
    red = scale * (coded[..., :1] - luma) / 1.4746
    blue = scale * (coded[..., 2:] - luma) / 1.8814
    luma = mapped - np.maximum(0.1 * red, 0)
    # Back from Y′CbCr, ITU-R BT.2020.
    green = luma - 0.16455 * blue - 0.57135 * red
    wide = np.concatenate([luma + 1.4746 * red, green, luma + 1.8814 * blue], axis=-1)
    linear = wide.clip(0, 1) ** _GAMMA @ _TO_BT709.T
    return linear.clip(0, 1) ** (1 / _GAMMA)


def _mapped_luma(luma: FloatArray) -> FloatArray:
    """Return the luma of SDR, steps 1 to 3 of method A."""
    rho = 1 + 32 * (_PEAK / _PQ_PEAK) ** (1 / _GAMMA)
    rho_sdr = 1 + 32 * (_SDR_PEAK / _PQ_PEAK) ** (1 / _GAMMA)
    perceived: FloatArray = np.log1p((rho - 1) * luma) / np.log(rho)
    is_low, is_high = perceived <= 0.7399, perceived >= 0.9909
    compressed: FloatArray = (
        is_low * 1.0770 * perceived
        + ~(is_low | is_high) * (-1.1510 * perceived**2 + 2.7811 * perceived - 0.6302)
        + is_high * (0.5 * perceived + 0.5)
    )
    return (rho_sdr**compressed - 1) / (rho_sdr - 1)


def _pq_light(signal: FloatArray) -> FloatArray:
    """Return the light of a display in cd/m2. Source: ITU-R BT.2100-2, table 4."""
    m1, m2 = 2610 / 16384, 2523 / 4096 * 128
    c1, c2, c3 = 3424 / 4096, 2413 / 4096 * 32, 2392 / 4096 * 32
    root = signal ** (1 / m2)
    return _PQ_PEAK * (np.maximum(root - c1, 0) / (c2 - c3 * root)) ** (1 / m1)


def _hlg_light(signal: FloatArray) -> FloatArray:
    """Return the light of a display of 1000 cd/m2. Source: ITU-R BT.2100-2, table 5."""
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    scene = np.where(signal <= 0.5, signal**2 / 3, (np.exp((signal - c) / a) + b) / 12)
    return _PEAK * (scene @ _LUMA)[..., None] ** (1.2 - 1) * scene
