"""The embedded model is as certain of English text with our kernels as with llama.cpp's own."""

from __future__ import annotations

import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from skills.skill_draft.embedded import make_embedded
from skills.skill_draft.engine.binding import Context, ContextParams, Model, ModelParams
from skills.skill_draft.engine.build import has_our_kernels

DOCS = Path(__file__).parents[2] / "docs"
CHUNK, CHUNKS = 512, 8  # tokens


def _cross_entropy(kernels: str) -> tuple[bool, float]:
    """Return whether our kernels were used, and the mean of -log p of each token given those before it, in nats."""
    os.environ["SARAI_KERNELS"] = kernels  # read once, when llama.cpp's backend starts
    model = Model(make_embedded(), ModelParams())
    text = "\n".join(path.read_text(encoding="utf-8") for path in sorted(DOCS.glob("*.md")))
    tokens = model.vocab.tokenize(text, add_special=False, parse_special=False)
    context = Context(model, ContextParams(n_cells=CHUNK, n_batch=CHUNK, n_slots=1, n_threads=2))
    context.positions[:], context.wants_logits[:] = range(CHUNK), 1
    means = []
    for begin in range(0, CHUNKS * CHUNK, CHUNK):
        context.tokens[:] = chunk = tokens[begin : begin + CHUNK]
        logits = context.decode(CHUNK)[:-1].astype(np.float64)
        context.clear()
        largest = logits.max(axis=1)
        log_sums = largest + np.log(np.exp(logits - largest[:, None]).sum(axis=1))
        means.append(np.mean(log_sums - logits[np.arange(CHUNK - 1), chunk[1:]]))
    return has_our_kernels(), float(np.mean(means))


def test_perplexity_is_llama_cpps_own() -> None:
    spawn = multiprocessing.get_context("spawn")
    found = []
    for kernels in ("on", "off"):
        with ProcessPoolExecutor(1, mp_context=spawn) as pool:
            found.append(pool.submit(_cross_entropy, kernels).result(timeout=240))
    (ours, with_ours), (stock, without) = found
    if not ours:
        pytest.skip("llama.cpp was built without our kernels")
    assert not stock
    assert 1 < without < 4, "a model that knows English, and text that is English"
    # Perplexity is e to the power of this. Rounding changes each token's share at random; the mean has a standard error
    # of 0.0017, as it has with llama.cpp's own kernels and keys in F16 instead of Q8_0.
    assert with_ours == pytest.approx(without, abs=0.006)
