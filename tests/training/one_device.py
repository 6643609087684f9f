"""Train the stages of a run again on one device: RUN/config.json, FOLDER for the new run."""

import json
import sys
from dataclasses import replace
from pathlib import Path

from runs_of_stages import run_all
from training_fakes import context

from laser_dist.training.config import ClusterConfig, from_dict


def main(config_path, folder):
    run_config = json.loads(Path(config_path).read_text())
    config = replace(from_dict(run_config["training"]), cluster=ClusterConfig())
    where = replace(context(folder), config=run_config, has_equal_statistics=True)
    run_all(config, run_config["dataset"]["dir"], where)


if __name__ == "__main__":
    main(*sys.argv[1:])
