"""`laser-jnd encode --runner`, with clips and files on a disk and in buckets."""

import json
import os
import shutil
import signal
from pathlib import Path

import av
import numpy as np
import pytest
from cloud import local_cloud
from command_line import laser_jnd, laser_jnd_here, refusal
from dataflow_api import JOB_ID, stand_in
from onnx_graphs import write_light_inputs
from s3 import local_s3
from test_encode_command import write

from beam_pipelines import encoding
from beam_pipelines.encoding import EncodingPlan, encode_to_files
from beam_pipelines.runner import local_options
from laser_dist.encoding.encode import Request
from laser_dist.encoding.encoders import EncoderSettings
from laser_dist.encoding.folder import Job
from laser_dist.prediction.load import load

pytestmark = [pytest.mark.beam, pytest.mark.slow]

WORDS = ("--recursive", "--margin", "2", "--format", "json")
LOCAL = ("--runner", "DirectRunner")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return a folder with a model, and clips: two of two scenes, a coarse one, a damaged one."""
    folder = tmp_path_factory.mktemp("encode")
    write_light_inputs(folder)
    (folder / "clips" / "below").mkdir(parents=True)
    write(folder / "clips" / "one.mp4")
    shutil.copy(folder / "clips" / "one.mp4", folder / "clips" / "below" / "two.mp4")
    write(folder / "clips" / "coarse.mp4", qp="45")
    (folder / "clips" / "bad.mp4").write_bytes(b"no video")
    return folder


@pytest.fixture(scope="module")
def expected(folder):
    """Return the documents of the command without a runner, by clip, and its files."""
    done = laser_jnd_here(
        "encode", "clips", "--output", "plain", "--model", "m.onnx", *WORDS, cwd=folder
    )
    assert done.returncode == 2
    assert "1 of 4 clips could not be encoded" in done.stderr
    documents = {each["clip"]: each for each in json.loads(done.stdout)}
    assert [name for name, each in documents.items() if "error" in each] == [
        "clips/bad.mp4", "clips/coarse.mp4",
    ]  # fmt: skip
    plain = folder / "plain"
    return documents, {
        str(path.relative_to(plain)): path.read_bytes() for path in sorted(plain.rglob("*.mp4"))
    }


def check(done, files, expected, output, *, renamed=lambda name: name):
    """Check that a job prints the documents of the plain command, and writes its files."""
    documents, contents = expected
    assert done.returncode == 2, done.stderr
    assert "1 of 4 clips could not be encoded" in done.stderr
    wanted = {}
    for name, document in documents.items():
        place = renamed(name)
        text = json.dumps(document).replace("plain/", f"{output}/").replace(name, place)
        wanted[place] = json.loads(text)
    assert {each["clip"]: each for each in json.loads(done.stdout)} == wanted
    assert files == contents


def test_the_files_are_those_of_the_plain_command(folder, expected, tmp_path):
    output = tmp_path / "out"
    words = ("encode", "clips", "--output", output, "--model", "m.onnx", *WORDS, *LOCAL)
    done = laser_jnd_here(*words, cwd=folder)
    files = {str(path.relative_to(output)): path for path in sorted(output.rglob("*.mp4"))}
    before = {name: path.read_bytes() for name, path in files.items()}
    check(done, before, expected, output)
    assert {path.name for path in output.iterdir()} == {"one.mp4", "below"}  # nothing else
    times = {name: path.stat().st_mtime_ns for name, path in files.items()}
    again = laser_jnd_here(*words, cwd=folder)
    assert "Reused: 2 clips" in again.stderr
    assert {name: path.stat().st_mtime_ns for name, path in files.items()} == times


@pytest.mark.attack("Failing storage")
def test_transient_errors_of_storage_change_nothing(folder, expected, tmp_path):
    with local_s3(fail_every=7) as s3:
        s3.upload(folder, "in")
        output = s3.url("out")
        done = laser_jnd_here(
            *("encode", s3.url("in/clips"), "--output", output, "--model", s3.url("in/m.onnx")),
            *(*WORDS, *LOCAL),
            cwd=tmp_path,
        )
        assert done.returncode == 2, done.stderr
        assert len(s3.faults) > 4
        found = s3.files("out")
        documents = json.loads(done.stdout)
        assert [each["clip"].partition("?")[0] for each in documents] == [
            f"s3://bucket/in/{name}" for name in expected[0]
        ]
    assert found == expected[1]


def test_dataflow_writes_the_same_files(folder, expected, tmp_path):
    with local_cloud(tmp_path) as cloud, stand_in(cloud.environment) as dataflow:
        url = cloud.upload(folder, "in")
        done = laser_jnd(
            *("encode", f"{url}/clips", "--model", f"{url}/m.onnx", *WORDS),
            *("--output", "gs://bucket/out", "--runner=DataflowRunner"),
            *("--project=p", "--region=r", "--no_auth", "--sdk_container_image=i.example/l:1"),
            f"--dataflow_endpoint=http://localhost:{dataflow.port}",
            cwd=tmp_path,
            env={**os.environ, **cloud.environment},
        )
        found = cloud.files("out")
    assert f"Running as Dataflow job {JOB_ID}" in done.stderr
    files = {name: content for name, content in found.items() if ".dataflow" not in name}
    output = "gs://bucket/out"
    check(done, files, expected, output, renamed=lambda name: f"{url}/{name}")


def packets(path):
    with av.open(path) as container:
        return [
            (packet.pts, packet.dts, bytes(packet))
            for packet in container.demux(video=0)
            if packet.size
        ]


encode_segment = encoding.encode_segment


def encoded_and_noted(path, settings, segment):
    with (path.parents[1] / "segments.txt").open("a") as file:
        print([[frames.start, frames.stop] for frames, _ in segment.values], file=file)
    return encode_segment(path, settings, segment)


def test_segments_of_a_clip_are_joined(folder, expected, tmp_path, monkeypatch):
    monkeypatch.setattr(encoding, "encode_segment", encoded_and_noted)  # a child process calls it
    clip, output = str(folder / "clips" / "one.mp4"), str(tmp_path / "out" / "one.mp4")
    plan = EncodingPlan(
        jobs=(Job(clip, output),), output=str(tmp_path / "out"),
        load=lambda: load(folder / "m.onnx"),
        request=Request(margin=2, settings=EncoderSettings()), segment_s=1,
    )  # fmt: skip
    (document,) = encode_to_files(plan, local_options())
    assert (folder / "segments.txt").read_text() == "[[0, 30]]\n[[30, 70]]\n"
    assert packets(output) == packets(folder / "plain" / "one.mp4")
    assert document == expected[0]["clips/one.mp4"] | {"clip": clip, "output": output}
    assert os.listdir(tmp_path / "out") == ["one.mp4"]


def crash(path, settings, segment):
    os.kill(os.getpid(), signal.SIGSEGV)


def take_all_memory(path, settings, segment):
    np.ones(1 << 40)


def run_out_of_memory_once(path, settings, segment):
    """End as Linux ends a process when memory runs out, but not the second time."""
    marker = path.parents[1] / "first"
    if not marker.exists():
        marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return encode_segment(path, settings, segment)


@pytest.mark.parametrize(
    ("replacement", "message"),
    [
        (crash, "Cannot encode {}: the codec process was killed by SIGSEGV."),
        (take_all_memory, "{} needs more than "),
        (run_out_of_memory_once, ""),
    ],
)
def test_a_clip_that_ends_the_encoder_is_a_document_and_short_memory_is_not(
    folder, tmp_path, monkeypatch, replacement, message
):
    monkeypatch.setattr(encoding, "encode_segment", replacement)
    clip, output = str(folder / "clips" / "one.mp4"), str(tmp_path / "out" / "one.mp4")
    plan = EncodingPlan(
        jobs=(Job(clip, output),), output=str(tmp_path / "out"),
        load=lambda: load(folder / "m.onnx"),
        request=Request(margin=2, settings=EncoderSettings()),
    )  # fmt: skip
    (document,) = encode_to_files(plan, local_options())
    assert document.get("error", "").startswith(message.format(clip))
    assert os.listdir(tmp_path / "out") == ([] if message else ["one.mp4"])


def test_a_join_that_is_repeated_changes_nothing(folder, tmp_path):
    job = Job(str(folder / "clips" / "one.mp4"), str(tmp_path / "out" / "one.mp4"))
    plan = EncodingPlan(
        jobs=(job,), output=str(tmp_path / "out"), load=lambda: load(folder / "m.onnx"),
        request=Request(margin=2, settings=EncoderSettings()), segment_s=1,
    )  # fmt: skip
    planning, encoder, joiner = (
        step(plan) for step in (encoding._PlanClip, encoding._EncodeSegment, encoding._JoinSegments)
    )
    planning.setup()
    encoder.setup()
    joiner.setup()
    planned, *segments = planning.process((0, job))
    done = [pair for each in segments for _, pair in encoder.process(each)]
    grouped = {"plan": [planned.value[1]], "segments": done[::-1]}  # in no order
    assert [*joiner.process((0, grouped))] == [0]
    document, content = Path(plan.document(0)).read_text(), Path(job.output).read_bytes()
    assert [*joiner.process((0, grouped))] == [0]  # as after the loss of a worker
    assert Path(plan.document(0)).read_text() == document
    assert Path(job.output).read_bytes() == content
    for each in (planning, encoder, joiner):
        each.teardown()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("clips/one.mp4 --runner DirectRunner --output o.mp4", "--output is a folder"),
        ("clips/one.mp4 --runner DirectRunner --output o --workers 2", "--workers cannot be"),
        ("clips/one.mp4 --runner DirectRunner --output o --fx=1", "Neither laser-jnd encode"),
        ("clips/one.mp4 --runner DataflowRunner --output o", "a URL as CLIP, not clips/one.mp4"),
        ("gs://bucket/a.mp4 --output o", "gs://bucket/a.mp4 is in a bucket. Add --runner"),
        ("clips/one.mp4 --output gs://bucket/o", "is in a bucket. Add --runner"),
        ("clips/one.mp4 --runner DirectRunner --output clips", "one.mp4 is the clip itself"),
    ],
)
def test_what_does_not_apply_is_one_line(folder, words, message):
    before = sorted(folder.rglob("*"))
    done = laser_jnd_here("encode", *words.split(), "--model", "m.onnx", cwd=folder)
    assert message in refusal(done)
    assert sorted(folder.rglob("*")) == before
