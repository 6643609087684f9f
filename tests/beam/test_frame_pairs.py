import io
import zipfile
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from ffmpeg_scores import clip_score
from labeled_fakes import (
    HEIGHT,
    QPS,
    SETTINGS,
    WIDTH,
    encoded,
    labeled,
    levels_at,
    stored,
    stored_at,
    waves,
    yuv_bytes,
)
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio
from video_clips import clip_of, picture_bits

from beam_pipelines.dataset.frame_pairs import measure_source
from beam_pipelines.elements import LabeledSource
from beam_pipelines.inputs.archives import members_of
from laser_dist.errors import UserError
from laser_dist.jnd.scale import QF, QP
from laser_dist.video.codec import MAX_CLIP_BYTES, decode, encode_h264
from laser_dist.video.containers import VideoError
from laser_dist.video.images import encode_jpeg


@pytest.fixture(scope="module")
def streams():
    return encoded(waves())


def measured(source, unusable=None, steps=None):
    return measure_source(source, SETTINGS, unusable or {}, (steps or []).append)


def origins(result):
    return {row.quantizer: row.origin for row in result.rows}


def rejected(result):
    """Return (QP in the name, reason) of each reject."""
    return [(int(r.where.partition("_qp_")[2][:2]), r.why) for r in result.rejects]


def half_as_wide(clip):
    return clip_of(clip.y[:, :, :32], clip.u[:, :, :16], clip.v[:, :, :16], fps=clip.fps)


def test_a_clip_of_another_size_than_its_name_states_is_rejected(streams, tmp_path):
    small = encode_h264(half_as_wide(waves()), qp=28)
    result = measured(labeled(tmp_path, streams | {28: small}))
    assert rejected(result) == [(28, "it is 32x48, not 64x48 as its name states")]
    assert origins(result)[28] == "encoded"  # it is a level


def test_a_clip_of_another_size_than_the_reference_is_rejected(streams, tmp_path):
    small = encode_h264(half_as_wide(waves()), qp=28)
    source = replace(labeled(tmp_path, streams | {28: small}), size=None)
    why = "it has 3 frames of 32x48, but the reference has 3 frames of 64x48"
    assert rejected(measured(source)) == [(28, why)]


@pytest.mark.parametrize("num_frames", [1, 2, 4])
def test_a_clip_of_another_length_is_rejected(streams, tmp_path, num_frames):
    other = encode_h264(waves(num_frames), qp=28)
    result = measured(labeled(tmp_path, streams | {28: other}, levels=(20, 20, 36)))
    why = f"it has {num_frames} frames of 64x48, but the reference has 3 frames of 64x48"
    assert rejected(result) == [(28, why)]
    assert origins(result) == {0: "file", 20: "file", 36: "file"}  # not a level: no row
    assert result.is_final


def test_a_reference_shorter_than_most_of_its_clips_is_an_error(streams, tmp_path):
    short = encode_h264(waves(2), qp=0)
    with pytest.raises(VideoError, match=r"reference of .* has 2 frames .*, but most .* have 3"):
        measured(labeled(tmp_path, streams | {0: short}))


def test_clips_shorter_than_the_reference_and_most_others_are_rejected(streams, tmp_path):
    few = encoded(waves(2), (28,))
    assert [qp for qp, _ in rejected(measured(labeled(tmp_path, streams | few)))] == [28]


def test_damaged_clips_do_not_count_against_the_reference(streams, tmp_path):
    cut = {qp: streams[qp][: len(streams[qp]) // 2] for qp in QPS}
    result = measured(labeled(tmp_path, streams | cut))
    assert [qp for qp, _ in rejected(result)] == list(QPS)
    assert set(origins(result).values()) == {"file", "encoded"}


def test_a_clip_truncated_between_two_frames_is_rejected(streams, tmp_path):
    cut = streams[28][: streams[28].rindex(b"\0\0\1")]
    assert decode(cut).num_frames == 2  # it decodes without an error
    result = measured(labeled(tmp_path, streams | {28: cut}))
    why = "it has 2 frames of 64x48, but the reference has 3 frames of 64x48"
    assert rejected(result) == [(28, why)]


def test_a_damaged_reference_is_an_error_and_no_row(streams, tmp_path):
    with pytest.raises(VideoError, match="_qp_00.264"):
        measured(labeled(tmp_path, streams | {0: streams[0][:200]}))


@pytest.mark.parametrize("in_archive", [False, True])
def test_a_clip_that_names_another_file_is_rejected(streams, tmp_path, monkeypatch, in_archive):
    # FFmpeg would look below the working directory.
    monkeypatch.chdir(tmp_path)
    (tmp_path / "secret.264").write_bytes(streams[0])
    concat = b"ffconcat version 1.0\nfile secret.264\n"
    source = labeled(tmp_path, streams | {28: concat})
    if in_archive:
        (name,) = (file.name for qp, file in source.clips if qp == 28)
        with zipfile.ZipFile(tmp_path / "clips.zip", "w") as archive:
            archive.writestr(name, concat)
        (member,) = members_of(stored_at(tmp_path / "clips.zip"), "")[0]
        clips = tuple((qp, member if qp == 28 else file) for qp, file in source.clips)
        source = replace(source, clips=clips)
    result = measured(source)
    assert rejected(result) == [
        (
            28,
            "Cannot decode it: it is damaged, or not a video or image of a supported format",
        )
    ]
    assert origins(result)[28] == "encoded"


def test_a_clip_above_the_limit_is_rejected_and_not_read(streams, tmp_path):
    source = labeled(tmp_path, streams)
    clips = dict(source.clips)
    with open(clips[28].location, "wb") as file:
        file.truncate(MAX_CLIP_BYTES + 1)  # sparse
    clips[28] = stored_at(clips[28].location)
    result = measured(replace(source, clips=tuple(clips.items())))
    why = "it has 2,147,483,649 bytes; the limit is 2,147,483,648"
    assert rejected(result) == [(28, why)]


def test_raw_video_gives_the_same_rows_without_sizes(streams, tmp_path):
    decoded = {qp: yuv_bytes(decode(stream)) for qp, stream in streams.items()}
    theirs = measured(labeled(tmp_path, decoded, suffix="yuv"))
    ours = measured(labeled(tmp_path, streams))
    for row, other in zip(theirs.rows, ours.rows, strict=True):
        unknown = {"num_bits": None, "bitrate_kbps": None, "encoder": "", "encoder_version": ""}
        assert row == replace(other, **unknown)


@pytest.mark.parametrize(
    ("num_bytes", "text"),
    [
        (0, "0 bytes are not a multiple of 4608"),
        # A frame is 64 * 48 * 3 / 2 = 4608 bytes.
        (3 * 4608 - 1, "13823 bytes are not a multiple of 4608"),
        (3 * 4608 + 1, "13825 bytes are not a multiple of 4608"),
        (2 * 4608, "has 2 frames of 64x48"),
        (4 * 4608, "has 4 frames of 64x48"),
    ],
)
def test_raw_video_of_a_wrong_length_is_rejected(streams, tmp_path, num_bytes, text):
    assert WIDTH * HEIGHT * 3 // 2 == 4608
    decoded = {qp: yuv_bytes(decode(stream)) for qp, stream in streams.items()}
    wrong = (decoded[28] * 2)[:num_bytes]
    result = measured(labeled(tmp_path, decoded | {28: wrong}, suffix="yuv"))
    ((qp, reason),) = rejected(result)
    assert qp == 28
    assert text in reason


def test_files_known_to_be_bad_are_not_opened(streams, tmp_path):
    source = labeled(tmp_path, streams, levels=(20, 20, 36))
    next(tmp_path.glob("*/*_qp_28.264")).unlink()
    result = measured(source, {28: "it timed out"})
    assert rejected(result) == [(28, "Cannot decode it: it timed out")]
    assert not result.is_final
    with pytest.raises(VideoError, match="cannot be decoded: it timed out"):
        measured(source, {0: "it timed out"})


@pytest.mark.parametrize("qp", [28, 0])
def test_an_unreadable_file_is_not_taken_for_a_damaged_one(streams, tmp_path, qp):
    source = labeled(tmp_path, streams, levels=(20, 20, 36))
    next(tmp_path.glob(f"*/*_qp_{qp:02d}.264")).unlink()
    check_that_reading_fails(source)


def check_that_reading_fails(source):
    with pytest.raises(UserError, match="was removed while the dataset was built") as raised:
        measured(source)
    assert not isinstance(raised.value, VideoError)


def images(folder, contents, original=None, levels=(50, 30, 10)):
    """Return the source of an image: JPEGs by quality factor, and the original."""
    return LabeledSource(
        source_id="ImageJND_SRC01",
        group_id="ImageJND_SRC01",
        scale=QF,
        fps=None,
        size=None,
        clips=tuple(
            (quality, stored(folder / f"a_qp_{quality:02d}.jpg", content))
            for quality, content in sorted(contents.items())
        ),
        original=original and stored(folder / "a.bmp", original),
        levels=levels_at(*levels),
    )


def jpegs(rgb, qualities=(10, 30, 50, 100)):
    return {quality: encode_jpeg(rgb, quality=quality) for quality in qualities}


def bmp(rgb):
    file = io.BytesIO()
    Image.fromarray(rgb).save(file, "bmp")
    return file.getvalue()


def test_a_reference_image_of_another_size_than_most_clips_is_an_error(tmp_path):
    rgb = waves().rgb(0)
    contents = jpegs(rgb) | jpegs(rgb[:32], (100,))
    with pytest.raises(VideoError, match="has 1 frames of 64x32, but most .* 64x48"):
        measured(images(tmp_path, contents))
    contents = jpegs(rgb) | jpegs(rgb[:32], (30,))
    assert [qf for qf, _ in rejected(measured(images(tmp_path, contents)))] == [30]


def test_a_level_is_not_encoded_from_an_original_of_another_size(tmp_path):
    rgb = waves().rgb(0)
    contents = jpegs(rgb, (10, 50, 100))
    assert origins(measured(images(tmp_path, contents, bmp(rgb))))[30] == "encoded"
    with pytest.raises(VideoError, match=r"a\.bmp has 1 frames of 64x32, but the reference"):
        measured(images(tmp_path, contents, bmp(rgb[:32])))
    with pytest.raises(VideoError, match=r"Cannot decode .*a\.bmp"):
        measured(images(tmp_path, contents, bmp(rgb)[:-500]))


def test_an_unreadable_original_is_not_taken_for_a_damaged_one(tmp_path):
    rgb = waves().rgb(0)
    source = images(tmp_path, jpegs(rgb, (10, 50, 100)), bmp(rgb))
    (tmp_path / "a.bmp").unlink()
    check_that_reading_fails(source)


def test_every_quantizer_is_reported_before_it_is_read(streams, tmp_path):
    steps = []
    measure_source(labeled(tmp_path, streams, levels=(20, 30, 36)), SETTINGS, {}, steps.append)
    assert steps == [0, 20, 28, 30, 36, None]


def test_rows_have_the_values_of_ffmpegs_own_filters(streams, tmp_path):
    result = measured(labeled(tmp_path, streams))
    for row in result.rows[1:]:
        distorted = streams[row.quantizer]
        psnr_db, ssim, xpsnr_db = (
            clip_score(name, streams[0], distorted) for name in ("psnr", "ssim", "xpsnr")
        )
        assert row.psnr_y_db == pytest.approx(psnr_db, abs=1e-5)
        assert row.ssim == pytest.approx(ssim, abs=1e-6)
        assert row.xpsnr_db == pytest.approx(xpsnr_db, abs=1e-4)
        assert row.num_bits == picture_bits(distorted)
        # 3 frames at 30000/1001 frames per second.
        seconds = Fraction(3 * 1001, 30000)
        assert row.bitrate_kbps == pytest.approx(float(row.num_bits / 1000 / seconds))


def test_pairs_hold_the_clips_frames_and_their_psnr(streams, tmp_path):
    reference, *clips = (decode(streams[qp]) for qp in (0, *QPS))
    size = {"width": 32, "height": 32}
    for pair in measured(labeled(tmp_path, streams)).pairs:
        np.testing.assert_array_equal(pair.raw, reference.rgb(pair.frame_index, **size))
        for level, clip in enumerate(clips):
            np.testing.assert_array_equal(pair.levels[level], clip.rgb(pair.frame_index, **size))
            psnr_db = peak_signal_noise_ratio(pair.raw, pair.levels[level])  # scikit-image's
            assert pair.psnr_db[level] == pytest.approx(psnr_db)


def test_a_missing_level_has_no_frame(streams, tmp_path):
    source = labeled(tmp_path, streams)
    first, second, third = source.levels
    without = replace(source, levels=(first, second, replace(third, value=float("nan"))))
    result = measured(without)
    assert result.metadata.level_origins == ("file", "file", "")
    for pair in result.pairs:
        assert not pair.levels[2].any()
        assert np.isnan(pair.psnr_db[2])
    assert origins(result)[36] == "file"  # it is measured nevertheless
    assert QP.reference in origins(result)
