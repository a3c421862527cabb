"""The engine loop: take commands, decide what runs, compute one step, send the results."""

from __future__ import annotations

import math
import queue
import time
from collections.abc import Callable
from pathlib import Path

from .admission import Admission
from .cells import CellLog
from .contention import ContentionMeter
from .embedding import Embedder, SharedRows
from .forecast import LOOK_EVERY_S, Forecast
from .keeping import Keeping, Woken
from .load_meter import LoadMeter
from .loading import Loaded
from .messages import (
    Admitted,
    Cancel,
    Done,
    Ended,
    EngineConfig,
    Event,
    Failed,
    FailureKind,
    Forget,
    Hurry,
    Noted,
    Queued,
    Rows,
    Stats,
    UseCpus,
)  # fmt: skip
from .outbox import Outbox
from .parking import Parking
from .rows import RowsInUse
from .sampling import SamplingError
from .scheduler import Scheduler, Share
from .sequence import Call, Sequence
from .step import Stepper, slot_of
from .threads import Threads
from .tokens import Floats
from .waiting import WaitEstimate

IDLE_BEAT_S = 0.5

Command = Call | Cancel | Hurry | UseCpus | Rows | Forget | Failed | Noted | Woken


class Engine:
    """Owns the context. Commands come in through `inbox`, events go out through `send`."""

    def __init__(self, loaded: Loaded, config: EngineConfig, *, send: Callable[[list[Event]], None]) -> None:
        self._context = context = loaded.context
        self._max_queued = config.queue
        self.inbox: queue.Queue[Command | None] = queue.Queue()
        self.intake_busy_since: float | None = None
        self._threads = Threads(config.threads, ContentionMeter())
        sizes = loaded.sizes
        self._cells = CellLog(context, sizes.n_slots, Parking(sizes.parked_bytes), block_cells=sizes.block_cells)
        self._scheduler = Scheduler(
            self._threads, n_batch=context.n_batch, max_itl_ms=config.gap_ms, max_running=sizes.slots,
            max_outputs=sizes.n_outputs,
        )  # fmt: skip
        self._wait = WaitEstimate()
        self._forecast = Forecast(self._scheduler, self._threads, self._wait, n_batch=context.n_batch)
        self.keeping = Keeping(config, tell=self.inbox.put)
        self._admission = Admission(self._scheduler, self._cells, self._forecast, self.keeping, n_batch=context.n_batch)
        self._load = LoadMeter(self._scheduler, self._threads, self._wait, self._cells, gap_ms=config.gap_ms)
        self._outbox = Outbox(send, flush_interval_s=config.piece_ms / 1000)
        shared = SharedRows(Path(config.rows_path), loaded.row_width)
        self._rows = RowsInUse(shared, self._outbox.put)
        embedder = Embedder(loaded.model, shared) if loaded.max_image else None
        self._stepper = Stepper(context, self._cells, self._threads, embedder)
        self._calls: dict[int, Call] = {}
        self._steps = self._lookup_tokens = self._lookup_accepted = 0
        self._next_look = 0.0
        self._waits = True  # whether nothing is left to do until a command comes

    def run(self) -> None:
        """Run until `None` is put into the inbox; then write the prefixes that are to be kept."""
        while self._take_commands():
            now = time.monotonic()
            self._expire(now)
            self._admit(now)
            self._look_ahead(now)
            for call in self._calls.values():
                self._rows.update(call)
            n_threads = self._threads.for_next_step(now)
            shares = self._scheduler.plan(trial=n_threads != self._threads.current)
            self._waits = not shares
            self._outbox.flush(self.stats, next_in_s=self._expected_s(shares))
            if shares:
                self._step(shares, n_threads)
        self.keeping.finish(self._cells)

    # --- commands ---

    def _take_commands(self) -> bool:
        timeout = 0.0
        if self._waits and not self._outbox.holds_any:
            timeout = (
                LOOK_EVERY_S if self._calls else self.keeping.work_while(self._cells, self.inbox.empty, IDLE_BEAT_S)
            )
        while timeout or not self.inbox.empty():  # cheaper than an exception in each step
            try:
                command = self.inbox.get(timeout=timeout)
            except queue.Empty:
                return True
            if command is None:
                return False
            timeout = self._obey(command)
        return True

    def _obey(self, command: Command) -> float:
        """Carry out a command; return how long to wait for others that may come with it, in seconds."""
        match command:
            case Cancel():
                if call := self._calls.get(command.id):
                    self._drop(call)
            case Hurry():
                if call := self._calls.get(command.id):
                    self._scheduler.hurry(call.sequences)
            case UseCpus():
                self._threads.set_limit(command.count)
            case Rows():
                self._take_rows(command)
            case Forget():
                self.keeping.forget()
            case Failed() | Noted():
                self._outbox.put(command)
            case Call():
                self._enqueue(command)
                return self._forecast.batching_delay_s()
        return 0.0

    def _take_rows(self, rows: Rows) -> None:
        call = self._calls.get(rows.id)
        if call and not self._rows.take(call, rows):
            self._fail(call, FailureKind.INTERNAL, "the rows of its image are not where they should be")

    def _enqueue(self, call: Call) -> None:
        queued = sum(c.admitted_at is None for c in self._calls.values())
        if queued >= self._max_queued and not call.request.so_far:
            wait_s = self._forecast.until_start_s(1, time.monotonic())
            message = f"{queued} requests are waiting already; try again in {wait_s:.1f} s"
            self._fail(call, FailureKind.FULL, message, wait_s=wait_s)
            return
        self._calls[call.request.id] = call
        spelt = (s.ending.text if s.ending else s.replayed for s in call.sequences)
        self._outbox.put(Queued(id=call.request.id, texts=tuple(spelt) if call.request.so_far else ()))
        for sequence in call.sequences:
            if sequence.ending:
                self._end_sequence(call, sequence)
            else:
                self._load.arrived(sequence)
                self._scheduler.add(sequence)
        self._finish_if_complete(call)

    def _expire(self, now: float) -> None:
        for call in list(self._calls.values()):
            request = call.request
            if request.deadline is not None and now >= request.deadline:
                where = " in the queue" if call.admitted_at is None else ""
                self._fail(call, FailureKind.DEADLINE, f"the deadline passed{where}")
            elif request.budget_end is not None and now >= request.budget_end:
                for sequence in call.sequences:
                    if sequence.ending is None:
                        self._outbox.put_piece(sequence.end_early())
                        if not sequence.closes:
                            self._end_sequence(call, sequence)
                self._finish_if_complete(call)

    # --- admission ---

    def _admit(self, now: float) -> None:
        if not self._scheduler.waiting:
            return
        for sequence, refusal in self._admission.admit(now):
            call = self._calls[sequence.request.id]
            if refusal:
                self._fail(call, FailureKind.DEADLINE, refusal)
            elif call.admitted_at is None:
                call.admitted_at = now
                self._outbox.put(
                    Admitted(
                        id=call.request.id,
                        prompt_tokens=sequence.n_prompt,
                        cached_tokens=min(slot_of(sequence).length, sequence.n_prompt),
                        queue_s=max(0.0, now - call.request.arrived),
                    )
                )

    def _look_ahead(self, now: float) -> None:
        """Report progress to calls without a token yet, and fail those that cannot meet their deadline."""
        if now < self._next_look or not self._calls:
            return
        self._next_look = now + LOOK_EVERY_S
        waiting = dict.fromkeys(s.request.id for s in self._scheduler.waiting)
        queue = (id_ for id_ in waiting if self._calls[id_].admitted_at is None)
        places = {id_: place for place, id_ in enumerate(queue, 1)}
        for call in list(self._calls.values()):
            request, place = call.request, places.get(call.request.id, 0)
            if call.begun or not (request.progress or request.deadline):
                continue
            waits = any(s.slot and not s.readable for s in call.sequences)  # for rows, which the server forecasts
            to_read = 1 if place or waits else max(s.pending for s in call.sequences)
            if reason := self._forecast.too_late(call.sequences[0], to_read, now, place=place):
                self._fail(call, FailureKind.DEADLINE, reason)
            else:
                self._outbox.put(self._forecast.progress(call.sequences, place, now))

    # --- one step ---

    def _expected_s(self, shares: list[Share]) -> float:
        """Return how long a step will take, in seconds; infinity if it is empty, as no output will follow by itself."""
        rows = sum(share.rows for share in shares)
        return self._threads.costs.recent_ms(rows) / 1000 if rows else math.inf

    def _step(self, shares: list[Share], n_threads: int) -> None:
        self._cells.sweep()
        shares = self._with_room(shares)
        begin, read = time.monotonic(), sum(s.n for s in shares if not s.sequence.decodes)
        logits = self._stepper.run(shares, n_threads)
        self._steps += 1
        output = taken = 0
        for share in shares:
            if share.complete:
                taken += self._take(share, logits[output : output + 1 + len(share.speculative)])
                output += 1 + len(share.speculative)
        self._load.done(read, taken)
        self._wait.stepped(time.monotonic() - begin, taken, sum(share.complete for share in shares))

    def _with_room(self, shares: list[Share]) -> list[Share]:
        """Make room for a step: drop prefixes first, then speculative tokens, then preempt the youngest sequence."""
        while shares:
            rows = sum(share.rows for share in shares)
            if rows <= self._cells.room or self._cells.make_room(rows):
                break
            if any(share.speculative for share in shares):
                for share in shares:
                    share.speculative, share.num_forced, share.num_padding = [], 0, 0
            elif youngest := self._scheduler.preempt_youngest():
                self._cells.set_aside(slot_of(youngest))
                youngest.slot = None
                shares = [share for share in shares if share.sequence is not youngest]
            else:
                # The only sequence has the whole cache, and a context is never larger than that.
                return [Share.of(shares[0].sequence, self._cells.room)]
        return shares

    def _take(self, share: Share, logits: Floats) -> int:
        """Choose a token from each row until a speculative token turns out to be wrong; return the number chosen."""
        sequence, slot = share.sequence, slot_of(share.sequence)
        call = self._calls.get(sequence.request.id)
        if call is None:  # another candidate of this call has just failed
            return 0
        call.begun = True
        known = slot.length - len(share.speculative)
        hinted = sequence.lookup is not None and sequence.lookup.from_hint
        right = 0
        for row in logits:
            try:
                choice = sequence.sampler.choose(row, sequence.tokens, sequence.n_answered)
            except SamplingError as error:
                kind = FailureKind.INVALID if error.fault else FailureKind.INTERNAL
                self._fail(call, kind, str(error), field=error.fault)
                return 0
            self._outbox.put_piece(sequence.take(choice))
            if sequence.ending or right == len(share.speculative) or choice.token != share.speculative[right]:
                break
            right += 1
        from_lookup = len(share.speculative) - share.num_padding - share.num_forced
        accepted = max(0, min(right - share.num_forced, from_lookup))
        call.lookup_tokens += from_lookup
        call.lookup_accepted += accepted
        if hinted:
            call.hint_tokens += from_lookup
            call.hint_accepted += accepted
        self._cells.truncate(slot, min(known + right, len(sequence.tokens)))
        if sequence.ending:
            self._end_sequence(call, sequence)
            self._finish_if_complete(call)
        return right + 1

    # --- the end of a call ---

    def _end_sequence(self, call: Call, sequence: Sequence) -> None:
        assert sequence.ending is not None
        call.endings[sequence.candidate] = sequence.ending
        if len(call.endings) < len(call.sequences):
            self._outbox.put(Ended(id=call.request.id, candidate=sequence.candidate, ending=sequence.ending))
        self._release(sequence)

    def _release(self, sequence: Sequence) -> None:
        """Remove a sequence from the scheduler; its cells stay as a prefix."""
        self._scheduler.remove(sequence)
        if sequence.slot:
            self._cells.keep(sequence.slot)
            sequence.slot = None

    def _finish_if_complete(self, call: Call) -> None:
        if len(call.endings) < len(call.sequences):
            return
        endings = tuple(call.endings[i] for i in range(len(call.sequences)))
        written = sum(len(e.tokens.token_ids) for e in endings) / len(endings)
        seconds = time.monotonic() - call.admitted_at if call.admitted_at is not None else 0.0
        self._wait.ended(written, call.request.max_tokens, seconds)
        tried, right = call.lookup_tokens, call.lookup_accepted
        self._lookup_tokens += tried
        self._lookup_accepted += right
        self._outbox.put(
            Done(
                id=call.request.id, endings=endings, lookup_tokens=tried, lookup_accepted=right,
                hint_tokens=call.hint_tokens, hint_accepted=call.hint_accepted,
            )
        )  # fmt: skip
        del self._calls[call.request.id]

    def _drop(self, call: Call) -> None:
        """Stop everything that runs for a call and forget the call."""
        for sequence in call.sequences:
            self._release(sequence)
        self._calls.pop(call.request.id, None)

    def _fail(
        self, call: Call, kind: FailureKind, message: str, *, field: str = "", wait_s: float | None = None
    ) -> None:
        self._drop(call)
        self._outbox.put(Failed(id=call.request.id, kind=kind, message=message, field=field, retry_after_s=wait_s))

    # --- statistics ---

    def stats(self) -> Stats:
        """Return the engine's current figures."""
        active = sum(call.admitted_at is not None for call in self._calls.values())
        return Stats(
            active=active, queued=len(self._calls) - active, threads=self._threads.current,
            kv_used=self._cells.used, steps=self._steps, intake_busy_since=self.intake_busy_since,
            lookup_tokens=self._lookup_tokens, lookup_accepted=self._lookup_accepted,
            load=self._load.now(time.monotonic()),
        )  # fmt: skip
