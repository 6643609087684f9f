from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from laser_dist.jnd.videoset_layout import (
    FILMS,
    ClipName,
    film_of,
    parse_clip_name,
    videoset_source_id,
)

NAMES = st.builds(
    ClipName,
    source_index=st.integers(1, 999),
    width=st.integers(1, 9999),
    height=st.integers(1, 9999),
    rate=st.sampled_from([24, 30]),
    qp=st.integers(0, 51),
    suffix=st.sampled_from(["264", "mp4", "avi", "yuv"]),
)


@given(NAMES)
def test_a_clip_name_parses_to_its_parts(name):
    assert parse_clip_name(name.path.name) == name


def test_a_clip_of_videoset():
    # A name and a folder as they stand in VideoSet's own archives.
    name = parse_clip_name("videoSRC001_1280x720_30_qp_22.264")
    assert name is not None
    assert str(name.path) == "videoSRC001_1280x720_30/videoSRC001_1280x720_30_qp_22.264"
    assert (name.source_id, name.resolution, name.qp) == ("videoSRC001", "1280x720", 22)
    assert name.fps == Fraction(30000, 1001)
    assert ClipName(source_index=91, width=640, height=360, rate=24, qp=0).fps == 24


@pytest.mark.parametrize(
    "name",
    [
        "videoSRC001_1280x720_30_qp_22.264.part",
        "videoSRC01_1280x720_30_qp_22.264",
        "videoSRC001_1280x720_25_qp_22.264",
        "videoSRC001_1280x720_30_qp_5.264",
        "videoSRC001_1280x720_30_qp_22.mkv",
        "640x360_1st.csv",
    ],
)
def test_other_file_names_are_not_clips(name):
    assert parse_clip_name(name) is None


def test_source_ids_have_three_digits():
    assert [videoset_source_id(1), videoset_source_id(220)] == ["videoSRC001", "videoSRC220"]


def test_the_ranges_of_films_are_those_of_their_frame_rates():
    assert (len(FILMS), sum(FILMS.values())) == (11, 220)
    # In the published streams, exactly these sources have 24 frames per second.
    slow = {*range(91, 121), *range(136, 149), *range(159, 221)}
    ranges = {film: [i for i in range(1, 221) if film_of(i) == film] for film in FILMS}
    for film, sources in ranges.items():
        assert len(sources) == FILMS[film] == sources[-1] - sources[0] + 1
        assert len({source in slow for source in sources}) == 1, film
    assert [film_of(i) for i in (1, 31, 32, 90, 91, 180, 181, 220)] == [
        *("El Fuente", "El Fuente", "Chimera", "Chimera", "Ancient Thought"),
        *("Unspoken Friend", "Tears of Steel", "Tears of Steel"),
    ]
    assert film_of(221) is None
