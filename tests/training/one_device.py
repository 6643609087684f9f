"""Train the stages of runs again on one device, and without graphs, which take long to build.

Arguments: FOLDER... of the new runs, each with the configuration in `one_device.json`.
"""

import json
import sys
from dataclasses import replace
from pathlib import Path

import tensorflow as tf
from runs_of_stages import run_all
from training_fakes import context

from laser_dist.training.config import ClusterConfig, from_dict


def main(folder):
    run_config = json.loads((folder / "one_device.json").read_text())
    config = replace(from_dict(run_config["training"]), cluster=ClusterConfig())
    where = replace(context(folder), config=run_config, has_equal_statistics=True)
    run_all(config, run_config["dataset"]["dir"], where)


if __name__ == "__main__":
    tf.config.run_functions_eagerly(True)
    for argument in sys.argv[1:]:
        main(Path(argument))
