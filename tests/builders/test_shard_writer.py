"""Workers write a dataset without TensorFlow."""

import subprocess
import sys

import pytest

# In a separate process: other tests load TensorFlow.
WRITE = """
import sys
from pathlib import Path

import numpy as np

from beam_pipelines.dataset.measured_files import find_measured, write_measured
from beam_pipelines.dataset.shards import Shard
from beam_pipelines.elements import (
    JndLevel, LabeledSource, MeasuredPair, MeasuredSource, PairSettings, SourceMetadata,
)
from fractions import Fraction
from laser_dist.jnd.scale import QP
from tfds_builders.shard_writer import WriteShards

(folder,) = sys.argv[1:]
settings = PairSettings(model_width=16, model_height=16, frames_per_second=None)
level = JndLevel(value=30.0, mean=31.0, samples=(30, 32))
common = dict(source_id="videoSRC001", group_id="g", levels=(level,) * 3)
source = LabeledSource(**common, scale=QP, fps=Fraction(30), size=(16, 16), clips=())
metadata = SourceMetadata(
    **common, level_origins=("file",) * 3, spatial_information=1.0, temporal_information=2.0
)
pair = MeasuredPair(
    frame_index=0,
    timestamp_s=0.0,
    raw=np.zeros((16, 16, 3), np.uint8),
    levels=np.zeros((3, 16, 16, 3), np.uint8),
    psnr_db=(40.0, 38.0, 36.0),
)
measured = MeasuredSource(metadata=metadata, rows=(), pairs=(pair,), rejects=(), is_final=True)
write_measured(measured, source, settings, folder)
found = find_measured(source, settings, folder)
shard = Shard(split="train", index=0, num_shards=1, examples=((found.pairs, 0),))
writer = WriteShards("videoset_jnd", folder, settings, QP)
writer.setup()
(written,) = writer.process(shard)
assert written.num_examples == 1
assert list(Path(folder).glob("videoset_jnd-train.tfrecord-00000-of-00001"))
# A stopped build removes its folder, while a thread may still write: it must not come back.
gone = Path(folder) / "incomplete.ABC_2.0.0"
writer = WriteShards("videoset_jnd", str(gone), settings, QP)
writer.setup()
try:
    list(writer.process(shard))
except FileNotFoundError:
    assert not gone.exists()
else:
    raise AssertionError("the folder was made again")
print("tensorflow" in sys.modules)
"""


@pytest.mark.slow
def test_a_worker_writes_a_shard_without_tensorflow(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", WRITE, str(tmp_path)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["False"]
