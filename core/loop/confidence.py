"""How sure the model was of an answer, from the probabilities of its tokens; its length plays no part."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from skills import skills_pb2


def confidence_of(response: skills_pb2.GenResp) -> float:
    """The geometric mean of the probabilities of the answer's tokens, 0 to 1.

    That is e to the mean log-probability, the inverse of the answer's perplexity. An answer without tokens has 0.
    """
    if not response.token_ids or not math.isfinite(response.mean_logprob):
        return 0.0
    return math.exp(min(response.mean_logprob, 0.0))
