"""Steps that run in child processes, next to a single Beam worker."""

import logging
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, nullcontext
from queue import SimpleQueue
from typing import Any, TypeVar

import apache_beam as beam
from apache_beam.utils.windowed_value import WindowedValue

from laser_dist.errors import UserError
from laser_dist.isolation import Crashed, Isolated, OutOfMemory

T = TypeVar("T")

logger = logging.getLogger(__name__)


class ChildProcesses:
    """Child processes that several threads share; each runs one call at a time."""

    def __init__(
        self,
        count: int,
        step_seconds: float | None = None,
        isolate: Callable[[float | None], Isolated] = Isolated,
    ) -> None:
        """Prepare the processes, which start at their first call.

        Args:
          count: number of processes.
          step_seconds: time limit for one step of a call; None for no limit.
          isolate: creates a child process with a time limit per step.
        """
        self._all = [isolate(step_seconds) for _ in range(count)]
        self._free: SimpleQueue[Isolated] = SimpleQueue()
        for child in self._all:
            self._free.put(child)
        self._taking_all = threading.Lock()

    def stop(self) -> None:
        """Stop the processes, also those at work, whose calls then raise `Stopped`."""
        for child in self._all:
            child.stop()

    def close(self) -> None:
        """Wait for the end of the stopped processes."""
        for child in self._all:
            child.close()

    def lend(self, work: Callable[[Isolated], T]) -> T:
        """Return what `work` returns, given a process; if memory runs out, again with a new one.

        The second time, no other process works.

        Args:
          work: calls a function in the process; can be repeated from its start.

        Raises:
          Crashed: the process failed, or exceeded its memory limit twice.
          UserError: memory ran out twice otherwise.
          Exception: what `work` raised.
        """
        try:
            with self._children_at_hand(1) as (child,):
                return work(child)
        except OutOfMemory as error:
            logger.warning("Memory ran out: %s; trying again without other processes", error)
        with self._children_at_hand(len(self._all)) as children:
            for each in children:
                each.close()  # it holds some memory of earlier calls
            try:
                return work(children[0])
            except OutOfMemory as error:
                if error.needs:
                    raise Crashed(error.step, error.how, needs=error.needs) from error
                raise UserError(
                    f"Memory ran out twice, the second time with one child process only: {error}.",
                    hint="Use fewer --workers, or a machine with more memory.",
                ) from error

    @contextmanager
    def _children_at_hand(self, count: int) -> Iterator[list[Isolated]]:
        """Lend free child processes."""
        with self._taking_all if count > 1 else nullcontext():  # two that each hold some would wait
            lent = [self._free.get() for _ in range(count)]
        try:
            yield lent
        finally:
            for child in lent:
                self._free.put(child)


class InChildProcesses(beam.DoFn):
    """Base of a DoFn that works on several elements at once, each in a child process.

    Beam's own worker processes are not used: their ports accept anyone, on all network interfaces.
    And its local runner distributes the elements in advance, which leaves all but the slowest
    worker idle at the end. Here, the next free process gets the next element. Each output has the
    timestamp and the window of its element.
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
        self._running: dict[Future[Any], WindowedValue] = {}
        self._children = ChildProcesses(self._num_processes, self._step_seconds, self._isolate)

    def teardown(self) -> None:
        """Stop the child processes, also those at work."""
        self._children.stop()
        self._pool.shutdown(cancel_futures=True)
        self._children.close()

    def process(
        self,
        element: Any,
        timestamp: Any = beam.DoFn.TimestampParam,
        window: Any = beam.DoFn.WindowParam,
    ) -> Iterable[Any]:
        """Yield the outputs of whichever elements are finished.

        With several processes, the last ones are emitted when the bundle ends.
        """
        future = self._pool.submit(self.work, element)
        self._running[future] = WindowedValue(element, timestamp, (window,))
        if len(self._running) >= self._num_processes:
            yield from self._finished()

    def finish_bundle(self) -> Iterable[Any]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Yield the rest."""
        while self._running:
            yield from self._finished()

    def work(self, element: Any, /) -> Any:
        """Return the outcome of an element; runs in a thread, and may call `in_child`."""
        raise NotImplementedError

    def outputs(self, outcome: Any, /) -> Iterable[Any]:
        """Yield the outputs of an outcome; runs in Beam's thread, to which its counters belong."""
        raise NotImplementedError

    def in_child(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call a function in a child process; errors as for `ChildProcesses.lend`."""
        return self._children.lend(lambda child: child.call(function, *arguments))

    def _finished(self) -> Iterable[Any]:
        """Wait for one or more elements and yield their outputs, each as if its element made it."""
        done, _ = wait(self._running, return_when=FIRST_COMPLETED)
        for future in done:
            made_from = self._running.pop(future)
            try:
                outcome = future.result()
            except Crashed as crash:
                raise UserError(crash.message) from crash
            for output in self.outputs(outcome):
                if isinstance(output, beam.pvalue.TaggedOutput):
                    value = made_from.with_value(output.value)
                    yield beam.pvalue.TaggedOutput(output.tag, value)
                else:
                    yield made_from.with_value(output)
