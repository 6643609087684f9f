"""`laser-jnd predict --runner`, with clips, model and tables on a disk and in buckets."""

import io
import json
import os

import pyarrow.parquet as pq
import pytest
from cloud import local_cloud
from command_line import laser_jnd, laser_jnd_here, refusal
from dataflow_api import JOB_ID, stand_in
from onnx_graphs import write_light_inputs
from s3 import local_s3

pytestmark = [pytest.mark.beam, pytest.mark.slow]

TABLE = "levels-00000-of-00001.parquet"
LOCAL = ("--runner", "DirectRunner", "--workers", 2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return a folder with a model, and clips of which one is damaged, in folders."""
    folder = tmp_path_factory.mktemp("clips")
    write_light_inputs(folder)
    content = (folder / "clip.mp4").read_bytes()
    clips = {f"clips/{n % 3}/{n}.mp4": content for n in range(7)}
    clips |= {"clips/0/bad.mp4": b"no video", "clips/0/text.txt": b"no clip"}
    for name, data in clips.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


@pytest.fixture(scope="module")
def expected(folder):
    """Return what the command prints without a runner, by clip."""
    done = laser_jnd_here(
        "predict", "clips/**/*.mp4", "--model", "m.onnx", "--format", "ndjson", cwd=folder
    )
    documents = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(documents) == 8
    assert [each["clip"] for each in documents if "error" in each] == ["clips/0/bad.mp4"]
    return {each["clip"]: each for each in documents}


def predict(clips, model, output, *flags, cwd):
    places = ("--model", model, "--output", output)
    return laser_jnd_here("predict", clips, *places, *flags, cwd=cwd)


def without_nulls(value):
    if isinstance(value, dict):
        return {name: without_nulls(each) for name, each in value.items() if each is not None}
    return [without_nulls(each) for each in value] if isinstance(value, list) else value


def check_table(content, expected, model, url=lambda name: name):
    """Check that a table has the same rows, in which the clips and the model have other names."""
    table = pq.read_table(io.BytesIO(content))
    rows = [without_nulls(row) for row in table.to_pylist()]
    wanted = []
    for name, document in expected.items():
        row = json.loads(json.dumps(document).replace(name, url(name)))
        wanted.append(row | ({"model": model} if "model" in row else {}))
    assert rows == wanted


def test_the_rows_are_what_the_plain_command_prints(folder, expected, tmp_path):
    done = predict("clips/**/*.mp4", "m.onnx", tmp_path / "levels", *LOCAL, cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "8, 1 with an error" in done.stdout
    assert [path.name for path in (tmp_path / "levels").iterdir()] == [TABLE]
    check_table((tmp_path / "levels" / TABLE).read_bytes(), expected, "m.onnx")
    again = predict("clips/**/*.mp4", "m.onnx", tmp_path / "levels", *LOCAL, cwd=folder)
    assert f"{tmp_path}/levels has files already." in refusal(again)


def test_a_bucket_has_the_same_rows(folder, expected, tmp_path):
    with local_cloud(tmp_path) as cloud:
        url = cloud.upload(folder, "in")
        done = laser_jnd(
            *("predict", f"{url}/clips/**/*.mp4", "--model", f"{url}/m.onnx"),
            *("--output", "gs://bucket/out", *LOCAL),
            cwd=tmp_path,
            env={**os.environ, **cloud.environment},
        )
        assert done.returncode == 0, done.stderr
        files = cloud.files("out")
    assert list(files) == [TABLE]
    check_table(files[TABLE], expected, f"{url}/m.onnx", lambda name: f"{url}/{name}")


@pytest.mark.attack("Failing storage")
def test_transient_errors_of_storage_are_no_rows(folder, expected, tmp_path):
    with local_s3(fail_every=7) as s3:
        s3.upload(folder, "in")
        clips, model = s3.url("in/clips/**/*.mp4"), s3.url("in/m.onnx")
        done = predict(clips, model, s3.url("out"), *LOCAL, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert len(s3.faults) > 4
        files = s3.files("out")
        urls = {name: s3.url(f"in/{name}") for name in expected}
    assert list(files) == [TABLE]
    check_table(files[TABLE], expected, model, urls.get)


@pytest.mark.attack("Failing storage")
def test_a_clip_that_may_not_be_read_fails_the_job(folder, tmp_path):
    with local_s3() as s3:
        s3.upload(folder, "in")
        s3.denied.add("5.mp4")
        clips, model = s3.url("in/clips/**/*.mp4"), s3.url("in/m.onnx")
        done = predict(clips, model, s3.url("out"), *LOCAL, cwd=tmp_path)
        assert done.returncode == 2
        assert "5.mp4?" in done.stderr
        assert done.stderr.splitlines()[-2].endswith(": access denied.")
        assert s3.files("out") == {}


def test_dataflow_writes_the_same_rows(folder, expected, tmp_path):
    with local_cloud(tmp_path) as cloud, stand_in(cloud.environment) as dataflow:
        url = cloud.upload(folder, "in")
        done = laser_jnd(
            *("predict", f"{url}/clips", "--recursive", "--model", f"{url}/m.onnx"),
            *("--output", "gs://bucket/out", "--runner=DataflowRunner"),
            *("--project=p", "--region=r", "--no_auth", "--sdk_container_image=i.example/l:1"),
            f"--dataflow_endpoint=http://localhost:{dataflow.port}",
            cwd=tmp_path,
            env={**os.environ, **cloud.environment},
        )
        assert done.returncode == 0, done.stderr
        files = cloud.files("out")
    assert f"Running as Dataflow job {JOB_ID}" in done.stderr
    check_table(files.pop(TABLE), expected, f"{url}/m.onnx", lambda name: f"{url}/{name}")
    assert {name.split("/")[0] for name in files} == {".dataflow"}
    (job,) = dataflow.jobs
    (pool,) = job["environment"]["workerPools"]
    # A clip at a time in the process of each core, and nothing to install.
    assert pool["numThreadsPerWorker"] == 1
    options = job["environment"]["sdkPipelineOptions"]["options"]
    assert options["sdk_location"] == "container"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("0/0.mp4 --runner DirectRunner", "--runner needs --output"),
        ("0/0.mp4 --runner DirectRunner --output o --format csv", "without --format"),
        ("0/0.mp4 --runner DirectRunner --output o --fx=1", "Neither laser-jnd predict nor Apache"),
        ("0/0.mp4 --runner DataflowRunner --output o", "a URL as CLIP, not 0/0.mp4"),
        ("0/0.mp4 --runner X --workers 2 --output o", "--workers cannot be used with"),
        ("*/no* --runner DirectRunner --output o", "No file matches */no*"),
        ("0/bad.mp4 --runner DirectRunner --output o", "None of the clips could be predicted"),
        ("0/0.mp4 --workers 2", "--workers needs --runner"),
        ("gs://bucket/a.mp4", "gs://bucket/a.mp4 is in a bucket. Add --runner"),
    ],
)
def test_what_does_not_apply_is_one_line(folder, tmp_path, words, message):
    words = [tmp_path / "o" if word == "o" else word for word in words.split()]
    done = laser_jnd_here("predict", *words, "--model", "../m.onnx", cwd=folder / "clips")
    assert message in refusal(done)
