"""The builder of MCL-JCI on a tiny synthetic dataset: six images of three photographs."""

import json
import math
import shutil
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import tensorflow_datasets as tfds
from photographs import photographs
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio

from beam_pipelines.inputs.inventory import take_inventory
from beam_pipelines.inputs.mcl_jci_files import MclJciFiles
from beam_pipelines.rejects import read_rejects
from beam_pipelines.runner import local_options
from beam_pipelines.synthetic.mcl_jci import MclJciSettings
from beam_pipelines.synthetic.pipeline import synthesize
from laser_dist.errors import UserError
from laser_dist.jnd.mcl_jci_labels import read_mcl_jci_labels
from laser_dist.storage import list_files
from laser_dist.video.codec import decode
from laser_dist.video.images import encode_jpeg, jpeg_encoder
from tfds_builders.jnd_dataset import BuildRequest
from tfds_builders.mcl_jci_jnd.mcl_jci_jnd_dataset_builder import Builder, MclJciJndConfig

pytestmark = [
    pytest.mark.beam,
    pytest.mark.filterwarnings("ignore::DeprecationWarning:apache_beam"),
    pytest.mark.filterwarnings(r"ignore:label\(\) is deprecated:DeprecationWarning"),
]

SETTINGS = MclJciSettings(
    num_sources=6, width=64, height=48, qfs=(5, 10, 15, 20, 25, 30, 40, 50, 70, 100)
)
TINY = MclJciJndConfig(name="tiny", model_width=32, model_height=32)


@pytest.fixture(scope="module")
def synthetic(tmp_path_factory):
    """Six images of three photographs; of the second, only one viewer has a third level."""
    root = tmp_path_factory.mktemp("synthetic")
    synthesize(photographs(root), SETTINGS, root / "mini", local_options(1))
    # A level of a single viewer is not a level of the group.
    path = root / "mini" / "MCL-JCI" / "JND_samples" / "JND_image_02.txt"
    lines = [" ".join(line.split()[:3]) for line in path.read_text().splitlines()]
    first = lines[0].split()
    lines[0] = " ".join([first[0], "60", "40", "20"])
    path.write_text("\n".join(lines) + "\n")
    return root / "mini"


def build(manual_dir, data_dir, num_workers=1, config=TINY, max_reject_rate=0.05):
    builder = Builder(data_dir=data_dir, config=config)
    builder.request = BuildRequest(
        manual_dir=str(manual_dir),
        options=local_options(num_workers),
        max_reject_rate=max_reject_rate,
    )
    builder.download_and_prepare(
        download_config=tfds.download.DownloadConfig(try_download_gcs=False)
    )
    return Path(builder.data_path)


@pytest.fixture(scope="module")
def dataset(synthetic, tmp_path_factory):
    return build(synthetic, tmp_path_factory.mktemp("data"))


def examples(folder):
    builder = tfds.builder_from_directory(folder)
    found = tfds.as_numpy(builder.as_dataset(split="train+validation+test"))
    return {example["source_id"].decode(): example for example in found}


def jpeg_of(synthetic, source_id, quality):
    """Return the JPEG, encoded from the BMP if its file is missing, and whether it exists."""
    root = synthetic / "MCL-JCI"
    path = root / "distorted_image" / source_id / f"{source_id}_{quality:03d}.jpg"
    if path.exists():
        return path.read_bytes(), True
    source = np.asarray(Image.open(root / "source_images" / "[BMP]" / f"{source_id}.bmp"))
    return encode_jpeg(source, quality=quality), False


def test_frames_are_the_jpegs_at_the_levels_and_of_quality_100(dataset, synthetic):
    found = examples(dataset)
    assert sorted(found) == [f"ImageJND_SRC0{i}" for i in range(1, 7)]
    num_encoded = 0
    for source_id, example in found.items():
        reference, _ = jpeg_of(synthetic, source_id, 100)
        raw = decode(reference).rgb(0, width=32, height=32)
        np.testing.assert_array_equal(example["raw"], raw)
        for level, value in enumerate(example["jnd_levels"]):
            if math.isnan(value):
                continue
            content, is_there = jpeg_of(synthetic, source_id, math.ceil(value))
            coded = decode(content).rgb(0, width=32, height=32)
            stored = example[f"jnd{level + 1}"]
            np.testing.assert_array_equal(stored, coded)
            psnr_db = peak_signal_noise_ratio(raw, stored)  # scikit-image's
            assert example["psnr_db"][level] == pytest.approx(psnr_db)
            assert example["level_origins"][level] == (b"file" if is_there else b"encoded")
            num_encoded += not is_there
    assert num_encoded


def test_levels_and_samples_are_those_of_the_labels(dataset, synthetic):
    labels = {source.source_id: source for source in read_mcl_jci_labels(synthetic).sources}
    for source_id, example in examples(dataset).items():
        source = labels[source_id]
        np.testing.assert_array_equal(example["jnd_levels"], source.levels("viewers"))
        samples = [tuple(row) for row in example["viewer_samples"]]
        assert samples == list(source.samples)
        answers = {chain.subject: chain.quality_factors for chain in source.chains}
        for level, (values, names) in enumerate(
            zip(samples, example["viewer_ids"].to_list(), strict=True)
        ):
            for value, name in zip(values, names, strict=True):
                assert answers[name.decode()][level] == value
        for level, mean, row in zip(
            example["jnd_levels"], example["jnd_level_means"], samples, strict=True
        ):
            assert mean == pytest.approx(np.nan if np.isnan(level) else np.mean(row), nan_ok=True)


def test_a_missing_level_is_nan_and_black(dataset):
    example = examples(dataset)["ImageJND_SRC02"]
    assert np.isnan(example["jnd_levels"]).tolist() == [False, False, True]
    assert np.isnan(example["psnr_db"]).tolist() == [False, False, True]
    assert not example["jnd3"].any()
    assert example["level_origins"].tolist()[2] == b""
    assert [len(row) for row in example["viewer_samples"]] == [30, 30, 1]


def test_metadata_state_the_scale_and_its_direction(dataset, synthetic):
    metadata = tfds.builder_from_directory(dataset).info.metadata
    assert (metadata["scale"], metadata["higher_is_worse"]) == ("QF", False)
    assert "75% of the viewers" in metadata["level_definition"]
    assert metadata["simulated"] is True
    marker = json.loads((synthetic / "SIMULATED.json").read_text())
    groups = {
        marker["groups"][key]: split for split, keys in metadata["splits"].items() for key in keys
    }
    assert len(groups) == 3
    for split, keys in metadata["splits"].items():
        assert {groups[marker["groups"][key]] for key in keys} == {split}


def test_the_quality_table_is_indexed_by_quality_factor(dataset, synthetic):
    rows = pq.read_table(dataset / "quality" / "ImageJND_SRC01.parquet").to_pylist()
    levels = examples(dataset)["ImageJND_SRC01"]["jnd_levels"]
    levels = np.ceil(levels[np.isfinite(levels)]).astype(int)
    assert [row["qf"] for row in rows] == sorted({*SETTINGS.qfs, *levels.tolist()})
    for row in rows:
        content, is_there = jpeg_of(synthetic, "ImageJND_SRC01", row["qf"])
        assert row["origin"] == ("file" if is_there else "encoded")
        if is_there:
            assert row["num_bits"] == 8 * len(content)
            assert row["encoder"] == ""  # a JPEG does not name it
        else:
            assert (row["encoder"], row["encoder_version"]) == jpeg_encoder()
        assert row["bitrate_kbps"] is None
    assert rows[-1]["psnr_y_db"] == 100.0  # the reference itself
    psnr = [row["psnr_y_db"] for row in rows]
    assert psnr == sorted(psnr)


def test_the_downloaded_archive_gives_the_same_examples(dataset, synthetic, tmp_path):
    folder = tmp_path / "manual"
    folder.mkdir()
    with zipfile.ZipFile(folder / "MCL-JCI.zip", "w") as archive:
        for path in sorted(synthetic.rglob("*")):
            if path.is_file() and path.name != "rejects.parquet":
                archive.write(path, path.relative_to(synthetic))
    again = build(folder, tmp_path / "data", num_workers=2)
    for path in dataset.glob("*.tfrecord*"):
        assert (again / path.name).read_bytes() == path.read_bytes()


def test_stair_levels_need_stair_files(synthetic, tmp_path):
    config = replace(TINY, name="steps", convention="stairs")
    with pytest.raises(UserError, match="no level: stairs needs a stair file"):
        build(synthetic, tmp_path, config=config)


def test_stair_levels_are_the_first_three_below_100(synthetic, tmp_path):
    shutil.copytree(synthetic, tmp_path / "mini")
    folder = tmp_path / "mini" / "MCL-JCI" / "SQF_data"
    folder.mkdir()
    for number in range(1, 7):
        (folder / f"Image_{number}_l_h.txt").write_text("100 50 30 20 10\n1 0.8 0.6 0.4 0.2\n")
    inventory = take_inventory(list_files(tmp_path / "mini"), "mini", MclJciFiles("stairs"))
    assert not inventory.rejects
    for source in inventory.sources:
        assert [level.value for level in source.levels] == [50, 30, 20]
        assert source.level_quantizers == (50, 30, 20)


def test_without_quality_100_the_reference_is_encoded_from_the_bmp(synthetic, tmp_path):
    shutil.copytree(synthetic, tmp_path / "mini")
    root = tmp_path / "mini" / "MCL-JCI"
    for path in root.glob("distorted_image/*/*_100.jpg"):
        path.unlink()
    (root / "source_images" / "[BMP]" / "ImageJND_SRC04.bmp").unlink()
    inventory = take_inventory(list_files(tmp_path / "mini"), "mini", MclJciFiles("viewers"))
    assert [reject.where for reject in inventory.rejects] == ["ImageJND_SRC04"]
    folder = build(tmp_path / "mini", tmp_path / "data", max_reject_rate=0.2)
    rejects, total = read_rejects(folder / "rejects.parquet")
    assert (len(rejects), total) == (1, 6)
    rows = pq.read_table(folder / "quality" / "ImageJND_SRC01.parquet").to_pylist()
    assert (rows[-1]["qf"], rows[-1]["origin"]) == (100, "encoded")
