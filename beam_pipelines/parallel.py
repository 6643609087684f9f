"""Base of the steps that run in child processes, next to a single Beam worker."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from queue import SimpleQueue
from typing import Any

import apache_beam as beam
from apache_beam.transforms.window import GlobalWindow
from apache_beam.utils.timestamp import MIN_TIMESTAMP
from apache_beam.utils.windowed_value import WindowedValue

from beam_pipelines.isolation import Crashed, Isolated
from laser_dist.errors import UserError


class InChildProcesses(beam.DoFn):
    """Base of a DoFn that works on several elements at once, each in a child process.

    Beam's own worker processes are not used: their ports accept anyone, on all network interfaces.
    And its local runner distributes the elements in advance, which leaves all but the slowest
    worker idle at the end. Here, the next free process gets the next element.
    """

    def __init__(
        self,
        num_processes: int,
        *,
        step_seconds: float | None = None,
        isolate: Callable[[float | None], Isolated] = Isolated,
    ) -> None:
        """Store the arguments.

        Args:
          num_processes: number of child processes of each Beam worker.
          step_seconds: time limit for one step of the work; None for no limit.
          isolate: creates a child process with a time limit per step.
        """
        self._num_processes = num_processes
        self._step_seconds = step_seconds
        self._isolate = isolate

    def setup(self) -> None:
        """Prepare the child processes, which start at their first element."""
        self._pool = ThreadPoolExecutor(self._num_processes)
        self._running: set[Future[Any]] = set()
        self._free: SimpleQueue[Isolated] = SimpleQueue()
        for _ in range(self._num_processes):
            self._free.put(self._isolate(self._step_seconds))

    def teardown(self) -> None:
        """Stop the child processes."""
        self._pool.shutdown()
        while not self._free.empty():
            self._free.get().close()

    def process(self, element: Any) -> Iterable[Any]:
        """Yield the outputs of whichever elements are finished.

        With several processes, the last ones are emitted when the bundle ends.
        """
        self._running.add(self._pool.submit(self.work, element))
        if len(self._running) >= self._num_processes:
            yield from self._finished()

    def finish_bundle(self) -> Iterable[Any]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Yield the rest."""
        window, start = GlobalWindow(), MIN_TIMESTAMP
        while self._running:
            for output in self._finished():
                if isinstance(output, beam.pvalue.TaggedOutput):
                    value = WindowedValue(output.value, start, (window,))
                    yield beam.pvalue.TaggedOutput(output.tag, value)
                else:
                    yield WindowedValue(output, start, (window,))

    def work(self, element: Any, /) -> Any:
        """Return the outcome of an element; runs in a thread, and may call `in_child`."""
        raise NotImplementedError

    def outputs(self, outcome: Any, /) -> Iterable[Any]:
        """Yield the outputs of an outcome; runs in Beam's thread, to which its counters belong."""
        raise NotImplementedError

    @contextmanager
    def child(self) -> Iterator[Isolated]:
        """Lend a free child process."""
        isolated = self._free.get()
        try:
            yield isolated
        finally:
            self._free.put(isolated)

    def in_child(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call a function in a child process, which no input should be able to crash.

        Raises:
          UserError: the process crashed.
          Exception: what the function raised.
        """
        with self.child() as isolated:
            try:
                return isolated.call(function, *arguments)
            except Crashed as crash:
                raise UserError(
                    f"A child process crashed, probably out of memory: {crash.how}.",
                    hint="Run the command again with fewer --workers.",
                ) from crash

    def _finished(self) -> Iterable[Any]:
        """Wait for one or more elements and yield their outputs."""
        done, self._running = wait(self._running, return_when=FIRST_COMPLETED)
        for future in done:
            yield from self.outputs(future.result())
