"""Runs a training on Ray: the only place that imports Ray for it."""

import json
import logging
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from laser_dist.training.logs import EVENTS_FILE

SECONDS_BETWEEN_LOOKS = 0.3
# On a Ray of our own nobody takes the node away, and no process is needed beside the workers: each
# costs seconds of both cores to start.
_ON_ONE_MACHINE = {
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_prestart_worker_first_driver": "0",
    "RAY_enable_worker_prestart": "0",
}
# What TensorFlow raises in the workers that are left when another one is lost.
_LEFT_BEHIND = ("Unavailable", "Aborted", "Cancelled", "DeadlineExceeded", "Internal", "Unknown")


def train(run_config: dict[str, Any], watch: Callable[[dict[str, Any]], None]) -> None:
    """Trains a run to its end.

    Uses the cluster that `RAY_ADDRESS` or the surrounding Ray job names; else starts Ray on this
    machine and ends it again.

    Args:
      run_config: of `runs.start_run`, plain values.
      watch: given every event of the run's log as it comes.

    Raises:
      TrainingFailedError: of Ray, when workers failed more often than the run allows.
    """
    # Read when ray is imported: no usage report leaves this machine.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if not os.environ.get("RAY_ADDRESS"):
        os.environ.update(_ON_ONE_MACHINE)
    import ray
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.tensorflow import TensorflowTrainer

    cluster = run_config["training"]["cluster"]
    run_dir = Path(run_config["run_dir"])
    resources = {"CPU": cluster["cpus_per_worker"], "GPU": cluster["gpus_per_worker"]}
    with _ray(ray, cluster), _following(run_dir / EVENTS_FILE, watch):
        TensorflowTrainer(
            _on_worker,
            train_loop_config=run_config,
            scaling_config=ScalingConfig(
                num_workers=cluster["num_workers"],
                use_gpu=cluster["gpus_per_worker"] > 0,
                resources_per_worker={name: count for name, count in resources.items() if count},
            ),
            run_config=RunConfig(
                name="ray",
                storage_path=str(run_dir.resolve()),
                failure_config=FailureConfig(max_failures=cluster["max_failures"]),
                callbacks=[_end_at_faults()],
            ),
        ).fit()


def _on_worker(run_config: dict[str, Any]) -> None:
    """The training function that Ray runs in every worker."""
    import ray.train

    from laser_dist.training.worker import work

    context = ray.train.get_context()
    work(
        run_config,
        worker_index=context.get_world_rank(),
        num_workers=context.get_world_size(),
        after_epoch=ray.train.report,
    )


def _end_at_faults() -> Any:
    """A callback of Ray's that ends the run at an error that would only come again.

    Ray starts all workers anew after any error. That helps where one of them was lost; where the
    code or the settings are at fault it takes half a minute each time, to no end.
    """
    from ray.train import UserCallback

    class EndAtFaults(UserCallback):
        def after_exception(self, run_context: Any, worker_exceptions: dict[int, Any]) -> None:
            for error in worker_exceptions.values():
                if not may_come_of_a_lost_worker(error):
                    raise RuntimeError(f"{type(error).__name__}: {error}") from error

    return EndAtFaults()


def may_come_of_a_lost_worker(error: BaseException) -> bool:
    """Whether a worker's error may be another worker's end, told by the error's own type.

    Args:
      error: that the training function raised, or Ray's word that the worker has died.
    """
    package, name = type(error).__module__.partition(".")[0], type(error).__name__
    left_behind = package == "tensorflow" and name.removesuffix("Error") in _LEFT_BEHIND
    return package == "ray" or left_behind


@contextmanager
def _ray(ray: Any, cluster: dict[str, Any]) -> Iterator[None]:
    """Ray, started here if there is none yet, and ended if it was started here."""
    if ray.is_initialized():
        yield
        return
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
    if os.environ.get("RAY_ADDRESS"):
        ray.init(**quiet)
    else:
        affinity = getattr(os, "sched_getaffinity", None)  # macOS has none
        cores = len(affinity(0)) if affinity else os.cpu_count() or 1
        needed = cluster["num_workers"] * cluster["cpus_per_worker"]
        ray.init(num_cpus=max(cores, needed), include_dashboard=False, **quiet)
    try:
        yield
    finally:
        ray.shutdown()


@contextmanager
def _following(path: Path, watch: Callable[[dict[str, Any]], None]) -> Iterator[None]:
    """Hands on what is appended to an event file while the block runs."""
    ended = threading.Event()
    start = path.stat().st_size if path.exists() else 0

    def follow() -> None:
        position = start
        while True:
            last_look = ended.wait(SECONDS_BETWEEN_LOOKS)
            if path.exists():
                with path.open() as file:
                    file.seek(position)
                    lines = file.read()
                whole = lines[: lines.rfind("\n") + 1]
                position += len(whole.encode())
                for line in whole.splitlines():
                    watch(json.loads(line))
            if last_look:
                return

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
