"""From a request to sequences: template, tokens, grammar, and the replay of a continued answer.

Runs in the intake thread, concurrently with the steps, so that no prompt, however long, delays running streams.
"""

from __future__ import annotations

import dataclasses
import itertools

from .binding import Model
from .constraint import ConstraintError
from .images import PromptImages
from .keeping import Keeping
from .lookup import AcceptanceRates
from .matcher import Matcher, Matchers
from .messages import Failed, FailureKind, Request
from .prompt import PromptBuilder, PromptError, images_of
from .sampling import Sampler, SamplingError, Scratch
from .seeds import candidate_seed
from .sequence import Call, Sequence


class Preparer:
    """Prepares the requests of one model."""

    def __init__(self, model: Model, scratch: Scratch, *, keeping: Keeping, n_ctx: int, max_image: int = 0) -> None:
        """Prepare requests for an engine.

        Args:
            model: Its model.
            scratch: Memory for the samplers.
            keeping: Knows which prompts begin with blocks that files have.
            n_ctx: The most tokens of a prompt and its answer.
            max_image: The most tokens that an image may have; 0 if no images are read.
        """
        self._vocab, self._scratch, self._n_ctx, self._max_image = model.vocab, scratch, n_ctx, max_image
        self._keeping = keeping
        self._prompts = PromptBuilder(model)
        self._matchers = Matchers(model.vocab)
        self._acceptance, self._hint_acceptance = AcceptanceRates(), AcceptanceRates()

    def prepare(self, request: Request) -> Call | Failed:
        """Return a call that is ready for the queue, or the failure that prevents it."""
        try:
            self._check_images(request)
            prompt = self._prompts.build(request)
            self._check_prompt(request, prompt)
            images = PromptImages(prompt, seen) if (seen := images_of(request)) else None
            if request.hint:
                request = dataclasses.replace(request, hint=self._usable(request.hint))
            sequences = [self._sequence(request, i, prompt, images) for i in range(request.num_candidates)]
        except PromptError as error:
            return _invalid(request, str(error), error.field)
        stored = self._keeping.stored(prompt, images, request.tenant)
        for sequence in sequences:
            sequence.stored = stored
        return Call(request=request, sequences=sequences, images=images)

    def _check_images(self, request: Request) -> None:
        for i, turn in enumerate(request.turns):
            for j, part in enumerate(turn.parts):
                if isinstance(part, str) or 0 < part.n_tokens <= self._max_image:
                    continue
                message = "this model reads no images"
                if self._max_image:
                    message = f"has {part.n_tokens} image tokens; at most {self._max_image} are read: lower max_tokens"
                raise PromptError(message, f"messages[{i}].parts[{j}].image")

    def _check_prompt(self, request: Request, prompt: list[int]) -> None:
        field = "messages" if len(request.turns) > 1 else "prompt"
        if not prompt:
            raise PromptError("has no tokens", field)
        if prompt[-1] < 0:
            raise PromptError("ends with an image in this model's chat template, so that no token follows it", field)
        if len(prompt) >= self._n_ctx:
            raise PromptError(
                f"is {len(prompt)} tokens long with its template; at most {self._n_ctx - 1} fit the context of "
                f"{self._n_ctx} (SKILL_DRAFT_N_CTX)",
                field,
            )
        for i, tokens in enumerate(request.so_far):
            field = f"continuations[{i}].token_ids"
            if len(prompt) + len(tokens.token_ids) > self._n_ctx:
                raise PromptError(f"prompt and answer so far are longer than the context of {self._n_ctx}", field)
            if any(not 0 <= t < self._vocab.n_tokens or t in self._vocab.eog for t in tokens.token_ids):
                raise PromptError("contains an id that cannot occur in an answer of this model", field)

    def _usable(self, hint: tuple[int, ...]) -> tuple[int, ...]:
        """Return the beginning of a hint that consists of tokens of this model and is no longer than an answer."""
        return tuple(itertools.takewhile(lambda token: 0 <= token < self._vocab.n_tokens, hint[: self._n_ctx]))

    def _matcher(self, request: Request) -> Matcher | None:
        if not request.constraint:
            return None
        try:
            return self._matchers.start(request.constraint)
        except ConstraintError as error:
            raise PromptError(str(error), request.constraint.kind.value) from error

    def _sequence(self, request: Request, candidate: int, prompt: list[int], images: PromptImages | None) -> Sequence:
        seed = candidate_seed(request.sampling.seed, candidate)
        sampler = Sampler(
            self._vocab,
            self._scratch,
            dataclasses.replace(request.sampling, seed=seed),
            matcher=self._matcher(request),
            top_logprobs=request.top_logprobs,
        )
        try:
            return Sequence(
                request, candidate, prompt,
                sampler=sampler, piece=self._vocab.piece, end_tokens=self._vocab.eog, n_ctx=self._n_ctx,
                acceptance=self._acceptance, hint_acceptance=self._hint_acceptance, images=images,
            )  # fmt: skip
        except SamplingError as error:
            message = f"does not fit `{error.fault}`: {error}"
            raise PromptError(message, f"continuations[{candidate}].token_ids") from error


def _invalid(request: Request, message: str, field: str) -> Failed:
    return Failed(id=request.id, kind=FailureKind.INVALID, message=message, field=field)
