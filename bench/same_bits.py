"""Check whether logits have the same bits alone, in chunks, among other sequences, forked, and after cells moved.

All are compared with decoding one token at a time, with the engine's settings for `exact` (or `fast`, to see why they
are needed):

    python -m bench.same_bits [MODEL.gguf] [--tokens 300] [--numerics fast]
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from skills.skill_draft.catalog import EMBEDDED, find_model, models_dir

if TYPE_CHECKING:
    from skills.skill_draft.engine.binding import Context

Rows = Sequence[tuple[int, int, int]]
Logits = npt.NDArray[np.float32]
CHUNKS = (2, 3, 4, 5, 7, 8, 16, 33, 64, 128, 256, 512)
N_BATCH = 512


class Comparison:
    """A context, and the logits that each of its rows should have."""

    def __init__(self, context: Context, n: int) -> None:
        rng = np.random.default_rng(1)
        most = min(context.model.vocab.n_tokens, 40_000) - 20
        self._context, self._n = context, n
        self._tokens, *self._others = (rng.integers(10, most, n).tolist() for _ in range(4))
        self._alone = self._one_by_one(range(n))
        self.equal = True

    def chunks(self) -> None:
        """Compare prefill in chunks of many sizes, including odd ones."""
        for size in CHUNKS:
            self._context.clear()
            starts = range(0, self._n, size)
            got = [self._decode(self._rows(range(s, min(self._n, s + size)))) for s in starts]
            self._report(f"chunks of {size}", np.concatenate(got), self._alone)

    def among_others(self) -> None:
        """Compare decoding as one of four sequences."""
        self._context.clear()
        got = [
            self._decode([(self._tokens[i], i, 0), *((o[i], i, k + 1) for k, o in enumerate(self._others))])[0]
            for i in range(self._n)
        ]
        self._report("one of four sequences", np.stack(got), self._alone)

    def forked(self) -> None:
        """Compare continuing from another sequence's cells."""
        self._context.clear()
        half = self._n // 2
        self._one_by_one(range(half))
        self._context.copy_cells(0, 1)
        self._report("forked", self._one_by_one(range(half, self._n), seq=1), self._alone[half:])

    def holes(self, *, move: bool) -> bool:
        """Compare continuing after earlier cells were freed; with `move`, after moving the rest, as the engine does."""
        self._context.clear()
        half = self._n // 2
        for start in range(0, half, 64):
            self._decode([(self._others[0][i], i, 1) for i in range(start, min(half, start + 64))])
        self._one_by_one(range(half))
        self._context.release_cells(1)
        if move:
            saved = self._context.save(0)
            self._context.release_cells(0)
            self._context.restore(0, saved)
        name = "hole refilled, moved first" if move else "hole refilled, not moved (the engine never does)"
        return self._report(name, self._one_by_one(range(half, self._n)), self._alone[half:], matters=move)

    def _rows(self, places: range, seq: int = 0) -> Rows:
        return [(self._tokens[i], i, seq) for i in places]

    def _one_by_one(self, places: range, seq: int = 0) -> Logits:
        return np.concatenate([self._decode([(self._tokens[i], i, seq)]) for i in places])

    def _decode(self, rows: Rows) -> Logits:
        """Decode rows of (token, position, sequence); return their logits, shape (len(rows), n_vocab)."""
        context, n = self._context, len(rows)
        context.tokens[:n], context.positions[:n], context.seq_ids[:n] = np.array(rows).T
        context.wants_logits[:n] = 1
        return context.decode(n).copy()

    def _report(self, name: str, got: Logits, want: Logits, *, matters: bool = True) -> bool:
        equal = int((got == want).all(axis=1).sum())
        self.equal &= equal == len(want) or not matters
        worst = float(np.abs(got - want).max())
        sys.stdout.write(f"{name:50} {equal:5} of {len(want)} rows equal, largest difference {worst:.3g}\n")
        return equal == len(want)


def compare(model: Path, *, n: int, exact: bool) -> bool:
    """Print a line for each way to compute the same logits; return whether all were equal."""
    # Imported here, as the library reads the environment when it loads.
    from skills.skill_draft.engine.binding import Context, ContextParams, Model, ModelParams
    from skills.skill_draft.engine.gguf import tensors

    types = {tensor.type for tensor in tensors(model) if len(tensor.shape) > 1}
    repack = not exact or "Q4_K" not in types
    loaded = Model(model, ModelParams(repack=repack))
    context = Context(
        loaded, ContextParams(n_cells=max(2048, 5 * n), n_batch=N_BATCH, n_slots=8, n_threads=2, exact=exact)
    )
    sys.stdout.write(f"{model.name}: {'/'.join(sorted(types))}, {'exact' if exact else 'fast'}\n")
    comparison = Comparison(context, n)
    comparison.chunks()
    comparison.among_others()
    comparison.forked()
    for move in (False, True):
        comparison.holes(move=move)
    return comparison.equal


def main() -> int:
    """Compare; return 0 if everything that the engine does yields the same bits."""
    parser = argparse.ArgumentParser(prog="python -m bench.same_bits", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("model", type=Path, nargs="?", help="a GGUF file; default: the embedded model")
    parser.add_argument("--tokens", type=int, default=300, help="length of the sequences")
    parser.add_argument("--numerics", choices=("exact", "fast"), default="exact")
    arguments = parser.parse_args()
    os.environ["SKILL_DRAFT_NUMERICS"] = arguments.numerics
    model = arguments.model or find_model(EMBEDDED, models_dir())
    return 0 if compare(model, n=arguments.tokens, exact=arguments.numerics == "exact") else 1


if __name__ == "__main__":
    sys.exit(main())
