"""A tiny synthetic VideoSet, and builds of it."""

import shutil
from pathlib import Path

import tensorflow_datasets as tfds

from beam_pipelines.inputs.inventory import take_inventory
from beam_pipelines.inputs.videoset_files import VideosetFiles
from beam_pipelines.runner import local_options
from beam_pipelines.synthetic.videoset import VideosetSettings
from laser_dist.jnd.videoset_layout import FRAME_RATES
from laser_dist.storage import list_files
from laser_dist.video.codec import decode, encode_h264
from tfds_builders.videoset_jnd.videoset_jnd_dataset_builder import Builder, VideosetJndConfig

SETTINGS = VideosetSettings(num_sources=6, width=64, height=48, num_frames=3, qps=(22, 28, 34, 40))
TINY = VideosetJndConfig(
    name="tiny", resolution="64x48", model_width=32, model_height=32, frames_per_second=20.0
)
FPS = FRAME_RATES[30]


def build(manual_dir, data_dir, num_workers=1, config=TINY):
    builder = Builder(data_dir=data_dir, config=config)
    builder.download_and_prepare(
        download_config=tfds.download.DownloadConfig(
            manual_dir=manual_dir,
            beam_options=local_options(num_workers),
            try_download_gcs=False,
        )
    )
    return Path(builder.data_path)


def examples(folder, split="train+validation+test"):
    builder = tfds.builder_from_directory(folder)
    return list(tfds.as_numpy(builder.as_dataset(split=split)))


def reference_and(synthetic, source_id, qp):
    """Return the decoded reference, a QP's stream (encoded if missing), and whether it exists."""
    (folder,) = synthetic.glob(f"{source_id}_*")
    reference = decode(folder / f"{folder.name}_qp_00.264", fps=FPS)
    path = folder / f"{folder.name}_qp_{qp:02d}.264"
    stream = path.read_bytes() if path.exists() else encode_h264(reference, qp=qp)
    return reference, stream, path.exists()


def damage(synthetic, folder, *clips):
    """Copy the synthetic dataset and truncate some clips, given as (source number, QP)."""
    shutil.copytree(synthetic, folder)
    for number, qp in clips:
        (path,) = folder.glob(f"videoSRC{number:03d}_*/*_qp_{qp:02d}.264")
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def inventory_of(folder, definition="jnd"):
    layout = VideosetFiles(TINY.resolution, definition)
    return take_inventory(list_files(folder), str(folder), layout)
