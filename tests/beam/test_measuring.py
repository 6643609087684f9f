import json
from dataclasses import replace
from functools import partial

import faulty_codec
import isolated_work
import pyarrow.parquet as pq
import pytest
from apache_beam.pvalue import TaggedOutput
from apache_beam.transforms.window import GlobalWindow
from apache_beam.utils.timestamp import MIN_TIMESTAMP
from labeled_fakes import QPS, SETTINGS, encoded, labeled, plain, waves

from beam_pipelines.dataset.frame_pairs import measure_and_write
from beam_pipelines.dataset.measured_files import (
    PAIRS_SUFFIX,
    QUALITY_SUFFIX,
    find_measured,
    location_of,
    read_pairs,
)
from beam_pipelines.dataset.measuring import MeasureSource
from beam_pipelines.rejects import RejectLimit
from laser_dist.errors import UserError
from laser_dist.isolation import Crashed, Isolated
from laser_dist.video.codec import encode_h264
from laser_dist.video.containers import VideoError

AT = (MIN_TIMESTAMP, GlobalWindow())
LIMIT = RejectLimit(refusal="", found=(), total=10, max_rate=1.0)

pytestmark = pytest.mark.slow  # most tests start and crash a process that loads the codecs


@pytest.fixture(scope="module")
def streams():
    return encoded(waves())


@pytest.fixture(scope="module")
def isolated():
    """A codec process for all tests: it takes seconds to load its libraries."""
    isolated = Isolated(60.0)
    yield isolated
    isolated.close()


@pytest.fixture
def run(isolated):
    return partial(_run, isolated)


def _run(isolated, source, folder, *, work=measure_and_write):
    """Return what the step yields for one source: measured files and rejects."""
    step = MeasureSource(
        SETTINGS, str(folder), limit=LIMIT, measure=work, isolate=lambda seconds: isolated
    )
    step.setup()
    outputs = list(step.process(source, *AT))
    rejects = [output.value.value for output in outputs if isinstance(output, TaggedOutput)]
    return [output.value for output in outputs if not isinstance(output, TaggedOutput)], rejects


def rows_of(measured):
    return {row["qp"]: row for row in pq.read_table(measured.quality).to_pylist()}


def times_in(folder):
    return {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}


def test_a_source_is_measured_once_and_then_reused(run, streams, tmp_path):
    source, work = labeled(tmp_path / "in", streams), tmp_path / "work"
    (measured,), rejects = run(source, work)
    assert rejects == []
    assert sorted(rows_of(measured)) == [0, *QPS]
    assert (measured.frame_indices, measured.is_final) == ((0, 1, 2), True)
    metadata, pairs = read_pairs(measured.pairs, [2, 0])
    assert metadata.source_id == "videoSRC001"
    assert [pair.frame_index for pair in pairs] == [2, 0]
    before = times_in(work)
    assert run(source, work) == ([measured], [])
    assert times_in(work) == before


@pytest.mark.parametrize("kind", ["SIGSEGV", "SIGABRT"])
def test_a_clip_that_crashes_the_codec_costs_only_that_clip(run, streams, tmp_path, kind):
    source = labeled(tmp_path / "in", streams, levels=(20, 30, 36), source_id=f"x-{kind}-28")
    # QP 28 is not a level: its row is left out.
    (measured,), (reject,) = run(source, tmp_path / "work", work=faulty_codec.measure)
    assert (reject.what, reject.stage, reject.source_id) == ("clip", "measure", f"x-{kind}-28")
    assert reject.where.endswith("_qp_28.264")
    assert f"killed by {kind}" in reject.why
    whole, _ = run(labeled(tmp_path / "in", streams, levels=(20, 30, 36)), tmp_path / "whole")
    expected = {qp: row | {"source_id": f"x-{kind}-28"} for qp, row in rows_of(whole[0]).items()}
    del expected[28]
    assert rows_of(measured) == expected


def test_a_level_whose_clip_crashes_the_codec_is_encoded(run, streams, tmp_path):
    source = labeled(tmp_path / "in", streams, source_id="x-SIGSEGV-28")
    (measured,), (reject,) = run(source, tmp_path / "work", work=faulty_codec.measure)
    assert reject.where.endswith("_qp_28.264")
    assert {qp: row["origin"] for qp, row in rows_of(measured).items()} == {
        0: "file",
        20: "file",
        28: "encoded",
        36: "file",
    }
    metadata, _ = read_pairs(measured.pairs, [0])
    assert metadata.level_origins == ("file", "encoded", "file")


class TimesOut:
    """Stands in for a codec process whose time limit is exceeded at QP 28."""

    def __init__(self, seconds):
        self._seconds = seconds

    def call(self, work, source, settings, folder, unusable):
        if 28 not in unusable:
            raise Crashed(28, f"timed out after {self._seconds:g} s")
        work(source, settings, folder, unusable, lambda step: None)

    def stop(self):
        pass

    close = stop


def test_a_clip_that_times_out_costs_only_that_clip(streams, tmp_path):
    source = labeled(tmp_path / "in", streams, levels=(20, 20, 36))
    work = str(tmp_path / "work")
    step = MeasureSource(SETTINGS, work, limit=LIMIT, clip_seconds=30.0, isolate=TimesOut)
    step.setup()
    measured, reject = (output.value for output in step.process(source, *AT))
    step.teardown()
    assert reject.value.where.endswith("_qp_28.264")
    assert reject.value.why == "Cannot decode it: timed out after 30 s"
    assert sorted(rows_of(measured)) == [0, 20, 36]


def test_a_reference_that_crashes_the_codec_costs_the_source(run, streams, tmp_path):
    source = labeled(tmp_path / "in", streams, source_id="x-SIGSEGV-0")
    measured, (reject,) = run(source, tmp_path / "work", work=faulty_codec.measure)
    assert measured == []
    assert (reject.what, reject.where) == ("source", "x-SIGSEGV-0")
    assert "cannot be decoded: the codec process was killed by SIGSEGV" in reject.why
    assert not (tmp_path / "work").exists()


def test_a_codec_that_crashes_at_a_level_without_a_file_costs_the_source(run, streams, tmp_path):
    source = labeled(tmp_path / "in", streams, levels=(20, 30, 36), source_id="x-SIGSEGV-30")
    measured, (reject,) = run(source, tmp_path / "work", work=faulty_codec.measure)
    assert (measured, reject.what) == ([], "source")
    assert reject.why == "the codec process was killed by SIGSEGV, at QP 30"


def test_after_a_crash_the_next_source_is_measured(run, streams, tmp_path):
    for source_id in ("x-SIGSEGV-0", "x-none-99"):
        source = labeled(tmp_path / "in", streams, source_id=source_id)
        measured, _ = run(source, tmp_path / "work", work=faulty_codec.measure)
    assert [each.source_id for each in measured] == ["x-none-99"]


def test_the_codec_process_stops_with_the_step(streams, tmp_path):
    isolated = Isolated(60.0)
    work = str(tmp_path / "work")
    step = MeasureSource(SETTINGS, work, limit=LIMIT, isolate=lambda seconds: isolated)
    step.setup()
    list(step.process(labeled(tmp_path / "in", streams), *AT))
    number = isolated.call(isolated_work.process_id)
    step.teardown()
    assert isolated_work.exits(number)
    step.teardown()


def test_two_processes_yield_every_source_once_by_the_end_of_the_bundle(streams, tmp_path):
    ids = ["x-none-1", "x-SIGSEGV-0", "x-none-2", "x-none-3"]
    sources = [labeled(tmp_path / "in", streams, source_id=name) for name in ids]
    work = str(tmp_path / "work")
    step = MeasureSource(SETTINGS, work, limit=LIMIT, num_processes=2, measure=faulty_codec.measure)
    step.setup()
    outputs = [output for source in sources for output in step.process(source, *AT)]
    assert len(outputs) < len(ids)  # one per process is still running
    outputs += step.finish_bundle()
    step.teardown()
    found = [each.value.value if isinstance(each, TaggedOutput) else each.value for each in outputs]
    names = [getattr(each, "source_id", None) or each.where for each in found]
    assert sorted(names) == sorted(ids)


@pytest.mark.parametrize(("kind", "error"), [("full", OSError), ("bug", ZeroDivisionError)])
def test_an_error_that_is_no_fault_of_a_clip_stops_the_work(run, streams, tmp_path, kind, error):
    source = labeled(tmp_path / "in", streams, source_id=f"x-{kind}-28")
    with pytest.raises(error):
        run(source, tmp_path / "work", work=faulty_codec.measure)


def test_a_folder_that_cannot_be_written_is_no_fault_of_the_source(run, streams, tmp_path):
    (tmp_path / "work").touch()  # a file where the folder should be
    with pytest.raises((OSError, RuntimeError), match=r"\[Errno"):
        run(labeled(tmp_path / "in", streams), tmp_path / "work")


def test_a_damaged_clip_is_not_read_again(run, streams, tmp_path):
    source = labeled(tmp_path / "in", streams | {20: streams[20][:-40]})
    (measured,), (reject,) = run(source, tmp_path / "work")
    assert (reject.what, measured.is_final) == ("clip", True)
    before = times_in(tmp_path / "work")
    assert run(source, tmp_path / "work") == ([measured], [reject])
    assert times_in(tmp_path / "work") == before


def test_a_clip_that_cannot_be_read_stops_the_work(run, streams, tmp_path):
    source, work = labeled(tmp_path / "in", streams), tmp_path / "work"
    for qp in (28, 0):
        (clip,) = (tmp_path / "in").glob(f"*/*_qp_{qp:02d}.264")
        clip.rename(clip.with_suffix(".away"))
        message = rf"_qp_{qp:02d}\.264 was removed while"
        with pytest.raises(UserError, match=message) as raised:
            run(source, work)
        assert not isinstance(raised.value, VideoError)
        clip.with_suffix(".away").rename(clip)
    (measured,), rejects = run(source, work)
    assert (rejects, measured.is_final) == ([], True)
    assert rows_of(measured)[28]["origin"] == "file"


def test_a_clip_that_crashed_the_codec_is_tried_again(run, streams, tmp_path):
    source, work = labeled(tmp_path / "in", streams, source_id="x-SIGSEGV-28"), tmp_path / "work"
    _, (_,) = run(source, work, work=faulty_codec.measure)
    (measured,), rejects = run(source, work)
    assert (rejects, measured.is_final) == ([], True)


def test_a_codec_that_is_killed_twice_is_no_fault_of_the_clip(run, streams, tmp_path):
    source = labeled(tmp_path / "in", streams, source_id="x-SIGKILL-28")
    with pytest.raises(UserError, match=r"(?s)Memory ran out twice.*fewer --workers"):
        run(source, tmp_path / "work", work=faulty_codec.measure)
    assert not (tmp_path / "work").exists()


def test_a_codec_that_is_killed_once_changes_nothing(run, streams, tmp_path):
    source = labeled(tmp_path / "in", streams, source_id="x-once-28")
    (measured,), rejects = run(source, tmp_path / "work", work=faulty_codec.measure)
    assert (rejects, measured.is_final) == ([], True)
    assert {row["origin"] for row in rows_of(measured).values()} == {"file"}


def test_a_clip_that_exceeds_the_memory_limit_is_rejected(streams, tmp_path):
    # Decoded, 16 frames of 4000x3000 pixels take 288 MB.
    large = streams | {28: encode_h264(plain(4000, 3000, num_frames=16), qp=28)}
    source = replace(labeled(tmp_path / "in", large), size=None)
    isolated = Isolated(60.0, memory_bytes=400_000_000)
    (measured,), (reject,) = _run(isolated, source, tmp_path / "work")
    isolated.close()
    assert reject.what == "clip"
    assert reject.where.endswith("_30_qp_28.264")
    assert reject.why == "Cannot decode it: the codec process exceeded its memory limit of 0.4 GB"
    assert rows_of(measured)[28]["origin"] == "encoded"


@pytest.mark.parametrize("suffix", [PAIRS_SUFFIX, QUALITY_SUFFIX])
@pytest.mark.parametrize("left", [0, 4, 200])
def test_a_truncated_measured_file_is_written_again(run, streams, tmp_path, suffix, left):
    source, work = labeled(tmp_path / "in", streams), tmp_path / "work"
    (measured,), _ = run(source, work)
    path = location_of(str(work), source, SETTINGS, suffix)
    with open(path, "r+b") as file:
        whole = file.read()
        file.truncate(left)
    assert find_measured(source, SETTINGS, str(work)) is None
    assert run(source, work) == ([measured], [])
    with open(path, "rb") as file:
        assert file.read() == whole


def test_pairs_without_quality_rows_are_not_reused(run, streams, tmp_path):
    source, work = labeled(tmp_path / "in", streams), tmp_path / "work"
    run(source, work)
    next(work.glob(f"*{QUALITY_SUFFIX}")).unlink()
    assert find_measured(source, SETTINGS, str(work)) is None


def test_two_runs_write_the_same_bytes(run, streams, tmp_path):
    source = labeled(tmp_path / "in", streams)
    for name in ("a", "b"):
        run(source, tmp_path / name)
    one, other = ({p.name: p.read_bytes() for p in (tmp_path / n).iterdir()} for n in ("a", "b"))
    assert one == other
    assert len(one) == 2


def test_facts_in_a_file_are_json(run, streams, tmp_path):
    (measured,), _ = run(labeled(tmp_path / "in", streams), tmp_path / "work")
    about = json.loads(pq.read_schema(measured.pairs).metadata[b"metadata"])
    assert about["num_bytes"] == measured.num_bytes > 0
