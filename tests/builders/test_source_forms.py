"""Examples do not depend on the container or the number of workers."""

import io
import shutil
import tarfile
from fractions import Fraction

import av
import pyarrow.parquet as pq
import pytest
from videoset_builds import (
    FPS,
    TINY,
    build,
)

from beam_pipelines.rejects import read_rejects
from beam_pipelines.runner import local_options
from laser_dist.errors import UserError
from laser_dist.video.codec import decode
from tfds_builders.jnd_dataset import BuildRequest
from tfds_builders.videoset_jnd.videoset_jnd_dataset_builder import Builder

pytestmark = [
    pytest.mark.beam,
    pytest.mark.filterwarnings("ignore::DeprecationWarning:apache_beam"),
    # TFDS calls protobuf in a way that newer versions deprecate.
    pytest.mark.filterwarnings(r"ignore:label\(\) is deprecated:DeprecationWarning"),
]


def test_two_workers_write_the_same_bytes(dataset, synthetic, tmp_path):
    again = build(synthetic, tmp_path, num_workers=2)
    names = sorted(path.relative_to(dataset).as_posix() for path in dataset.rglob("*.*"))
    assert names == sorted(path.relative_to(again).as_posix() for path in again.rglob("*.*"))
    assert sum(".tfrecord" in name for name in names) == 3
    for name in names:
        assert (again / name).read_bytes() == (dataset / name).read_bytes(), name


def test_another_file_format_is_refused_before_anything_is_written(synthetic, tmp_path):
    builder = Builder(data_dir=tmp_path / "data", config=TINY)
    builder.request = BuildRequest(manual_dir=str(synthetic), options=local_options(1))
    with pytest.raises(UserError, match="tfrecord files only"):
        builder.download_and_prepare(file_format="parquet")
    assert not (tmp_path / "data").exists()


def transcoded(synthetic, folder, suffix):
    """Copy the synthetic dataset, with its clips in another container or decoded."""
    shutil.copytree(synthetic, folder)
    for path in sorted(folder.rglob("*.264")):
        target = path.with_suffix(suffix)
        if suffix == ".yuv":
            clip = decode(path, fps=FPS)
            planes = zip(clip.y, clip.u, clip.v, strict=True)
            target.write_bytes(b"".join(p.tobytes() for frame in planes for p in frame))
        elif suffix == ".avi":
            target.write_bytes(losslessly_in_avi(decode(path, fps=FPS)))
        else:
            target.write_bytes(remuxed(path.read_bytes(), suffix.removeprefix(".")))
        path.unlink()


def losslessly_in_avi(clip):
    """Encode the same pictures losslessly with FFV1."""
    target = io.BytesIO()
    with av.open(target, "w", format="avi") as output:
        stream = output.add_stream("ffv1", rate=clip.fps)
        stream.width, stream.height, stream.pix_fmt = clip.width, clip.height, "yuv420p"
        for index in range(clip.num_frames):
            frame = clip.frame(index)
            frame.pts, frame.time_base = index, 1 / clip.fps
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return target.getvalue()


def remuxed(stream, container):
    """Copy the encoded pictures into another container."""
    target = io.BytesIO()
    with av.open(io.BytesIO(stream), "r", options={"framerate": "30000/1001"}) as source:
        with av.open(target, "w", format=container) as output:
            (ours,) = source.streams.video
            theirs = output.add_stream_from_template(ours)
            packets = [packet for packet in source.demux(ours) if packet.size]
            for number, packet in enumerate(packets):
                packet.dts = number
                packet.pts = packet.pts if packet.pts is not None else number
                packet.time_base = Fraction(1001, 30000)
                packet.stream = theirs
                output.mux(packet)
    return target.getvalue()


def in_archives(synthetic, folder):
    """Put clips into archives, one of them reissued, next to the label tables."""
    folder.mkdir()
    for path in (*synthetic.glob("*.csv"), synthetic / "SIMULATED.json"):
        shutil.copy(path, folder)
    clips = sorted(synthetic.rglob("*.264"))
    half = len(clips) // 2
    parts = {
        "64x48_part_1.tar.gz": clips[:half],
        "64x48_part_2.tar.gz": clips[:3],
        "64x48_part_2_fix.tar.gz": clips[half:],
    }
    for name, members in parts.items():
        with tarfile.open(folder / name, "w:gz") as archive:
            for path in members:
                archive.add(path, f"part/{path.relative_to(synthetic)}")


@pytest.mark.parametrize("form", [".mp4", ".avi", ".yuv", ".tar.gz"])
def test_every_form_of_the_clips_gives_the_same_examples(form, dataset, synthetic, tmp_path):
    if form == ".tar.gz":
        in_archives(synthetic, tmp_path / "mini")
    else:
        transcoded(synthetic, tmp_path / "mini", form)
    folder = build(tmp_path / "mini", tmp_path / "data")
    rejects, _ = read_rejects(folder / "rejects.parquet")
    superseded = [reject.where for reject in rejects if "superseded by" in reject.why]
    assert len(superseded) == len(rejects) == (form == ".tar.gz")
    shards = sorted(path.name for path in dataset.glob("*.tfrecord*"))
    assert len(shards) == 3
    for name in shards:
        assert (folder / name).read_bytes() == (dataset / name).read_bytes(), name
    rows, expected = (pq.read_table(each / "quality").to_pylist() for each in (folder, dataset))
    for row, other in zip(rows, expected, strict=True):
        if row["origin"] == "encoded" or form == ".tar.gz":
            assert row == other
        elif form in {".yuv", ".avi"}:
            assert (row["num_bits"], row["bitrate_kbps"], row["encoder"]) == (None, None, "")
        else:
            assert row["num_bits"] == other["num_bits"]
            assert row["encoder_version"] == other["encoder_version"]
        for name in ("psnr_y_db", "psnr_y_min_db", "psnr_rgb_db", "ssim", "xpsnr_db"):
            assert row[name] == other[name]
