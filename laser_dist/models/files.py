"""Saved models, read by a program that has not made them."""

from pathlib import Path

import keras

import laser_dist.models.layers  # noqa: F401

# A saved model names its layers, which Keras finds only where their modules have been imported.
import laser_dist.models.predictor_spec  # noqa: F401


def load_saved(path: Path) -> keras.Model:
    """Loads a model of ours; code inside the file is never run.

    Raises:
      OSError, ValueError, TypeError, KeyError, zipfile.BadZipFile: of Keras, which has no one error
        for what is no whole model.
    """
    model = keras.saving.load_model(path, compile=False, safe_mode=True)
    if not isinstance(model, keras.Model):
        raise ValueError(f"{path.name} holds a {type(model).__name__}, not a model")
    return model
