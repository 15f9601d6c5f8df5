"""Blocks computed by dask's workers: a window of them is in flight, the coordinator commits them in order.

The coordinator holds the group, lays recipe and blocks on a desk, ``<stores>/<backbone>.dask/``, and sends their
names; workers spool as `--task` does. Only names, counts and reasons go over the network: the store's file system is
shared, and each worker checks that. A block whose worker was lost goes to another, which keeps what was spooled of it.
What is done when no block is missing imports no dask.
"""

from __future__ import annotations

import contextlib
import pickle
import time
import uuid
from collections import Counter, deque
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from embedpipe.errors import ConfigError, StoreError
from embedpipe.extract.batches import StepTimes
from embedpipe.extract.blocks import make_task
from embedpipe.extract.session import Session
from embedpipe.extract.spool import clear_block, is_spooled, spool_folder
from embedpipe.extract.stopping import Stopping
from embedpipe.extract.verdict import shares_text
from embedpipe.extract.worker import RECIPE, STEPS, WITNESS, Computed, Recipe, compute_on_dask, stop_on_dask
from embedpipe.extract.workers import num_computing, open_client, wanted_resources
from embedpipe.progress import Progress
from embedpipe.store.disk import make_folder, remove_tree, write_file
from embedpipe.store.plan import Block, GrowthPlan

if TYPE_CHECKING:
    from distributed import Client, Future

    from embedpipe.extract.run import Failures

POLL_S = 0.2
SEEN_WITHIN_S = 60.0  # a network file system shows a new file late: by default within 60 s at most
MAX_SENT = 10  # dask itself sends a block to four workers before it gives up; each time counts once here
# lost: its worker died with the result, which another finds spooled
UNDER_WAY = ("pending", "lost")
FINISH_S = 60.0  # what batches in hand may take once workers are told to stop


class DaskBlocks:
    """Context manager that has the blocks of a plan spooled by workers.

    Parameters
    ----------
    times
        What workers took is added up here; `total_s` is the coordinator's clock.
    """

    def __init__(
        self,
        session: Session,
        plan: GrowthPlan,
        failures: Failures,
        times: StepTimes,
        stopping: Stopping,
        progress: Progress,
        say: Callable[[str], None],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._session, self._plan, self._failures, self._times = session, plan, failures, times
        self._stopping, self._progress, self._say, self._clock = stopping, progress, say, clock
        group = session.group.path.resolve()
        self._folder = spool_folder(group)
        self._desk = group.parent / f"{session.name}.dask"
        self._token = f"embedpipe-{uuid.uuid4().hex}"
        self._upcoming = iter(plan.blocks)
        self._flying: deque[tuple[Block, str, Future[Computed | Exception] | None]] = deque()
        self._sent: Counter[str] = Counter()
        self._done_of: dict[str, int] = {}
        self._failed: deque[tuple[int, str]] = deque()
        self._client: Client | None = None
        self._stack = contextlib.ExitStack()
        self._began = clock()

    def __enter__(self) -> Self:
        self._began = self._clock()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._stack:
            if kind is not None:
                self._stop_workers()

    def wait_for(self, block: Block, done: int) -> str:
        """Return once a block, the plan's next, is spooled.

        Parameters
        ----------
        done
            Rows committed so far.

        Returns
        -------
        str
            The digest of the block.

        Raises
        ------
        Stopped
            If the run was asked to stop; what workers have computed is spooled.
        StoreError, ConfigError, ProbeMismatch
            If a worker cannot compute as the coordinator would, or the scheduler or all workers were lost.
        """
        self._fill()
        while True:
            expected, digest, future = self._flying[0]
            assert expected.index == block.index
            while future is not None and future.status in UNDER_WAY:
                self._look(done)
                time.sleep(POLL_S)
            if future is None or self._finish(block, digest, future):
                break
        self._flying.popleft()
        self._look(done)
        self._done_of.pop(digest, None)
        return digest

    def committed(self, digest: str) -> None:
        """Give back what a committed block took on disk beside the store."""
        clear_block(self._folder / digest, self._say)
        (self._desk / digest).unlink(missing_ok=True)

    def _look(self, done: int) -> None:
        """Take in what workers have reported, and stop if that was asked for."""
        while self._failed:
            self._failures.add(dict([self._failed.popleft()]), self._plan, computed=False)
        self._times.total_s = self._clock() - self._began
        done += sum(list(self._done_of.values()))
        total = self._plan.num_rows_to_compute
        self._progress(min(done, total), total, "samples", shares_text(self._times))
        if self._stopping.asked():
            raise self._stopping.error(self._session.name, min(done, total), total)

    def _finish(self, block: Block, digest: str, future: Future[Computed | Exception]) -> bool:
        """Whether a block whose task has ended is spooled; False where it was sent again."""
        if future.status == "finished":
            computed = future.result()
            if isinstance(computed, Exception):
                raise computed
            self._add(computed)
            deadline = self._clock() + SEEN_WITHIN_S
            while computed.whole and not is_spooled(self._folder, digest):
                if self._clock() > deadline:
                    raise StoreError(
                        f"{self._folder / digest}: worker on {computed.host} says that it has spooled this block, and "
                        f"after {SEEN_WITHIN_S:.0f} s it is not here; see that both mount the same file system there"
                    )
                time.sleep(POLL_S)
            return computed.whole or self._again(digest, "its worker was told to stop")
        if future.status == "error":
            from distributed import KilledWorker

            error = future.exception()
            if isinstance(error, KilledWorker):
                return self._again(digest, f"the workers that had it were lost ({error.last_worker.address})")
            if isinstance(error, ModuleNotFoundError):
                raise ConfigError(
                    f"extract.scheduler: expected workers with embedpipe installed, found: {error}; start them "
                    "from the same environment as this process"
                ) from error
            raise error if error is not None else StoreError(f"{digest}: failed without a reason")
        raise StoreError(
            f"{self._session.name}: the dask scheduler was lost ({self._session.extract.scheduler or 'local'}); what "
            "is committed or spooled is kept: start it and run again"
        )

    def _again(self, digest: str, why: str) -> bool:
        if self._sent[digest] >= MAX_SENT:
            raise StoreError(
                f"{self._session.name}: a block was sent {self._sent[digest]} times and {why}; see the workers' logs "
                "(memory is the usual reason: set a smaller extract.batch); what is spooled is kept"
            )
        self._say(f"{self._session.name}: {why}: a block is sent again, what was spooled of it is kept")
        block, _, _ = self._flying[0]
        self._flying[0] = (block, digest, self._send(block, digest))
        return False

    def _add(self, computed: Computed) -> None:
        for step in STEPS:
            setattr(self._times, step, getattr(self._times, step) + computed.seconds.get(step, 0.0))
        self._times.num_samples += computed.num_samples
        self._failures.num_computed += computed.num_failed
        self._session.add_cut(computed.num_cut)

    def _fill(self) -> None:
        """Send blocks until two a worker are in flight: the next one is there when a worker has finished."""
        session = self._session
        while len(self._flying) < self._window() and (block := next(self._upcoming, None)) is not None:
            task = make_task(session.group, self._plan, block, session.wanted, session.batch)
            if is_spooled(self._folder, task.digest):
                self._flying.append((block, task.digest, None))
                continue
            self._connect()
            write_file(self._desk / task.digest, pickle.dumps(task))
            self._flying.append((block, task.digest, self._send(block, task.digest)))

    def _window(self) -> int:
        if self._client is None:
            return 2
        workers = self._client.scheduler_info(n_workers=-1)["workers"]
        return 2 * max(1, num_computing(wanted_resources(self._session.spec.device_kind, workers), workers))

    def _send(self, block: Block, digest: str) -> Future[Computed | Exception]:
        client = self._connect()
        self._sent[digest] += 1
        workers = client.scheduler_info(n_workers=-1)["workers"]
        on_host = Counter(address.rpartition(":")[0] for address in workers)
        return client.submit(
            compute_on_dask,
            str(self._desk),
            self._token,
            digest,
            max(on_host.values(), default=1),
            key=f"{self._token}-{digest}-{self._sent[digest]}",
            pure=False,
            priority=-block.index,
            resources=wanted_resources(self._session.spec.device_kind, workers),
            retries=0,
        )

    def _connect(self) -> Client:
        if self._client is None:
            extract = self._session.extract
            self._lay_desk()
            kind = self._session.spec.device_kind
            client = self._stack.enter_context(open_client(extract.scheduler, extract.workers, kind))
            client.subscribe_topic(self._token, self._hear)
            self._stack.callback(client.unsubscribe_topic, self._token)
            if not client.nthreads():
                self._say(f"{self._session.name}: waiting for dask workers, at most {extract.wait_s:,.0f} s")
            try:
                client.wait_for_workers(1, timeout=max(extract.wait_s, 1.0))
            except TimeoutError as error:
                raise ConfigError(
                    f"extract.scheduler: expected a worker at {extract.scheduler or 'the local scheduler'} within "
                    f"{extract.wait_s:,.0f} s (extract.wait_s), found none; start one with `dask worker`"
                ) from error
            self._client = client
        return self._client

    def _lay_desk(self) -> None:
        session = self._session
        remove_tree(self._desk)  # of a run that was killed: the group is held, so nobody else's
        make_folder(self._desk)
        self._stack.callback(remove_tree, self._desk)
        recipe = Recipe(
            name=session.name,
            options=session.options,
            extract=session.extract,
            spec=session.spec,
            batch=session.batch,
            sources=session.wanted.sources,
            root=session.root,
            source_dir=session.source_dir,
            group=session.group.path.resolve(),
            spool=self._folder,
            windows=session.windows,
        )
        write_file(self._desk / RECIPE, pickle.dumps(recipe))
        write_file(self._desk / WITNESS, self._token.encode())

    def _hear(self, event: tuple[float, dict[str, Any]]) -> None:
        """In dask's thread: note what a worker says."""
        _, report = event
        self._done_of[report["digest"]] = report["done"]
        self._failed.extend((int(row), str(reason)) for row, reason in report["failed"])

    def _stop_workers(self) -> None:
        """Have batches in hand finished and spooled, as far as workers still answer."""
        if self._client is None:
            return
        # the run ends with its own error, whatever has become of the workers
        with contextlib.suppress(Exception):
            self._client.run(stop_on_dask, self._token, on_error="ignore")
        deadline = self._clock() + FINISH_S
        sent = [future for _, _, future in self._flying if future is not None]
        while any(future.status in UNDER_WAY for future in sent) and self._clock() < deadline:
            time.sleep(POLL_S)
