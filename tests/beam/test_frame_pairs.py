import io
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from labeled_fakes import (
    HEIGHT,
    QPS,
    SETTINGS,
    WIDTH,
    coded,
    judged,
    levels_at,
    stored,
    waves,
    yuv_bytes,
)
from PIL import Image

from beam_pipelines.dataset.codecs import UnreadableClip
from beam_pipelines.dataset.frame_pairs import measure_source
from beam_pipelines.elements import LabeledSource
from laser_dist.jnd.scale import QF, QP
from laser_dist.video.codec import decode, encode_h264
from laser_dist.video.containers import VideoError
from laser_dist.video.frames import Clip
from laser_dist.video.jpeg import encode_jpeg
from laser_dist.video.quality import measure_quality, psnr_rgb_db


@pytest.fixture(scope="module")
def streams():
    return coded(waves())


def measured(source, unusable=None, steps=None):
    return measure_source(source, SETTINGS, unusable or {}, (steps or []).append)


def origins(result):
    return {row.quantizer: row.origin for row in result.rows}


def told(result):
    """(QP in the name, reason) of each reject."""
    return [
        (int(r.where.partition("_qp_")[2][:2]), r.why.rpartition(": ")[2].rstrip("."))
        for r in result.rejects
    ]


def half_as_wide(clip):
    return Clip(clip.y[:, :, :32], clip.u[:, :, :16], clip.v[:, :, :16], clip.timestamps, clip.fps)


def test_a_clip_of_another_size_than_its_name_says_is_a_reject(streams, tmp_path):
    small = encode_h264(half_as_wide(waves()), qp=28)
    result = measured(judged(tmp_path, streams | {28: small}))
    assert told(result) == [(28, "expected 64x48, as its name says, got 32x48")]
    assert origins(result)[28] == "encoded"  # it is a level


def test_where_names_tell_no_size_a_clip_must_be_as_large_as_the_reference(streams, tmp_path):
    small = encode_h264(half_as_wide(waves()), qp=28)
    source = replace(judged(tmp_path, streams | {28: small}), size=None)
    assert told(measured(source)) == [(28, "expected 3 frames of 64x48, got 3 frames of 32x48")]


@pytest.mark.parametrize("num_frames", [1, 2, 4])
def test_a_clip_of_another_number_of_frames_is_a_reject(streams, tmp_path, num_frames):
    other = encode_h264(waves(num_frames), qp=28)
    result = measured(judged(tmp_path, streams | {28: other}, levels=(20, 20, 36)))
    got = f"{num_frames} frames of 64x48"
    assert told(result) == [(28, f"expected 3 frames of 64x48, got {got}")]
    assert origins(result) == {0: "file", 20: "file", 36: "file"}  # no level: no row
    assert result.is_final


def test_a_reference_shorter_than_most_of_its_clips_is_none(streams, tmp_path):
    short = encode_h264(waves(2), qp=0)
    with pytest.raises(VideoError, match=r"Reference of .*3 frames of 64x48, as most .* got 2"):
        measured(judged(tmp_path, streams | {0: short}))


def test_where_most_clips_are_as_long_as_the_reference_the_others_are_at_fault(streams, tmp_path):
    few = coded(waves(2), (28,))
    assert [qp for qp, _ in told(measured(judged(tmp_path, streams | few)))] == [28]


def test_damaged_clips_say_nothing_of_the_references_length(streams, tmp_path):
    cut = {qp: streams[qp][: len(streams[qp]) // 2] for qp in QPS}
    result = measured(judged(tmp_path, streams | cut))
    assert [qp for qp, _ in told(result)] == list(QPS)
    assert set(origins(result).values()) == {"file", "encoded"}


def test_a_clip_cut_between_two_frames_is_a_reject(streams, tmp_path):
    cut = streams[28][: streams[28].rindex(b"\0\0\1")]
    assert decode(cut).num_frames == 2  # nothing else tells
    result = measured(judged(tmp_path, streams | {28: cut}))
    assert told(result) == [(28, "expected 3 frames of 64x48, got 2 frames of 64x48")]


def test_a_damaged_reference_is_an_error_and_no_row(streams, tmp_path):
    with pytest.raises(VideoError, match="_qp_00.264"):
        measured(judged(tmp_path, streams | {0: streams[0][:200]}))


def test_clips_of_raw_video_are_measured_as_they_are(streams, tmp_path):
    decoded = {qp: yuv_bytes(decode(stream)) for qp, stream in streams.items()}
    theirs = measured(judged(tmp_path, decoded, suffix="yuv"))
    ours = measured(judged(tmp_path, streams))
    for row, other in zip(theirs.rows, ours.rows, strict=True):
        unknown = {"num_bits": None, "bitrate_kbps": None, "encoder": "", "encoder_version": ""}
        assert row == replace(other, **unknown)


@pytest.mark.parametrize(
    ("num_bytes", "got"),
    [
        (0, "0 bytes are not a multiple of 4608"),
        # A frame is 64 * 48 * 3 / 2 = 4608 bytes.
        (3 * 4608 - 1, "13823 bytes are not a multiple of 4608"),
        (3 * 4608 + 1, "13825 bytes are not a multiple of 4608"),
        (2 * 4608, "got 2 frames of 64x48"),
        (4 * 4608, "got 4 frames of 64x48"),
    ],
)
def test_raw_video_of_a_wrong_length_is_a_reject(streams, tmp_path, num_bytes, got):
    assert WIDTH * HEIGHT * 3 // 2 == 4608
    decoded = {qp: yuv_bytes(decode(stream)) for qp, stream in streams.items()}
    wrong = (decoded[28] * 2)[:num_bytes]
    result = measured(judged(tmp_path, decoded | {28: wrong}, suffix="yuv"))
    ((qp, reason),) = told(result)
    assert qp == 28
    assert got in reason


def test_files_known_to_be_bad_are_not_opened(streams, tmp_path):
    source = judged(tmp_path, streams, levels=(20, 20, 36))
    next(tmp_path.glob("*/*_qp_28.264")).unlink()
    result = measured(source, {28: "it never ended"})
    assert told(result) == [(28, "expected a clip that can be decoded, got it never ended")]
    assert not result.is_final
    with pytest.raises(VideoError, match="got it never ended"):
        measured(source, {0: "it never ended"})


def test_a_file_that_cannot_be_read_is_told_apart_from_one_that_is_damaged(streams, tmp_path):
    source = judged(tmp_path, streams, levels=(20, 20, 36))
    next(tmp_path.glob("*/*_qp_28.264")).unlink()
    result = measured(source)
    assert [qp for qp, _ in told(result)] == [28]
    assert not result.is_final
    next(tmp_path.glob("*/*_qp_00.264")).unlink()
    with pytest.raises(UnreadableClip):
        measured(source)


def images(folder, contents, original=None, levels=(50, 30, 10)):
    """An image's source: JPEGs by quality factor, and what they were coded from."""
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


def test_a_reference_image_of_another_size_than_most_of_its_clips_is_none(tmp_path):
    rgb = waves().rgb(0)
    contents = jpegs(rgb) | jpegs(rgb[:32], (100,))
    with pytest.raises(VideoError, match="1 frames of 64x48, as most .* got 1 frames of 64x32"):
        measured(images(tmp_path, contents))
    contents = jpegs(rgb) | jpegs(rgb[:32], (30,))
    assert [qf for qf, _ in told(measured(images(tmp_path, contents)))] == [30]


def test_a_level_is_not_coded_from_an_original_of_another_size(tmp_path):
    rgb = waves().rgb(0)
    contents = jpegs(rgb, (10, 50, 100))
    assert origins(measured(images(tmp_path, contents, bmp(rgb))))[30] == "encoded"
    with pytest.raises(VideoError, match=r"a\.bmp: expected 1 frames of 64x48, got 1 .* 64x32"):
        measured(images(tmp_path, contents, bmp(rgb[:32])))
    with pytest.raises(VideoError, match=r"a\.bmp: expected a whole image"):
        measured(images(tmp_path, contents, bmp(rgb)[:-500]))


def test_an_original_that_cannot_be_read_is_told_apart_from_one_that_is_damaged(tmp_path):
    rgb = waves().rgb(0)
    source = images(tmp_path, jpegs(rgb, (10, 50, 100)), bmp(rgb))
    (tmp_path / "a.bmp").unlink()
    with pytest.raises(UnreadableClip):
        measured(source)


def test_every_quantizer_is_told_before_it_is_touched(streams, tmp_path):
    steps = []
    measure_source(judged(tmp_path, streams, levels=(20, 30, 36)), SETTINGS, {}, steps.append)
    assert steps == [0, 20, 28, 30, 36, None]


def test_rows_and_pairs_are_what_is_measured_directly(streams, tmp_path):
    result = measured(judged(tmp_path, streams))
    reference, *clips = (decode(streams[qp]) for qp in (0, *QPS))
    size = {"width": 32, "height": 32}
    for row, clip in zip(result.rows[1:], clips, strict=True):
        quality = measure_quality(
            reference,
            clip,
            reference_rgb=reference.rgb_frames(**size),
            distorted_rgb=clip.rgb_frames(**size),
        )
        found = (row.psnr_y_db, row.psnr_rgb_db, row.ssim, row.xpsnr_db)
        assert found == (quality.psnr_y_db, quality.psnr_rgb_db, quality.ssim, quality.xpsnr_db)
        assert row.num_bits == 8 * len(streams[row.quantizer])
        # 3 frames at 30000/1001 frames per second.
        seconds = Fraction(3 * 1001, 30000)
        assert row.bitrate_kbps == pytest.approx(float(row.num_bits / 1000 / seconds))
    for pair in result.pairs:
        raw = reference.rgb(pair.frame_index, **size)
        np.testing.assert_array_equal(pair.raw, raw)
        for level, clip in enumerate(clips):
            frame = clip.rgb(pair.frame_index, **size)
            np.testing.assert_array_equal(pair.levels[level], frame)
            assert pair.psnr_db[level] == psnr_rgb_db(raw, frame)


def test_a_missing_level_has_no_frame(streams, tmp_path):
    source = judged(tmp_path, streams)
    first, second, third = source.levels
    without = replace(source, levels=(first, second, replace(third, value=float("nan"))))
    result = measured(without)
    assert result.facts.level_origins == ("file", "file", "")
    for pair in result.pairs:
        assert not pair.levels[2].any()
        assert np.isnan(pair.psnr_db[2])
    assert origins(result)[36] == "file"  # measured all the same
    assert QP.reference in origins(result)
