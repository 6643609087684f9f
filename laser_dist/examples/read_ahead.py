"""Prepare the next batches while a step runs."""

import threading
import time
from collections.abc import Iterable, Iterator
from queue import Full, Queue
from typing import Generic, TypeVar

T = TypeVar("T")
_POLL_S = 0.1


class ReadAhead(Generic[T]):
    """Iterates in a separate thread, some items ahead of the consumer.

    Attributes:
      waited_s: seconds that the consumer has waited so far.
    """

    def __init__(self, items: Iterable[T], ahead: int = 2) -> None:
        """Take the iterable, and how many items to be ahead; the thread starts with iteration."""
        self._items, self._ahead = items, ahead
        self.waited_s = 0.0

    def __iter__(self) -> Iterator[T]:
        """Yield the items in order; an error of the iterable is raised here."""
        queue: Queue[tuple[bool, object]] = Queue(self._ahead)
        closed = threading.Event()

        def put(entry: tuple[bool, object]) -> bool:
            while not closed.is_set():
                try:
                    queue.put(entry, timeout=_POLL_S)
                    return True
                except Full:
                    continue
            return False

        def walk() -> None:
            try:
                for item in self._items:
                    if not put((True, item)):
                        return
                put((False, None))
            except BaseException as error:  # noqa: BLE001 - raised in the consumer
                put((False, error))

        thread = threading.Thread(target=walk, name="read-ahead", daemon=True)
        thread.start()
        try:
            while True:
                started = time.monotonic()
                more, item = queue.get()
                self.waited_s += time.monotonic() - started
                if not more:
                    if isinstance(item, BaseException):
                        raise item
                    return
                yield item  # type: ignore[misc]
        finally:
            closed.set()
            thread.join()
