"""Run stages in this process, in the order that the commands use."""

from dataclasses import replace

from laser_dist.models.variants import variant_named
from laser_dist.training.config import to_dict
from laser_dist.training.plan import inputs_of, key_of, plan_stages
from laser_dist.training.stages import run_stages


def work_of(config, fingerprint="abc"):
    """Return the `work` argument of `run_stages` for all stages of a configuration."""
    keys, work = {}, {}
    for plan in plan_stages(variant_named(config.variant), config.levels):
        inputs = inputs_of(plan, to_dict(config), fingerprint, keys)
        keys[plan.name] = key_of(inputs)
        work[plan.name] = {"key": keys[plan.name], "inputs": inputs}
    return work


def run_all(config, dataset_dir, where):
    work = work_of(config)
    card = {**where.config["dataset"], "dir": str(dataset_dir)}
    context = replace(where, config={**where.config, "dataset": card})
    run_stages(config, context, work, list(work))
