import io
import json
import re
from dataclasses import replace

import numpy as np
import pytest
from photographs import photographs
from PIL import Image
from synthetic_fakes import contents

from beam_pipelines.rejects import Reject, read_rejects
from beam_pipelines.runner import local_options
from beam_pipelines.synthetic.footage import Footage, draw_takes
from beam_pipelines.synthetic.mcl_jci import (
    ImageVersions,
    MclJciSettings,
    judge,
    make_image,
)
from beam_pipelines.synthetic.pipeline import fingerprint, marker_of, synthesize
from laser_dist.errors import UserError
from laser_dist.jnd.mcl_jci_labels import read_mcl_jci_labels
from laser_dist.jnd.videoset_layout import FRAME_RATES
from laser_dist.video.codec import encode_h264
from laser_dist.video.frames import Clip
from laser_dist.video.images import encode_jpeg

pytestmark = [
    pytest.mark.beam,
    # Beam's own use of the packages that it asks for.
    pytest.mark.filterwarnings("ignore::DeprecationWarning:apache_beam"),
]

TINY = MclJciSettings(num_sources=4, width=64, height=48, qfs=(2, 10, 30, 60, 100))
LEFT_OUT = Reject(what="file", where="notes.txt", stage="find", why="not a complete image")


@pytest.fixture(scope="module")
def footage(tmp_path_factory):
    return photographs(tmp_path_factory.mktemp("footage"))


@pytest.fixture(scope="module")
def synthetic(footage, tmp_path_factory):
    folder = tmp_path_factory.mktemp("made") / "mini"
    synthesize(footage, TINY, folder, local_options(1), left_out=[LEFT_OUT])
    return folder


def lines_of(synthetic, source_index):
    text = (synthetic / f"MCL-JCI/JND_samples/JND_image_{source_index:02d}.txt").read_text()
    return [line.split(" ") for line in text.splitlines()]


def test_the_dataset_has_the_layout_of_mcl_jci_and_nothing_else(synthetic):
    expected = {"SIMULATED.json", "rejects.parquet"}
    for source in ("01", "02", "03", "04"):
        name = f"ImageJND_SRC{source}"
        expected |= {
            f"MCL-JCI/source_images/[BMP]/{name}.bmp",
            f"MCL-JCI/JND_samples/JND_image_{source}.txt",
            *(
                f"MCL-JCI/distorted_image/{name}/{name}_{qf}.jpg"
                for qf in ("002", "010", "030", "060", "100")
            ),
        }
    assert contents(synthetic).keys() == expected
    assert read_rejects(synthetic / "rejects.parquet") == ((LEFT_OUT,), 4)


def test_each_image_has_the_content_that_its_name_states(synthetic, footage):
    for take in draw_takes(footage, TINY)[:2]:
        name = f"ImageJND_SRC{take.source_index:02d}"
        source = Image.open(synthetic / "MCL-JCI/source_images/[BMP]" / f"{name}.bmp")
        image = make_image(take, TINY)
        np.testing.assert_array_equal(np.asarray(source), image)
        coded = synthetic / "MCL-JCI/distorted_image" / name / f"{name}_030.jpg"
        assert coded.read_bytes() == encode_jpeg(image, quality=30)


def test_the_label_files_hold_the_judgments_of_the_viewers(synthetic, footage):
    for take in draw_takes(footage, TINY):
        coded = ImageVersions(make_image(take, TINY), TINY.masking)
        chains = judge(coded, take.source_index, TINY)
        lines = lines_of(synthetic, take.source_index)
        assert [line[0] for line in lines] == [f"subject{number:02d}" for number in range(1, 31)]
        assert [tuple(map(int, line[1:])) for line in lines] == list(chains)
        labels = read_mcl_jci_labels(synthetic).sources[take.source_index - 1]
        assert tuple(viewer.quality_factors for viewer in labels.chains) == chains
        for chain in chains:
            assert 1 <= len(chain) <= 8
            assert list(chain) == sorted(set(chain), reverse=True)
            assert 1 <= chain[-1] <= chain[0] <= 99


def test_viewers_compare_with_the_jpeg_of_quality_100(footage):
    image = make_image(draw_takes(footage, TINY)[0], TINY)
    assert ImageVersions(image, TINY.masking).visibilities([100])[0] == 0
    pixels = np.asarray(Image.open(io.BytesIO(encode_jpeg(image, quality=100))))
    assert np.any(pixels != image)


def test_the_marker_describes_the_simulation_and_the_groups(synthetic, footage):
    marker = json.loads((synthetic / "SIMULATED.json").read_text())
    assert marker == json.loads(json.dumps(marker_of(draw_takes(footage, TINY), TINY)))
    assert marker["simulated"] is True
    assert marker["kind"] == "mcl-jci"
    assert marker["encoder"].startswith("libjpeg")
    assert "30 simulated viewers" in marker["simulated_viewers"]
    assert "no person has labeled" in marker["simulated_viewers"]
    assert marker["settings"]["qfs"] == list(TINY.qfs)
    assert list(marker["groups"]) == [f"ImageJND_SRC0{number}" for number in (1, 2, 3, 4)]
    assert marker["groups"]["ImageJND_SRC04"] == marker["groups"]["ImageJND_SRC01"] == "photo0"


def test_two_workers_write_the_same_files(synthetic, footage, tmp_path):
    synthesize(footage, TINY, tmp_path / "again", local_options(2), left_out=[LEFT_OUT])
    assert contents(tmp_path / "again") == contents(synthetic)


def test_the_fingerprint_covers_the_settings(footage):
    takes = draw_takes(footage, TINY)
    changes = ({}, {"qfs": (10, 30, 100)}, {"seed": 1}, {"width": 66})
    assert len({fingerprint(takes, replace(TINY, **change)) for change in changes}) == 4


def test_images_count_once_their_source_is_written(tmp_path):
    root = tmp_path / "MCL-JCI"
    for name in ("distorted_image/ImageJND_SRC02/x.jpg", "source_images/[BMP]/ImageJND_SRC01.bmp"):
        (root / name).parent.mkdir(parents=True)
        (root / name).touch()
    assert [path.name for path in tmp_path.glob(TINY.last_files)] == ["ImageJND_SRC01.bmp"]


def test_a_damaged_photograph_is_rejected_and_too_many_are_an_error(footage, tmp_path):
    path = tmp_path / "cut.jpg"
    photo = np.asarray(Image.open(footage[0].path))
    path.write_bytes(encode_jpeg(photo, quality=90)[:2000])  # its header is complete
    damaged = (Footage("cut", path, is_video=False), *footage)
    with pytest.raises(
        UserError, match=r"1 of 4 sources .*: source ImageJND_SRC01 from .*cut\.jpg"
    ):
        synthesize(damaged, TINY, tmp_path / "mini", local_options(1))
    assert {path.name for path in tmp_path.iterdir()} == {"cut.jpg", "mini-rejects.parquet"}
    (reject,), total = read_rejects(tmp_path / "mini-rejects.parquet")
    assert total == 4
    assert reject.stage == "make"
    assert re.match(r"Cannot decode photograph .*cut\.jpg: ", reject.why)


def test_the_image_of_a_video_is_the_first_frame_of_an_excerpt(tmp_path):
    path = tmp_path / "video.264"
    noise = np.random.default_rng(0).integers(0, 256, (3, 48, 64, 3), np.uint8)
    path.write_bytes(encode_h264(Clip.from_rgb(noise, FRAME_RATES[30]), qp=20))
    (take,) = draw_takes([Footage("v", path, is_video=True)], replace(TINY, num_sources=1))
    assert make_image(take, TINY).shape == (48, 64, 3)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"num_sources": 100}, "Setting num_sources must be 1 to 99, not 100"),
        ({"width": 63}, "Setting width must be even, at least 16, not 63"),
        ({"seed": -1}, "Setting seed must be 0 or more, not -1"),
        ({"qfs": (50, 100)}, "Setting qfs must be three or more"),
        ({"qfs": (50, 30, 100)}, "Setting qfs must be three or more"),
        ({"qfs": (0, 50, 100)}, "Setting qfs must be three or more"),
        ({"qfs": (20, 50, 99)}, "Setting qfs must be three or more"),
        ({"qfs": ()}, "Setting qfs must be three or more"),
    ],
)
def test_invalid_settings_are_rejected(change, text):
    with pytest.raises(UserError, match=text):
        replace(TINY, **change)
