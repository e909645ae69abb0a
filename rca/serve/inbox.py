"""The durable queue: alerts are on the disk before their sender hears that they arrived.

All writes of the process go through one thread, which commits what waits together: a burst costs one wait for the disk, and
nobody ever waits for a lock. Readers have a connection each.
"""

from __future__ import annotations

import fcntl
import logging
import os
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

from rca.errors import BadInput, RcaError, Unavailable
from rca.incidents.inbox import AlertGroup, InboxFile, Receipt

T = TypeVar("T")
_LOG: Final = logging.getLogger(__name__)
_MOST_TOGETHER: Final = 256  # changes in one commit
_CHECKPOINT_S: Final = 5.0
_COUNT_S: Final = 0.5
LOCK_FILE: Final = "inbox.lock"


@dataclass(frozen=True)
class _Change:
    """Something to write, and who waits for it."""

    apply: Callable[[InboxFile], Any]
    done: Future[Any]


class Inbox:
    """The inbox of a home, for one process at a time. Raises BadInput if another one has it, and as the store does."""

    def __init__(self, home: Path, system: str, *, wall_ns: Callable[[], int] = time.time_ns) -> None:
        self.home, self._system, self._wall_ns = home, system, wall_ns
        home.mkdir(parents=True, exist_ok=True)
        self._lock = _locked(home / LOCK_FILE)
        try:
            self._file = InboxFile(home, shared=True)
        except BaseException:
            os.close(self._lock)
            raise
        self.news = threading.Condition()
        self._told = 0
        self.waiting_groups = self._file.waiting()
        self._uncounted = False
        self._counted = time.monotonic()
        self.trouble = ""
        self._door = threading.Lock()
        self._changes: queue.SimpleQueue[_Change | None] = queue.SimpleQueue()
        self._ended = threading.Event()
        self._writer = threading.Thread(target=self._write_all, name="inbox", daemon=True)
        self._copier = threading.Thread(target=self._copy, name="inbox checkpoint", daemon=True)
        self._writer.start()
        self._copier.start()

    def close(self) -> None:
        """Write what waits, and let go of the home."""
        with self._door:
            self._ended.set()
            self._changes.put(None)
        self._writer.join()
        self._copier.join()
        self._file.close()
        os.close(self._lock)
        self.tell()

    # --- writing ------------------------------------------------------------------------------------------------

    def take(self, group: AlertGroup) -> Future[Receipt]:
        """Store a notification. When the future is done, it is on the disk; it fails as the store does."""
        return self.submit(lambda file: file.take(group, self._wall_ns(), self._system))

    def submit(self, apply: Callable[[InboxFile], T]) -> Future[T]:
        """Have something written, in one transaction with what else waits. What `apply` raises, its future raises."""
        done: Future[T] = Future()
        done.set_running_or_notify_cancel()  # a request that is cancelled must not take it along
        with self._door:
            if self._ended.is_set():
                done.set_exception(Unavailable("the server is ending"))
            else:
                self._changes.put(_Change(apply, done))
        return done

    def write(self, apply: Callable[[InboxFile], T]) -> T:
        """The same, waited for."""
        return self.submit(apply).result()

    def _write_all(self) -> None:
        while True:
            try:
                first = self._changes.get(timeout=_COUNT_S if self._uncounted else None)
            except queue.Empty:
                self._count()
                continue
            changes = [] if first is None else [first]
            ending = first is None
            while len(changes) < _MOST_TOGETHER:
                try:
                    more = self._changes.get_nowait()
                except queue.Empty:
                    break
                if more is None:
                    ending = True
                else:
                    changes.append(more)
            self._commit(changes)
            if ending and self._changes.empty():
                return

    def _commit(self, changes: Sequence[_Change]) -> None:
        """All of them in one transaction; one by one where that fails, so that each has its own error."""
        if not changes:
            return
        try:
            with self._file.writing():
                results = [change.apply(self._file) for change in changes]
        except BaseException as error:
            if len(changes) > 1:
                for change in changes:
                    self._commit([change])
                return
            self.trouble = str(error) if isinstance(error, RcaError) else ""
            changes[0].done.set_exception(error)
            return
        self.trouble = ""
        self._uncounted = True
        if time.monotonic() - self._counted >= _COUNT_S:
            self._count()
        for change, result in zip(changes, results, strict=True):
            change.done.set_result(result)
        self.tell()

    def _count(self) -> None:
        """Now and then, and once nothing more comes: the last count must not stand where the queue has emptied since."""
        try:
            self.waiting_groups = self._file.waiting()
        except Exception as error:  # the next change says so to whoever waits for it; without a writer, nobody would hear of it
            _LOG.warning("%s", error, exc_info=None if isinstance(error, RcaError) else error)
        self._counted, self._uncounted = time.monotonic(), False

    def _copy(self) -> None:
        """Move what was committed into the main file now and then; nobody who commits waits for it."""
        while not self._ended.wait(_CHECKPOINT_S):
            try:
                with self.reading() as file:
                    file.checkpoint()
            except Exception as error:  # the next time may be better, and without one the log of changes would grow for ever
                _LOG.warning("%s", error, exc_info=None if isinstance(error, RcaError) else error)

    # --- reading ------------------------------------------------------------------------------------------------

    @contextmanager
    def reading(self) -> Iterator[InboxFile]:
        """A connection of one's own."""
        file = InboxFile(self.home)
        try:
            yield file
        finally:
            file.close()

    def tell(self) -> None:
        """Wake who waits for news."""
        with self.news:
            self._told += 1
            self.news.notify_all()

    def wait(self, seen: int, seconds: float) -> int:
        """Wait until something was written since `seen`, or for so long; what to call with next time."""
        with self.news:
            self.news.wait_for(lambda: self._told != seen or self._ended.is_set(), timeout=seconds)
            return self._told


def _locked(path: Path) -> int:
    """A lock that ends with the process. Raises BadInput if somebody else has it."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise BadInput(str(path.parent), expected="a place that can be written", found=str(error.strerror)) from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise BadInput(str(path.parent), expected="a home that no other `rca serve` uses", found="one that is in use") from None
    return descriptor
