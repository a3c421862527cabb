"""Time whole steps of a model, in a separate process: `python -m bench.steps MODEL.gguf THREADS CELLS,… ROWS,… [DIR]`.

Prints a JSON line for each combination: `ms` of a step of that many rows, each of a sequence with that many cells, as
the engine runs it in `exact`; and tokens a second of prefill. With DIR the weights are those of the packed copy there,
which is made if it is missing.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from pathlib import Path

import numpy as np

from skills.skill_draft.engine.binding import Context, ContextParams, Model, ModelParams
from skills.skill_draft.engine.gguf import tensors
from skills.skill_draft.engine.packed_copy import packed_copy
from skills.skill_draft.engine.packing import use_packed

PREFILL = 512
_SECONDS = 1.0
_REPEATS = (5, 50)


class Steps:
    """A context with sequences in it."""

    def __init__(self, model: Model, *, cells: int, slots: int, threads: int) -> None:
        n_cells = slots * (cells + 32) + PREFILL
        self._context = Context(
            model, ContextParams(n_cells=n_cells, n_batch=PREFILL, n_slots=slots + 1, n_threads=threads)
        )
        self._rng, self._n_vocab = np.random.default_rng(0), model.vocab.n_tokens

    def close(self) -> None:
        """Free the memory."""
        self._context.close()

    def run(self, slots: list[int], positions: list[int]) -> float:
        """Return the seconds of a step with these rows; only each slot's last row yields logits."""
        context, n = self._context, len(slots)
        context.tokens[:n] = self._rng.integers(100, self._n_vocab - 100, n)
        context.seq_ids[:n], context.positions[:n] = slots, positions
        context.wants_logits[:n] = [slot != following for slot, following in zip(slots, [*slots[1:], -1], strict=True)]
        begin = time.perf_counter()
        context.decode(n)
        return time.perf_counter() - begin

    def prefill_tok_s(self) -> float:
        """Return the speed of prefill in one step without context; the better of two runs."""
        seconds = []
        for _ in range(2):
            seconds.append(self.run([0] * PREFILL, list(range(PREFILL))))
            self._context.clear()
        return PREFILL / min(seconds)

    def fill(self, slots: int, cells: int) -> None:
        """Give each slot its own cells: compute those of the first and copy them."""
        for start in range(0, cells, PREFILL):
            positions = list(range(start, min(start + PREFILL, cells)))
            self.run([0] * len(positions), positions)
        saved = np.empty(self._context.saved_size(0), np.uint8)
        self._context.save_into(0, saved)
        for slot in range(1, slots):
            self._context.restore(slot, saved)

    def step_ms(self, rows: int, cells: int) -> float:
        """Return the median time of several steps, in milliseconds, after one that does not count."""
        times: list[float] = []
        least, most = _REPEATS
        while len(times) < least + 1 or (sum(times) < _SECONDS and len(times) < most):
            times.append(self.run(list(range(rows)), [cells] * rows))
            for slot in range(rows):
                self._context.release_cells(slot, cells, -1)
        return 1000 * statistics.median(times[1:])


def main() -> None:
    """Measure the combinations that the arguments give."""
    path, threads, contexts, counts = sys.argv[1:5]
    rows = [int(n) for n in counts.split(",")]
    model = _load(Path(path), sys.argv[5:])
    for at, cells in enumerate(int(n) for n in contexts.split(",")):
        steps = Steps(model, cells=cells, slots=max(rows), threads=int(threads))
        if not at:
            _say(kind="prefill", tok_s=steps.prefill_tok_s())
        steps.fill(max(rows), cells)
        for n in rows:
            _say(kind="step", rows=n, cells=cells, ms=steps.step_ms(n, cells))
        steps.close()


def _load(path: Path, folders: list[str]) -> Model:
    if not folders:
        return Model(path, ModelParams())
    copy = packed_copy(path, tensors(path), Path(folders[0]))
    model = Model(path, ModelParams(packed=copy))
    use_packed(copy)
    return model


def _say(**figures: object) -> None:
    sys.stdout.write(json.dumps(figures) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
