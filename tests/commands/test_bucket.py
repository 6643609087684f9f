"""The real command with its input and output in a bucket: on this machine, and on Dataflow.

There is no cloud here: emulators serve the GCS and S3 buckets, and a fake of
the Dataflow API runs the very pipeline that was staged for it.
"""

import os
import shutil
import subprocess
import tarfile

import pytest
from apache_beam.portability.api import beam_runner_api_pb2
from cloud import local_cloud
from command_line import LASER_JND, laser_jnd, laser_jnd_here
from dataflow_api import JOB_ID, stand_in
from photographs import photographs
from s3 import local_s3

from beam_pipelines.runner import local_options
from beam_pipelines.synthetic.pipeline import synthesize
from beam_pipelines.synthetic.videoset import VideosetSettings

pytestmark = [pytest.mark.beam, pytest.mark.slow]

VERSION = "videoset_jnd/synthetic/2.0.0"
SETTINGS = VideosetSettings(num_sources=3, num_frames=2, qps=(25, 40))


@pytest.fixture(scope="module")
def cloud(tmp_path_factory):
    with local_cloud(tmp_path_factory.mktemp("cloud")) as cloud:
        yield cloud


@pytest.fixture(scope="module")
def manual(tmp_path_factory):
    """Three sources, one a group."""
    root = tmp_path_factory.mktemp("manual")
    folder = root / "mini"
    synthesize(photographs(root, height=180, width=320), SETTINGS, folder, local_options(1))
    return folder


@pytest.fixture(scope="module")
def archived(manual, tmp_path_factory):
    """The same, one source's clips in an archive."""
    folder = tmp_path_factory.mktemp("archived") / "mini"
    shutil.copytree(manual, folder)
    (last,) = folder.glob("videoSRC003_*")
    with tarfile.open(folder / "part_1.tar.gz", "w:gz") as archive:
        archive.add(last, last.name)
    shutil.rmtree(last)
    return folder


@pytest.fixture(scope="module")
def expected(manual, tmp_path_factory):
    """Files of the dataset that is built on a disk."""
    data = tmp_path_factory.mktemp("data")
    done = build(manual, data, "--workers", 1, cwd=data)
    assert done.returncode == 0, done.stderr
    folder = data / VERSION
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def build(manual_dir, data_dir, *flags, cwd, environment=None):
    environment = {**os.environ, **(environment or {})}
    places = ("--manual-dir", manual_dir, "--data-dir", data_dir)
    return laser_jnd("build", "videoset_jnd", *places, *flags, cwd=cwd, env=environment)


def build_here(manual_dir, data_dir, *flags, cwd):
    places = ("--manual-dir", manual_dir, "--data-dir", data_dir, "--workers", 2)
    return laser_jnd_here("build", "videoset_jnd", *places, *flags, cwd=cwd)


def test_a_dataset_in_a_bucket_has_the_files_of_one_on_disk(cloud, archived, expected, tmp_path):
    command = (cloud.upload(archived, "archived"), "gs://bucket/data", "--workers", 2)
    done = build(*command, cwd=tmp_path, environment=cloud.environment)
    assert done.returncode == 0, done.stderr
    files = cloud.files("data")
    built = cloud.files(f"data/{VERSION}")
    assert built == expected
    assert sum(".tfrecord" in name for name in built) == 3
    # Otherwise there is only the index of the archive: no work in progress.
    assert {name.split("/")[0] for name in files} == {"videoset_jnd", ".archives"}
    assert sum(not name.startswith((VERSION, ".archives")) for name in files) == 0
    reused = build(*command, cwd=tmp_path, environment=cloud.environment)
    assert reused.stderr.startswith(f"  Reused gs://bucket/data/{VERSION}: built from")
    assert cloud.files("data") == files


def test_a_dataset_in_s3_has_the_same_files(manual, expected, tmp_path):
    with local_s3() as s3:
        command = (s3.upload(manual, "manual"), "s3://bucket/data", "--workers", 2)
        done = build(*command, cwd=tmp_path, environment=s3.environment)
        assert done.returncode == 0, done.stderr
        files = s3.files("data")
        assert files == {f"{VERSION}/{name}": content for name, content in expected.items()}
        reused = build(*command, cwd=tmp_path, environment=s3.environment)
        assert reused.stderr.startswith(f"  Reused s3://bucket/data/{VERSION}: built from")


def test_storage_that_fails_one_request_in_ten_changes_nothing(archived, expected, tmp_path):
    with local_s3(fail_every=10) as s3:
        s3.upload(archived, "manual")
        done = build_here(s3.url("manual"), s3.url("data"), cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert set(s3.faults) == {"busy", "lost", "reset", "cut"}
        files = s3.files(f"data/{VERSION}")
    assert files == expected


@pytest.mark.attack("Failing storage")
def test_access_denied_to_one_clip_fails_the_build_until_it_is_granted(manual, expected, tmp_path):
    (clip,) = manual.glob("videoSRC002_*/*_qp_25.264")
    with local_s3() as s3:
        command = (s3.upload(manual, "manual"), "s3://bucket/data", "--workers", 2)
        s3.denied.add(clip.name)
        # With such a rate, a reject would do no harm. In a process of the build: when it fails, it
        # stops all processes that its own has started.
        refused = build(*command, "--max-reject-rate=1", cwd=tmp_path, environment=s3.environment)
        assert refused.returncode == 2
        error, hint = refused.stderr.splitlines()[-2:]
        assert error.startswith("error: Cannot access s3://bucket/manual/videoSRC002_")
        assert error.endswith(f"{clip.name}: access denied.")
        assert hint.startswith("hint: Check ")
        assert not [name for name in s3.files("data") if "dataset_info.json" in name]
        s3.denied.clear()
        done = build(*command, cwd=tmp_path, environment=s3.environment)
        assert done.returncode == 0, done.stderr
        files = s3.files(f"data/{VERSION}")
    assert files == expected


def on_dataflow(dataflow, cloud, manual_dir, data_dir, cwd, *flags):
    return build(
        manual_dir,
        data_dir,
        *dataflow_flags(dataflow),
        *flags,
        cwd=cwd,
        environment=cloud.environment,
    )


def dataflow_flags(dataflow):
    return (
        "--runner=DataflowRunner",
        "--project=p",
        "--region=r",
        f"--dataflow_endpoint=http://localhost:{dataflow.port}",
        "--no_auth",
        "--sdk_container_image=images.example/laser-jnd:1",
        "--machine_type=n2-highmem-4",
        "--max_num_workers=7",
        "--experiments=use_sibling_sdk_workers",
    )


def test_dataflow_builds_the_same(cloud, manual, expected, tmp_path):
    uploaded = cloud.upload(manual, "mini")
    with stand_in(cloud.environment) as dataflow:
        done = on_dataflow(dataflow, cloud, uploaded, "gs://bucket/flow", tmp_path)
    assert done.returncode == 0, done.stderr
    assert f"Running as Dataflow job {JOB_ID}" in done.stderr
    assert cloud.files(f"flow/{VERSION}") == expected
    (job,) = dataflow.jobs
    check_request(job)
    check_pipeline(pipeline_of(job, cloud))


def test_a_job_whose_command_was_killed_can_be_finished(cloud, manual, expected, tmp_path):
    uploaded = cloud.upload(manual, "mini")
    with stand_in(cloud.environment) as dataflow:
        places = ("--manual-dir", uploaded, "--data-dir", "gs://bucket/left")
        command = ("build", "videoset_jnd", *places, *dataflow_flags(dataflow))
        with subprocess.Popen(
            [*LASER_JND, *command],
            cwd=tmp_path,
            env={**os.environ, **cloud.environment},
            stderr=subprocess.PIPE,
            text=True,
        ) as launcher:
            assert any(f"Running as Dataflow job {JOB_ID}" in line for line in launcher.stderr)
            launcher.kill()

        def finish(job, *flags):
            flags = (f"--finish={job}", *flags)
            return on_dataflow(dataflow, cloud, uploaded, "gs://bucket/left", tmp_path, *flags)

        unknown = finish("another")
        assert unknown.returncode == 2
        assert "error: Dataflow job another cannot be found" in unknown.stderr
        assert not [name for name in cloud.files("left") if "dataset_info.json" in name]
        other = finish(JOB_ID, "--frames-per-second=1")
        assert other.returncode == 2
        done = finish(JOB_ID)
    assert done.returncode == 0, done.stderr
    assert f"Waiting for Dataflow job {JOB_ID}" in done.stderr
    assert len(dataflow.jobs) == 1
    assert cloud.files(f"left/{VERSION}") == expected
    assert not [name for name in cloud.files("left") if ".unfinished" in name]


def check_request(job):
    environment = job["environment"]
    (pool,) = environment["workerPools"]
    (image,) = pool["sdkHarnessContainerImages"]
    assert image["containerImage"] == "images.example/laser-jnd:1"
    assert pool["workerHarnessContainerImage"] == "images.example/laser-jnd:1"
    # A core each, and one source at a time: a source of 1080p takes gigabytes.
    assert image["useSingleCorePerContainer"]
    assert pool["numThreadsPerWorker"] == 1
    assert pool["machineType"] == "n2-highmem-4"
    assert pool["autoscalingSettings"]["maxNumWorkers"] == 7
    # Nothing to install when a worker starts: what is sent along is a list, for its log.
    sent = [package["name"] for package in pool["packages"]]
    assert sent == ["submission_environment_dependencies.txt"]
    assert {"use_sibling_sdk_workers", "use_runner_v2"} <= set(environment["experiments"])
    options = environment["sdkPipelineOptions"]["options"]
    assert options["sdk_location"] == "container"
    assert options["temp_location"].startswith("gs://bucket/flow/.dataflow/tmp/")


def check_pipeline(pipeline):
    order = steps(pipeline)
    for earlier, later in (
        ("MatchInputs", "MeasureSources"),
        ("MeasureSources", "WriteDataset"),
    ):
        assert order.index(earlier) < order.index(later)
    used = {
        transform.environment_id
        for transform in pipeline.components.transforms.values()
        if transform.environment_id
    }
    (environment,) = (pipeline.components.environments[each] for each in used)
    payload = beam_runner_api_pb2.DockerPayload.FromString(environment.payload)
    assert payload.container_image == "images.example/laser-jnd:1"
    hint = environment.resource_hints["beam:resources:min_ram_bytes:v1"]
    assert int(hint) == 4_000_000_000
    assert len(environment.dependencies) == 1


def pipeline_of(job, cloud):
    """The pipeline that was staged for a job."""
    place = job["environment"]["sdkPipelineOptions"]["options"]["pipelineUrl"]
    folder, _, name = place.removeprefix("gs://bucket/").rpartition("/")
    return beam_runner_api_pb2.Pipeline.FromString(cloud.files(folder)[name])


def steps(pipeline):
    """Names of the outermost steps, in order."""
    root = pipeline.components.transforms[pipeline.root_transform_ids[0]]
    ids = root.subtransforms or pipeline.root_transform_ids
    return [pipeline.components.transforms[each].unique_name for each in ids]


def test_a_job_that_fails_is_one_line_and_leaves_no_dataset(cloud, manual, tmp_path):
    shutil.copytree(manual, tmp_path / "mini")
    (clip,) = tmp_path.glob("mini/videoSRC001_*/*_qp_00.264")
    clip.write_bytes(clip.read_bytes()[: clip.stat().st_size // 2])
    damaged = cloud.upload(tmp_path / "mini", "damaged")
    with stand_in(cloud.environment) as dataflow:
        done = on_dataflow(dataflow, cloud, damaged, "gs://bucket/none", tmp_path)
    assert done.returncode == 2
    line = " ".join(done.stderr.split())
    assert "more than the accepted 5%: " in line
    assert (
        f"All rejects found so far are listed in gs://bucket/none/{VERSION.rpartition('/')[0]}/rejected-2.0.0.parquet"
        in line
    )
    assert not [name for name in cloud.files("none") if "dataset_info.json" in name]
