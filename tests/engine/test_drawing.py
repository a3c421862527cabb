"""Which token is drawn: llama.cpp's own samplers decide which ones may be."""

from __future__ import annotations

import ctypes
import itertools
import math

import numpy as np
import numpy.typing as npt
import pytest

from skills.skill_draft.engine.binding import L
from skills.skill_draft.engine.drawing import draw
from skills.skill_draft.engine.messages import Sampling

N = 1000
Logits = npt.NDArray[np.float32]


def log_total(logits: Logits) -> float:
    return float(np.log(np.exp(logits.astype(np.float64)).sum()))


def drawn(logits: Logits, sampling: Sampling, u: float, forbidden: frozenset[int] = frozenset()) -> int:
    values = logits.copy()
    values[list(forbidden)] = -np.inf
    return draw(values, int(values.argmax()), log_total(values), sampling, u)


def left_by_llama(logits: Logits, s: Sampling) -> dict[int, float]:
    """Return the tokens that llama.cpp's sampler chain keeps, with their probabilities."""
    chain = L.llama_sampler_chain_init(L.llama_sampler_chain_default_params())
    if s.top_k:
        L.llama_sampler_chain_add(chain, L.llama_sampler_init_top_k(s.top_k))
    L.llama_sampler_chain_add(chain, L.llama_sampler_init_top_p(s.top_p, 1))
    L.llama_sampler_chain_add(chain, L.llama_sampler_init_min_p(s.min_p, 1))
    L.llama_sampler_chain_add(chain, L.llama_sampler_init_temp(s.temperature))
    L.llama_sampler_chain_add(chain, L.llama_sampler_init_dist(1))
    data = (L.llama_token_data * len(logits))(*((i, float(x), 0.0) for i, x in enumerate(logits)))
    array = L.llama_token_data_array(
        data=ctypes.cast(data, L.llama_token_data_p), size=len(logits), selected=-1, sorted=False
    )
    L.llama_sampler_apply(chain, ctypes.byref(array))
    left = {array.data[i].id: array.data[i].p for i in range(array.size)}
    L.llama_sampler_free(chain)
    return left


def shares_of(logits: Logits, sampling: Sampling, draws: int = 1000) -> dict[int, float]:
    """Return how often each token is drawn for evenly spread random numbers."""
    tokens = [drawn(logits, sampling, (i + 0.5) / draws) for i in range(draws)]
    return {t: tokens.count(t) / draws for t in set(tokens)}


SPREADS = (0.5, 3.0, 8.0)
FILTERS = [
    Sampling(temperature=t, top_k=k, top_p=p, min_p=m)
    for t, k, p, m in itertools.product((0.7, 1.5), (0, 40), (0.3, 0.95, 1.0), (0.0, 0.05))
]


@pytest.mark.parametrize("spread", SPREADS)
def test_the_tokens_that_llama_leaves_over_are_drawn_as_often_as_it_says(spread: float) -> None:
    logits = (np.random.default_rng(7).standard_normal(N) * spread).astype(np.float32)
    for sampling in FILTERS:
        wanted, got = left_by_llama(logits, sampling), shares_of(logits, sampling)
        assert set(got) <= set(wanted), sampling
        for token, p in wanted.items():
            assert got.get(token, 0.0) == pytest.approx(p, abs=0.003), (sampling, token)


def test_the_likeliest_is_taken_at_temperature_0_and_of_equals_the_first() -> None:
    logits = np.zeros(N, np.float32)
    logits[[30, 20, 40]] = 5
    assert drawn(logits, Sampling(temperature=0), 0.9) == 20
    assert drawn(logits, Sampling(temperature=0), 0.9, frozenset({20})) == 30


@pytest.mark.parametrize("sampling", [Sampling(temperature=0), Sampling(), Sampling(top_k=0, top_p=1.0, min_p=0.0)])
def test_a_grammar_goes_first(sampling: Sampling) -> None:
    """Filters do not count tokens that it forbids: the next best tokens take their places."""
    logits = np.linspace(30, 0, N, dtype=np.float32)
    forbidden = frozenset(range(800))
    tokens = {drawn(logits, sampling, u, forbidden) for u in np.linspace(0, 0.999, 50)}
    assert not tokens & forbidden
    assert 800 in tokens


def test_tokens_that_cannot_be_are_never_drawn() -> None:
    logits = np.full(N, -np.inf, np.float32)
    logits[[3, 700]] = 1.0
    for sampling in (*FILTERS, Sampling(temperature=1, top_k=0, top_p=1, min_p=0)):
        assert {drawn(logits, sampling, u) for u in (0.0, 0.3, 0.7, math.nextafter(1, 0))} <= {3, 700}
