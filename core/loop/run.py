"""One run of the loop: the order of its calls, their deadlines, and when it ends."""

from __future__ import annotations

import logging
import math
import secrets
import time
from collections.abc import Generator, Iterator, Sequence
from typing import TYPE_CHECKING, Any, cast

from core.errors import AnswerError, DeadlineError, LoopError, SaraiError, SkillFailedError, one_line
from core.loop.conversation import Conversation
from core.loop.events import (
    CallProgress,
    IterationFinished,
    LoopEvent,
    LoopFinished,
    LoopStarted,
    Piece,
    ReflectionFinished,
    StageStarted,
)
from core.loop.prompts import Language, correction_prompt, detect_language, finds_nothing, reflection_prompt
from core.loop.result import CallFigures, Iteration, LoopResult, Reflection, Stage, StopReason, best_of, confidence_of
from core.rpc import grpc

if TYPE_CHECKING:
    from core.loop.config import LoopConfig
    from core.plugins import Plugins
    from core.pool.client import SkillClient
    from core.pool.structured import Shape
    from skills import skills_pb2


_log = logging.getLogger(__name__)


class LoopRun:
    """One run of the loop over a prompt. Iterate over `events` once.

    Args:
        config: The settings.
        client: Client of the skill that answers.
        plugins: Plugins whose hooks score answers and word reflections.
        prompt: What to answer.
        images: What the prompt is about.
        shape: What the answer must be, None for text.
    """

    def __init__(
        self,
        config: LoopConfig,
        client: SkillClient,
        plugins: Plugins,
        prompt: str,
        *,
        images: Sequence[skills_pb2.Image] = (),
        shape: Shape[Any] | None = None,
    ) -> None:
        self._config = config
        self._client = client
        self._hook = plugins.hook
        self._prompt = prompt
        self._language: Language = detect_language(prompt) if config.language == "auto" else config.language
        self._seed = config.seed
        if self._seed is None and config.temperature > 0:
            self._seed = secrets.randbits(32)
        self._shape = shape
        json_schema = None if shape is None else shape.json_schema
        self._conversation = Conversation(config, prompt, images=images, seed=self._seed, json_schema=json_schema)
        self._deadlines = Deadlines(timeout_s=config.timeout_s, time_budget_s=config.time_budget_s)
        self._iterations: list[Iteration] = []
        self._parsed: dict[int, Any] = {}
        self._misfits: dict[int, AnswerError] = {}
        self._reflection: Reflection | None = None  # the last one, until a correction follows
        self._model = ""

    def events(self) -> Iterator[LoopEvent]:
        """Run the loop and yield its events. Closing the iterator cancels the current call.

        Raises:
            LoopError: The draft failed, or no answer is what was asked for.
        """
        client = self._client
        yield LoopStarted(skill=client.skill, language=self._language, origin=client.origin, target=client.target)
        failure: str | None = None
        try:
            yield from self._answer(Stage.DRAFT)
        except SaraiError as error:
            raise LoopError(error) from error
        stopped = self._reason_to_stop()
        while stopped is None:
            try:
                stopped = yield from self._round()
            except SaraiError as error:
                over = isinstance(error, DeadlineError) and self._deadlines.budget_is_over
                stopped, failure = (StopReason.TIME_BUDGET, None) if over else (StopReason.FAILED, str(error))
        yield LoopFinished(result=self._result(stopped, failure))

    def _round(self) -> Generator[LoopEvent, None, StopReason | None]:
        """Reflect on the last answer and correct it, unless there is nothing to correct."""
        self._deadlines.next_iteration()
        started_s = time.monotonic()
        number = len(self._iterations) + 1
        self._conversation.ask(self._reflection_prompt(len(self._iterations)))
        response = yield from self._call(Stage.REFLECTION, number)
        figures = CallFigures.of(response)
        nothing = not figures.cut_off and finds_nothing(response.text)
        self._reflection = Reflection(text=response.text, nothing_to_correct=nothing, figures=figures)
        yield ReflectionFinished(iteration=number, reflection=self._reflection)
        if nothing:
            return StopReason.NOTHING_TO_CORRECT
        if figures.finish_reason == "context_full":
            return StopReason.CONTEXT_FULL
        if figures.finish_reason == "time_budget" or self._deadlines.budget_is_over:
            return StopReason.TIME_BUDGET
        self._conversation.ask(correction_prompt(self._language, self._prompt))
        yield from self._answer(Stage.CORRECTION, started_s)
        return self._reason_to_stop()

    def _answer(self, stage: Stage, started_s: float | None = None) -> Generator[LoopEvent, None, None]:
        """Generate a draft or a correction, and keep it as an iteration."""
        started_s = time.monotonic() if started_s is None else started_s
        number = len(self._iterations) + 1
        request = self._conversation.request(stage, time_budget_ms=self._deadlines.time_budget_ms())
        response = yield from self._call(stage, number, request)
        confidence = confidence_of(response)
        self._parse(number, request, response)
        iteration = Iteration(
            number=number,
            stage=stage,
            text=response.text,
            confidence=confidence,
            score=self._score(request, response, confidence),
            latency_ms=(time.monotonic() - started_s) * 1000,
            figures=CallFigures.of(response),
            reflection=self._reflection,
            fits=number not in self._misfits,
        )
        self._iterations.append(iteration)
        self._reflection = None
        yield IterationFinished(iteration=iteration)

    def _parse(self, number: int, request: skills_pb2.GenReq, response: skills_pb2.GenResp) -> None:
        """Make the object of an iteration's answer, or note why there is none."""
        if self._shape is not None:
            try:
                self._parsed[number] = self._shape.parse(request, response)
            except AnswerError as error:
                self._misfits[number] = error

    def _call(
        self, stage: Stage, number: int, request: skills_pb2.GenReq | None = None
    ) -> Generator[LoopEvent, None, skills_pb2.GenResp]:
        """Make one call, and add its answer to the conversation."""
        from skills.wire import RANDOM_SEED

        yield StageStarted(iteration=number, stage=stage)
        if request is None:
            request = self._conversation.request(stage, time_budget_ms=self._deadlines.time_budget_ms())
        response: skills_pb2.GenResp | None = None
        metadata = () if self._seed == self._config.seed else (RANDOM_SEED,)
        with self._client.GenerateStream(request, self._deadlines.call_timeout_s(), metadata) as stream:
            for chunk in stream:
                if chunk.HasField("progress"):
                    yield _progress(number, stage, chunk.progress)
                if chunk.text:
                    yield Piece(iteration=number, stage=stage, text=chunk.text)
                if chunk.HasField("result"):
                    response = chunk.result
        if response is None:
            raise SkillFailedError(
                code=grpc.StatusCode.INTERNAL,
                details="the stream ended without a result",
                skill=self._client.skill,
                target=self._client.target,
            )
        self._model = response.model or self._model
        self._conversation.answered(response)
        return response

    def _reason_to_stop(self) -> StopReason | None:
        """Return why to stop after the last iteration, None to go on."""
        last = self._iterations[-1]
        threshold = self._config.confidence_threshold
        if last.figures.finish_reason == "time_budget":
            return StopReason.TIME_BUDGET
        if last.figures.finish_reason == "context_full":
            return StopReason.CONTEXT_FULL
        if len(self._iterations) > 1 and last.text.split() == self._iterations[-2].text.split():
            return StopReason.UNCHANGED
        if threshold is not None and last.score >= threshold and last.fits and not last.repeats_reflection:
            return StopReason.CONFIDENT
        if last.number >= self._config.max_iterations:
            return StopReason.MAX_ITERATIONS
        return StopReason.TIME_BUDGET if self._deadlines.budget_is_over else None

    def _reflection_prompt(self, round_: int) -> str:
        """Return a plugin's prompt, or else the default one."""
        try:
            words = self._hook.sarai_reflection_prompt(language=self._language, round=round_)
        except Exception as error:  # noqa: BLE001  # a plugin is foreign code; its failure must not lose the draft
            _log.warning("a plugin's sarai_reflection_prompt failed, ours is used: %s", one_line(repr(error)))
            words = None
        return cast("str | None", words) or reflection_prompt(self._language)

    def _score(self, request: skills_pb2.GenReq, response: skills_pb2.GenResp, confidence: float) -> float:
        """Return a plugin's score, or else the confidence."""
        try:
            score = self._hook.sarai_score(request=request, response=response)
            if score is not None and math.isfinite(score):
                return float(score)
        except Exception as error:  # noqa: BLE001  # as above
            _log.warning("a plugin's sarai_score failed, the confidence is used: %s", one_line(repr(error)))
        return confidence

    def _result(self, stopped: StopReason, failure: str | None) -> LoopResult:
        best = best_of(self._iterations)
        if (misfit := self._misfits.get(best.number)) is not None:
            raise LoopError(misfit) from misfit
        return LoopResult(
            answer=best.text,
            best=best.number,
            iterations=tuple(self._iterations),
            stopped=stopped,
            failure=failure,
            closing_reflection=self._reflection,
            language=self._language,
            seed=self._seed,
            skill=self._client.skill,
            model=self._model,
            origin=self._client.origin,
            target=self._client.target,
            latency_ms=(time.monotonic() - self._deadlines.started_s) * 1000,
            parsed=self._parsed.get(best.number),
        )


def _progress(number: int, stage: Stage, progress: skills_pb2.Progress) -> CallProgress:
    return CallProgress(
        iteration=number,
        stage=stage,
        queue_position=progress.queue_position,
        expected_wait_s=progress.expected_wait_s,
        prompt_tokens_read=progress.prompt_tokens_read,
        prompt_tokens=progress.prompt_tokens,
        images_to_encode=progress.images_to_encode,
    )


LEAST_CALL_S = 0.05
"""No call begins with less than this left of the budget, seconds."""
GRACE_S = 1.0
"""Wait for an answer after the end of the budget, seconds: a step of a large model, and the way back."""


class Deadlines:
    """The deadlines of a run, which begins now.

    Args:
        timeout_s: Time for each iteration, seconds.
        time_budget_s: Time for the whole run, seconds; None for no limit.
    """

    def __init__(self, *, timeout_s: float, time_budget_s: float | None) -> None:
        self.started_s = time.monotonic()
        self._timeout_s = timeout_s
        self._budget_end_s = None if time_budget_s is None else self.started_s + time_budget_s
        self._iteration_end_s = self.started_s + timeout_s

    def next_iteration(self) -> None:
        """Note that an iteration begins."""
        self._iteration_end_s = time.monotonic() + self._timeout_s

    @property
    def budget_is_over(self) -> bool:
        """Whether no further call may begin."""
        return self._budget_end_s is not None and self._budget_end_s - time.monotonic() < LEAST_CALL_S

    def time_budget_ms(self) -> int:
        """Return the time budget of a call that begins now, milliseconds; 0 without a budget."""
        if self._budget_end_s is None:
            return 0
        return max(1, int((self._budget_end_s - time.monotonic()) * 1000))

    def call_timeout_s(self) -> float:
        """Return the hard deadline of a call that begins now, seconds from now."""
        end_s = self._iteration_end_s
        if self._budget_end_s is not None:
            end_s = min(end_s, self._budget_end_s + GRACE_S)
        return max(0.0, end_s - time.monotonic())
