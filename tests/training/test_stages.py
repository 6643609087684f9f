import csv
import math

import keras
import numpy as np
import pytest
from training_fakes import HEIGHT, NUM_TRAIN, NUM_VALIDATION, WIDTH, GappyPairs, place

from laser_dist.errors import UserError
from laser_dist.models.specs import BackboneSpec, HeadSpec
from laser_dist.training.config import StageConfig, TrainingConfig
from laser_dist.training.data import Share
from laser_dist.training.logs import METRICS_FILE
from laser_dist.training.stages import run_stages

FRAMES = StageConfig(epochs=1, batch_size=4, learning_rate=1e-3, crop=16)
CONFIG = TrainingConfig(
    variant="mj-lat",
    backbone=BackboneSpec(filters=4, latent_filters=4, height=HEIGHT, width=WIDTH),
    head=HeadSpec(filters=(4,), dense=(), pooling="average"),
    image=FRAMES,
    jnd=FRAMES,
    heads=StageConfig(epochs=2, batch_size=4, learning_rate=1e-3, flips=True, mixup=1.0),
)


class ThirdLevelUnseen(GappyPairs):
    """No example of the validation split has the third level."""

    LACKING = {NUM_TRAIN + number: (3,) for number in range(NUM_VALIDATION)}


def test_a_level_that_a_split_lacks_is_refused_before_anything_is_learnt(tmp_path):
    builder = ThirdLevelUnseen(data_dir=tmp_path / "data")
    builder.download_and_prepare()
    with pytest.raises(UserError, match="of split validation that has jnd3, got none of 2"):
        run_stages(CONFIG, builder.data_path, Share(), place(tmp_path / "run"))
    assert not (tmp_path / "run" / "checkpoints").exists()


@pytest.mark.slow
def test_a_whole_run_learns_around_missing_levels(gappy_dir, tmp_path):
    keras.utils.set_random_seed(CONFIG.seed)  # as a worker does: the head's first weights
    run_stages(CONFIG, gappy_dir, Share(), place(tmp_path))
    predictor = keras.saving.load_model(tmp_path / "models" / "predictor.keras", compile=False)
    assert isinstance(predictor, keras.Model)
    assert all(np.isfinite(values).all() for values in predictor.get_weights())
    with (tmp_path / METRICS_FILE).open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert all(math.isfinite(float(row["value"])) for row in rows)
    levels = predictor(np.zeros((1, HEIGHT, WIDTH, 3), np.float32))
    # Biases start at the means of the levels that are there: about 23, 28 and 33.
    np.testing.assert_allclose(levels, [[23, 27.7, 32.8]], atol=3)
