"""Runs a training on Ray. No other module of the training imports Ray to run it."""

import contextlib
import json
import logging
import os
import secrets
import socket
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from laser_dist.errors import UserError
from laser_dist.machine import num_cores
from laser_dist.storage.run_files import RunFiles
from laser_dist.storage.temporary import temporary_folder
from laser_dist.training.config import ClusterConfig, from_dict

if TYPE_CHECKING:
    from laser_dist.training.failure_policy import FailurePolicy
    from laser_dist.training.learning.callbacks import Callback

TRIES_TO_START = 3
_OWN_RAY = "LASER_JND_OWN_RAY"  # set while a Ray that `ray_session` prepares is used
_ON_ONE_MACHINE = {
    _OWN_RAY: "1",
    # Nobody reads the metrics, which Ray serves to clients without a token.
    "RAY_enable_metrics_collection": "0",
    "AUTOSCALER_METRIC_PORT": "-1",
    "DASHBOARD_METRIC_PORT": "-1",
    # Not needed either, and seconds to start: a watch for lost nodes, spare worker processes.
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_prestart_worker_first_driver": "0",
    "RAY_enable_worker_prestart": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",  # of 2: the end of a training is noticed sooner
}
# Ray adds up to 68 bytes to its folder for its sockets, whose paths are limited to 103.
_MAX_BASE_BYTES = 103 - 68 - len("/laser-jnd-12345678")

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Job:
    """Stages of one run to train.

    Attributes:
      config: configuration of `runs.start_run`, and `work`, as for `run_stages`: plain values.
      groups: names of the stages; each group needs those before it.
      callbacks: called by the chief worker; those of the first run count for the runs that the same
        workers train.
    """

    config: dict[str, Any]
    groups: Sequence[Sequence[str]]
    callbacks: "Sequence[Callback]" = ()

    @property
    def stages(self) -> list[str]:
        """Names of all stages, in order."""
        return [name for group in self.groups for name in group]


def train(jobs: Sequence[Job]) -> None:
    """Train runs with the same workers and precision to their end, in one Ray session.

    If the cluster has room for a run's workers more than once, runs, and stages of a run that do
    not need each other, are trained at the same time. Otherwise the same workers train them in
    turn.

    The training runs on the cluster that `RAY_ADDRESS` or the surrounding Ray job names; if there
    is none, on a Ray that is started on this machine. The caller needs `ray_session`.

    Raises:
      TrainingFailedError: of Ray: workers failed more often than the run allows.
      UserError: a machine ran out of memory, or this machine has too few GPUs.
    """
    first = jobs[0].config
    cluster = _cluster_of(first)
    # A stopped process cannot notice that it hangs, but Ray's health check does.
    os.environ["RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S"] = str(cluster.hang_timeout_s)
    import ray

    is_remote = workers_print_progress(first)
    # In one thread: a driver that disconnects in another one takes seconds longer.
    with _connected(ray, cluster, log_to_driver=is_remote):
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        _train_on(nodes, jobs, is_remote)


def _train_on(nodes: Sequence[Mapping[str, float]], jobs: Sequence[Job], is_remote: bool) -> None:
    """Train runs on a Ray cluster whose nodes have these resources."""
    cluster = _cluster_of(jobs[0].config)
    fitting = num_fitting(cluster, nodes)
    room = fitting // cluster.num_workers
    if not room:
        if not uses_cluster():  # this machine alone does not grow
            raise UserError(
                f"This machine has {nodes[0].get('GPU', 0):g} GPUs, but the training needs "
                f"{cluster.num_workers * cluster.gpus_per_worker}.",
                hint="Set --workers and --gpus-per-worker to fit; `laser-jnd doctor` lists GPUs.",
            )
        logger.info(_too_small_text(cluster, fitting))
    at_once = max(1, min(room, len(jobs)))
    # If one group of workers fails, the others still finish their runs: their work is kept.
    with ThreadPoolExecutor(at_once) as pool:
        futures = [
            pool.submit(_train_in_turn, jobs[lane::at_once], room // at_once, is_remote)
            for lane in range(at_once)
        ]
    for future in futures:
        future.result()


def _train_in_turn(jobs: Sequence[Job], room: int, is_remote: bool) -> None:
    """Train several runs by one group of workers, or a single run by up to `room` groups.

    `cluster.max_failures` of the first run counts for all runs of a group.
    """
    if len(jobs) > 1:
        steps = [[[(job, job.stages) for job in jobs]]]
    else:
        (job,) = jobs
        steps = [[[(job, stages)] for stages in step] for step in sessions(job.groups, room)]
    for concurrent in steps:
        with ThreadPoolExecutor(len(concurrent)) as pool:
            futures = [pool.submit(_fit, parts, is_remote) for parts in concurrent]
        for future in futures:
            future.result()


def uses_cluster() -> bool:
    """Return whether there is a Ray to train on: named by RAY_ADDRESS, or this process is of it."""
    return _OWN_RAY not in os.environ and (bool(os.environ.get("RAY_ADDRESS")) or _is_connected())


def workers_print_progress(config: Mapping[str, Any]) -> bool:
    """Return whether a run is in a bucket and trained on a cluster, where no process reads its log.

    Its workers print their progress, and Ray forwards it.
    """
    return uses_cluster() and RunFiles(config["run_dir"]).is_remote


def _is_connected() -> bool:
    ray = sys.modules.get("ray")
    return ray is not None and ray.is_initialized()


@contextmanager
def local_ray(num_cpus: int | None = None) -> Iterator[None]:
    """Connect this process to a Ray of this machine that only its user can reach.

    It listens on the loopback interface, asks for a token, and ends with the block. Trainings
    within the block use it.

    Args:
      num_cpus: CPUs that Ray may use; None for all.

    Raises:
      UserError: Ray did not start, or the environment turns its token off.
    """
    import ray

    with _private_session():
        start_locally(ray, num_cpus or num_cores(), {"log_to_driver": False})
        try:
            yield
        finally:
            ray.shutdown()


@contextmanager
def ray_session() -> Iterator[None]:
    """Prepare the environment of this process for `train`.

    Raises:
      UserError: the environment turns the token of a local Ray off.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # no usage report leaves this machine
    with nullcontext() if uses_cluster() or _is_connected() else _private_session():
        yield


@contextmanager
def _private_session() -> Iterator[None]:
    """Prepare a Ray that only this user can reach.

    It listens on the loopback interface and asks for a token. Its files, the token among them, are
    in a temporary folder that other users cannot enter.
    """
    if (mode := os.environ.get("RAY_AUTH_MODE", "token")).lower() != "token":
        raise UserError(
            f"RAY_AUTH_MODE={mode} would let every user of this machine run programs as you.",
            hint="Unset RAY_AUTH_MODE: each training on this machine makes its own token.",
        )
    base = os.environ.get("RAY_TMPDIR") or tempfile.gettempdir()
    if len(os.fsencode(base)) > _MAX_BASE_BYTES:
        base = "/tmp"
    with temporary_folder(Path(base)) as folder:
        token = folder / "token"
        token.touch(mode=0o600)
        token.write_text(secrets.token_hex(32))
        # TensorFlow leaves files in the temporary folder of a worker that is ended.
        own = {"RAY_TMPDIR": str(folder), "TMPDIR": str(folder), "RAY_AUTH_MODE": "token"}
        with _environment(**_ON_ONE_MACHINE, **own, RAY_AUTH_TOKEN_PATH=str(token)):
            yield


@contextmanager
def _environment(**values: str) -> Iterator[None]:
    """Set environment variables while the block runs."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def sessions(groups: Sequence[Sequence[str]], room: int) -> list[list[tuple[str, ...]]]:
    """Divide stages among groups of workers.

    Args:
      groups: stages, as for `train`.
      room: number of times that the run's workers fit into the cluster.

    Returns:
      Steps, one after the other. Each is a list of sessions that run at the same time. A session is
      the stages that the same workers train in turn.
    """
    at_once = min(room, max(map(len, groups), default=1))
    if at_once < 2:
        return [[tuple(name for group in groups for name in group)]]
    return [[tuple(group[i::at_once]) for i in range(min(at_once, len(group)))] for group in groups]


def num_fitting(cluster: ClusterConfig, nodes: Iterable[Mapping[str, float]]) -> int:
    """Return how many workers fit into the nodes of a Ray cluster, by their resources."""
    needed = _worker_resources(cluster).items()
    return sum(min(int(node.get(name, 0) // count) for name, count in needed) for node in nodes)


def check_gpus_here(cluster: ClusterConfig) -> None:
    """Check that this machine has a GPU if the training needs one and is not sent to a cluster.

    Raises:
      UserError: it has none.
    """
    from laser_dist.training.devices import has_gpu

    if cluster.gpus_per_worker and not uses_cluster() and not has_gpu():
        raise UserError(
            f"This machine has no NVIDIA GPU, but --gpus-per-worker is {cluster.gpus_per_worker}.",
            hint="Train on a cluster with `ray job submit`, or on the CPU: --gpus-per-worker 0.",
        )


def _cluster_of(run_config: Mapping[str, Any]) -> ClusterConfig:
    return from_dict(run_config["training"]["cluster"], ClusterConfig)


def _worker_resources(cluster: ClusterConfig) -> dict[str, int]:
    """Return what each worker asks Ray for."""
    gpus = {"GPU": cluster.gpus_per_worker} if cluster.gpus_per_worker else {}
    return {"CPU": cluster.num_cpus, **gpus}


def _too_small_text(cluster: ClusterConfig, fitting: int) -> str:
    asked = f"{cluster.num_cpus} CPUs and {cluster.gpus_per_worker} GPUs each"
    least = cluster.min_workers
    waits = "waiting for more" if least is None else f"starting with {least} or more"
    return (
        f"The cluster's nodes have room for {fitting} of {cluster.num_workers} workers of {asked}: "
        f"{waits}."
    )


def _fit(parts: Sequence[tuple[Job, Sequence[str]]], prints_progress: bool) -> None:
    """Train stages of runs by one group of workers."""
    from ray.exceptions import OutOfMemoryError
    from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError

    from laser_dist.training import failure_policy

    stores = [RunFiles(job.config["run_dir"]) for job, _ in parts]
    policy = failure_policy.FailurePolicy(
        [(store, stages) for store, (_, stages) in zip(stores, parts, strict=True)]
    )
    cluster = _cluster_of(parts[0][0].config)
    least, most = cluster.min_workers, cluster.num_workers
    trainer = _trainer_class()(
        _on_worker,
        backend_config=_tensorflow_cluster(),
        train_loop_config={
            "runs": [(job.config, list(stages)) for job, stages in parts],
            "prints_progress": prints_progress,
            "callbacks": parts[0][0].callbacks,
        },
        scaling_config=ScalingConfig(
            num_workers=most if least is None else (least, most),
            use_gpu=cluster.gpus_per_worker > 0,
            resources_per_worker=_worker_resources(cluster),
            elastic_resize_monitor_interval_s=cluster.resize_interval_s,
        ),
        run_config=RunConfig(
            name=f"ray-{parts[0][1][0]}",
            storage_path=stores[0].location,
            failure_config=FailureConfig(max_failures=cluster.max_failures),
            callbacks=[_end_at_fatal_errors(policy), *_reports_to_tune()],
        ),
    )
    try:
        trainer.fit()
    except (OutOfMemoryError, TrainingFailedError) as error:
        failures = [error, getattr(error, "controller_failure", None)]
        failures += getattr(error, "worker_failures", {}).values()
        if any(map(failure_policy.is_out_of_memory, failures)):
            raise failure_policy.out_of_memory_error() from error
        raise


def _trainer_class() -> type:
    """Return Ray's trainer, without the processes that a training here has no use for.

    Each has some 200 MB and imports for 5 to 8 s of a core. One shares out datasets of Ray Data.
    On a Ray that was started for this training, two more: one frees the workers' resources if
    Ray's controller is lost, one asks for machines that the cluster could be grown by.
    """
    from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

    is_local = not uses_cluster()
    unused = {"DatasetsCallback", *(["PlacementGroupCleanerCallback"] if is_local else [])}

    class Trainer(DataParallelTrainer):
        def _create_default_callbacks(self) -> list[Any]:
            callbacks = super()._create_default_callbacks()
            return [each for each in callbacks if type(each).__name__ not in unused]

        def _initialize_and_run_controller(self, **options: Any) -> Any:
            if is_local:
                options["scaling_policy"] = _fixed_scaling(self.scaling_config)
            return super()._initialize_and_run_controller(**options)

    return Trainer


def _fixed_scaling(scaling: Any) -> Any:
    """Return a policy of Ray that always runs all workers, and asks for no more machines."""
    from ray.train.v2._internal.execution.scaling_policy import FixedScalingPolicy

    class FixedScaling(FixedScalingPolicy):
        def after_controller_start(self, train_run_context: Any) -> None: ...

        def _maybe_send_resource_request(self) -> None: ...

    return FixedScaling(scaling)


def _on_worker(config: dict[str, Any]) -> None:
    """Run the stages; Ray calls this in every worker."""
    import ray.train

    from laser_dist.training.worker import work

    context = ray.train.get_context()
    work(
        config["runs"],
        worker_index=context.get_world_rank(),
        num_workers=context.get_world_size(),
        prints_progress=config["prints_progress"],
        callbacks=config["callbacks"],
        report=ray.train.report,
        is_preempted=lambda: ray.train.get_preemption_info() is not None,
    )


def _tensorflow_cluster() -> Any:
    """Return a backend of Ray that tells TensorFlow in each worker where the others listen.

    Ray's own backend imports TensorFlow in this process and in Ray's controller too, which takes
    both of them seconds, and asks for the old Keras.
    """
    from ray.train.backend import Backend, BackendConfig

    class TensorflowCluster(Backend):
        def on_start(self, worker_group: Any, backend_config: BackendConfig) -> None:
            addresses = worker_group.execute(_free_address)
            for index in range(len(addresses)):
                worker_group.execute_single(index, _set_tf_config, addresses, index)

    class TensorflowClusterConfig(BackendConfig):
        @property
        def backend_cls(self) -> type[Backend]:
            return TensorflowCluster

    return TensorflowClusterConfig()


def _free_address() -> str:
    """Return an address and a free port of this machine."""
    import ray

    host = ray.util.get_node_ip_address()
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as free:
        free.bind(("", 0))
        port = free.getsockname()[1]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _set_tf_config(addresses: list[str], index: int) -> None:
    task = {"type": "worker", "index": index}
    os.environ["TF_CONFIG"] = json.dumps({"cluster": {"worker": addresses}, "task": task})


def _reports_to_tune() -> list[Any]:
    """Return a callback of Ray that hands metrics to Ray Tune, if this is one of its trials."""
    if "ray.tune" not in sys.modules:  # as in all processes that are no trial: it is slow to import
        return []
    from ray.tune.trainable.trainable_fn_utils import _in_tune_session

    if not _in_tune_session():
        return []
    from ray.tune.integration.ray_train import TuneReportCallback

    return [TuneReportCallback()]


def _end_at_fatal_errors(policy: "FailurePolicy") -> Any:
    """Return a callback of Ray that ends the run at an error that would only come again."""
    from ray.train import UserCallback

    class EndAtFatalErrors(UserCallback):
        def after_exception(self, run_context: Any, worker_exceptions: dict[int, Any]) -> None:
            error = policy.fatal_error(worker_exceptions.values())
            if error is not None:
                raise RuntimeError(f"{type(error).__name__}: {error}") from error

    return EndAtFatalErrors()


@contextmanager
def _connected(ray: Any, cluster: ClusterConfig, *, log_to_driver: bool) -> Iterator[None]:
    """Connect to Ray, or start it if there is none, while the block runs."""
    options = {"log_to_driver": log_to_driver, "logging_level": logging.ERROR}
    if _is_connected():  # by the caller, or this is a process of Ray
        yield
        return
    if uses_cluster():
        ray.init(**options)
    else:
        needed = cluster.num_workers * cluster.num_cpus
        start_locally(ray, max(num_cores(), needed), options)
    try:
        yield
    finally:
        ray.shutdown()


def start_locally(ray: Any, num_cpus: int, options: Mapping[str, Any]) -> None:
    """Start Ray on this machine; again, if a busy machine needs more than Ray's 30 seconds."""
    import psutil
    from ray._raylet import AuthenticationTokenLoader, Config

    # Otherwise Ray takes an address of the network for its own, even if told to use 127.0.0.1.
    ray._private.ray_constants.ENABLE_RAY_CLUSTER = False
    # An earlier session of this process had another token.
    Config.initialize("")
    AuthenticationTokenLoader.instance().reset_cache()
    this = psutil.Process()
    before = set(this.children(recursive=True))
    for left in reversed(range(TRIES_TO_START)):
        try:
            with _without_processes_of_a_cluster():
                ray.init("local", num_cpus=num_cpus, include_dashboard=False, **options)
        except Exception as error:
            if "timed out during startup" not in str(error):
                raise
            # Ray keeps no handle to the processes of a start that it gave up.
            for process in set(this.children(recursive=True)) - before:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            if not left:
                raise UserError(
                    "Ray did not start in time: this machine is too busy or short of memory.",
                    hint="Run the command again when less runs on this machine.",
                ) from error
            logger.warning("Ray took too long to start: it is started again.")
        else:
            return


@contextmanager
def _without_processes_of_a_cluster() -> Iterator[None]:
    """Keep Ray from starting its autoscaler and its log monitor in the block.

    One adds machines, the other copies what workers print to this process. Both import packages for
    a second or more, and then look for work all the time.
    """
    from ray._private.node import Node

    kept = {name: getattr(Node, name) for name in ("start_monitor", "start_log_monitor")}
    for name in kept:
        setattr(Node, name, lambda _: None)
    try:
        yield
    finally:
        for name, method in kept.items():
            setattr(Node, name, method)
