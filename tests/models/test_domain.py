"""The distance of a clip from the training clips, and the limit above which it is stated."""

import dataclasses
import json

import numpy as np
import pytest
from scipy.spatial.distance import mahalanobis
from scipy.stats import chi
from skimage import data, draw, transform

from laser_dist.models.domain import NEAR, Domain, frame_features

pytestmark = pytest.mark.slow


def views(photograph, rng, count):
    """Return square views [N, 90, 90, 3] of a photograph, of random place and size."""
    found = []
    for _ in range(count):
        size = int(rng.integers(100, min(photograph.shape[:2])))
        top, left = (int(rng.integers(0, side - size + 1)) for side in photograph.shape[:2])
        view = photograph[top : top + size, left : left + size]
        found.append(transform.resize(view, (90, 90), anti_aliasing=True) * 255)
    return np.round(found).astype(np.uint8)


def test_the_distance_is_that_of_mahalanobis_and_its_limit_the_quantile_of_new_clips():
    rng = np.random.default_rng(0)
    mixing = rng.normal(size=(6, 6)) * 20
    center = rng.normal(size=6) * 50
    learned, held_out, new = (rng.normal(size=(4000, 6)) @ mixing.T + center for _ in range(3))
    domain = Domain.of_clips(learned, held_out, [str(row % 50) for row in range(4000)])
    covariance = np.cov(learned, rowvar=False)
    for features in new[:20]:
        expected = mahalanobis(features, learned.mean(axis=0), np.linalg.inv(covariance))
        assert domain.distance(features) == pytest.approx(expected, rel=0.02)
    # The length of six independent unit normal values.
    assert domain.limit == pytest.approx(chi(6).ppf(NEAR), abs=0.15)
    assert np.mean([domain.distance(each) <= domain.limit for each in new]) == pytest.approx(
        NEAR, abs=0.02
    )
    plain = json.loads(json.dumps(dataclasses.asdict(domain)))
    assert Domain.of(plain) == domain
    with pytest.raises(ValueError, match="6 finite features"):
        Domain.of({**plain, "center": [0.0] * 5})


def test_too_few_clips_have_no_limit():
    features = np.random.default_rng(0).normal(size=(18, 6))
    assert Domain.of_clips(features, features, [str(row % 3) for row in range(18)]) is None
    assert Domain.of_clips(features[:1], features, ["a", "b"] * 9) is None
    assert Domain.of_clips(features, np.array([]), []) is None


def test_a_feature_that_does_not_vary_is_no_reason_for_a_distance():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(100, 6)) * [10, 10, 1, 10, 0, 1]
    domain = Domain.of_clips(features, features, [str(row % 5) for row in range(100)])
    moved = features.mean(axis=0) + [0, 0, 0, 0, 0.005, 0]
    assert domain.distance(moved) < 1


def test_drawings_are_far_from_photographs():
    rng = np.random.default_rng(0)
    photographs = [data.astronaut(), data.chelsea(), data.coffee(), data.rocket(), data.cat()]
    features = [frame_features(views(each, rng, 30)) for each in photographs]
    learned, held_out = np.concatenate(features[:3]), np.concatenate(features[3:])
    domain = Domain.of_clips(learned, held_out, ["rocket"] * 30 + ["cat"] * 30)
    drawing = np.full((90, 90, 3), 255, np.uint8)
    for row, color in enumerate(([200, 30, 30], [30, 160, 60], [20, 60, 220])):
        rows, columns = draw.disk((20 + 25 * row, 45), 11)
        drawing[rows, columns] = color
    distances = [domain.distance(each) for each in held_out]
    assert domain.distance(frame_features(drawing[None])[0]) > 2 * np.quantile(distances, 0.95)


def test_features_of_simple_frames():
    flat = np.full((1, 8, 8, 3), (10, 10, 10), np.uint8)
    assert frame_features(flat)[0] == pytest.approx([10, 0, 0, 0, 1, 0])
    ramp = np.zeros((1, 4, 64, 3), np.uint8)
    ramp[..., :] = (4 * np.arange(64))[:, None]
    mean, contrast, edges, colorfulness, flat_share, colors = frame_features(ramp)[0]
    assert mean == pytest.approx(126)
    assert contrast == pytest.approx(np.std(4 * np.arange(64)))
    assert edges == pytest.approx(np.log1p(4))
    assert (colorfulness, flat_share) == pytest.approx((0, 0), abs=1e-4)
    assert colors == pytest.approx(np.log(32))
    assert frame_features(np.zeros((0, 4, 4, 3), np.uint8)).shape == (0, 6)
