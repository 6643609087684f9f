"""Runs a training on Ray: the only place that imports Ray for it."""

import contextlib
import json
import logging
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

from laser_dist.training.storage.logs import SECONDS_BETWEEN_PUSHES, events_path
from laser_dist.training.storage.run_store import RunStore
from laser_dist.training.worker_errors import Judge

SECONDS_BETWEEN_LOOKS = 0.3
# On a Ray of our own nobody takes the node away, and no process is needed beside the workers: each
# costs seconds of both cores to start.
_ON_ONE_MACHINE = {
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_prestart_worker_first_driver": "0",
    "RAY_enable_worker_prestart": "0",
}


def train(
    run_config: dict[str, Any],
    groups: Sequence[Sequence[str]],
    watch: Callable[[dict[str, Any]], None],
) -> None:
    """Trains stages of a run to their end.

    Where the cluster has room for the run's workers more than once, stages that do not need each
    other are trained side by side; else the same workers train all of them, one after the other.

    Uses the cluster that `RAY_ADDRESS` or the surrounding Ray job names; else starts Ray on this
    machine and ends it again.

    Args:
      run_config: of `runs.start_run`, and `work`, what `run_stages` takes: plain values.
      groups: names of the stages to train: each group needs those before it.
      watch: given every event of the run's log as it comes.

    Raises:
      TrainingFailedError: of Ray, when workers failed more often than the run allows.
      UserError: a machine's memory was full.
    """
    # Read when ray is imported: no usage report leaves this machine.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if not os.environ.get("RAY_ADDRESS"):
        os.environ.update(_ON_ONE_MACHINE)
    cluster = run_config["training"]["cluster"]
    # A stopped process does not notice that it hangs: Ray's look at each worker does.
    os.environ["RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S"] = str(cluster["hang_timeout_s"])
    import ray

    with _ray(ray, cluster):
        resources = ray.cluster_resources()
        room = how_often(cluster, resources)
        if not room:
            watch({"kind": "note", "text": _too_small(cluster, resources)})
        for side_by_side in sessions(groups, room):
            _run_sessions(run_config, side_by_side, watch)


def sessions(groups: Sequence[Sequence[str]], room: int) -> list[list[tuple[str, ...]]]:
    """Which stages the same workers train one after the other.

    Args:
      groups: as `train` takes them.
      room: how often the run's workers fit into the cluster.

    Returns:
      Steps one after the other; each a list of sessions that run side by side, each of which is
      the stages of some workers.
    """
    at_once = min(room, max(map(len, groups), default=1))
    if at_once < 2:
        return [[tuple(name for group in groups for name in group)]]
    return [[tuple(group[i::at_once]) for i in range(min(at_once, len(group)))] for group in groups]


def how_often(cluster: Mapping[str, Any], resources: Mapping[str, float]) -> int:
    """How often a run's workers fit into what a Ray cluster has."""
    needed = {"CPU": cluster["cpus_per_worker"], "GPU": cluster["gpus_per_worker"]}
    fits = [
        int(resources.get(name, 0) // (count * cluster["num_workers"]))
        for name, count in needed.items()
        if count
    ]
    return min(fits, default=1)


def _too_small(cluster: Mapping[str, Any], resources: Mapping[str, float]) -> str:
    """What is told where a run's workers do not fit."""
    asked = f"{cluster['cpus_per_worker']} CPUs and {cluster['gpus_per_worker']} GPUs each"
    there = f"{resources.get('CPU', 0):g} CPUs and {resources.get('GPU', 0):g} GPUs"
    least = cluster["min_workers"]
    waits = "waiting for more" if least is None else f"starting with {least} or more"
    return f"{cluster['num_workers']} workers of {asked}: the cluster has {there}, {waits}"


def _run_sessions(
    run_config: dict[str, Any],
    side_by_side: Sequence[Sequence[str]],
    watch: Callable[[dict[str, Any]], None],
) -> None:
    """Runs sessions to their end; if one fails the others end first, as their work is kept."""
    with ThreadPoolExecutor(len(side_by_side)) as pool:
        futures = [pool.submit(_fit, run_config, stages, watch) for stages in side_by_side]
    for future in futures:
        future.result()


def _fit(
    run_config: dict[str, Any], stages: Sequence[str], watch: Callable[[dict[str, Any]], None]
) -> None:
    from ray.exceptions import OutOfMemoryError
    from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError
    from ray.train.tensorflow import TensorflowTrainer

    cluster = run_config["training"]["cluster"]
    store = RunStore(run_config["run_dir"])
    least, most = cluster["min_workers"], cluster["num_workers"]
    resources = {"CPU": cluster["cpus_per_worker"], "GPU": cluster["gpus_per_worker"]}
    judge = Judge(store.place, stages)
    with _following(store, stages[0], watch):
        trainer = TensorflowTrainer(
            _on_worker,
            train_loop_config={"run": run_config, "stages": list(stages)},
            scaling_config=ScalingConfig(
                num_workers=most if least is None else (least, most),
                use_gpu=cluster["gpus_per_worker"] > 0,
                resources_per_worker={name: count for name, count in resources.items() if count},
            ),
            run_config=RunConfig(
                name=f"ray-{stages[0]}",
                storage_path=store.place,
                failure_config=FailureConfig(max_failures=cluster["max_failures"]),
                callbacks=[_end_at_faults(judge)],
            ),
        )
        try:
            trainer.fit()
        except (OutOfMemoryError, TrainingFailedError) as error:
            told = judge.told(error)
            if told is None:
                raise
            raise told from error


def _on_worker(config: dict[str, Any]) -> None:
    """The training function that Ray runs in every worker."""
    import ray.train

    from laser_dist.training.worker import work

    context = ray.train.get_context()
    work(
        config["run"],
        config["stages"],
        worker_index=context.get_world_rank(),
        num_workers=context.get_world_size(),
    )


def _end_at_faults(judge: Judge) -> Any:
    """A callback of Ray's that ends the run at an error that would only come again."""
    from ray.train import UserCallback

    class EndAtFaults(UserCallback):
        def after_exception(self, run_context: Any, worker_exceptions: dict[int, Any]) -> None:
            error = judge.fault(worker_exceptions.values())
            if error is not None:
                raise RuntimeError(f"{type(error).__name__}: {error}") from error

    return EndAtFaults()


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
def _following(
    store: RunStore, first_stage: str, watch: Callable[[dict[str, Any]], None]
) -> Iterator[None]:
    """Hands on what is appended to an event file while the block runs."""
    ended = threading.Event()
    path = events_path(store.local, first_stage)
    start = len(store.content(path) or b"")
    pause = SECONDS_BETWEEN_PUSHES if store.is_remote else SECONDS_BETWEEN_LOOKS

    def appended(position: int) -> bytes:
        if store.is_remote:
            return (store.content(path) or b"")[position:]
        if not path.exists():
            return b""
        with path.open("rb") as file:
            file.seek(position)
            return file.read()

    def follow() -> None:
        position = start
        while True:
            last_look = ended.wait(pause)
            lines = b""
            with contextlib.suppress(OSError):  # the next look sees it all
                lines = appended(position)
            whole = lines[: lines.rfind(b"\n") + 1]
            position += len(whole)
            for line in whole.splitlines():
                with contextlib.suppress(ValueError):
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
