"""The client of the peers: OpenAI's chat completions, streamed."""

from __future__ import annotations

import base64
import json
import time
from typing import Any

import aiohttp

from bench.wire import Answer, Ask, Turn

TIMEOUT_S = 300.0


class HttpClient:
    """A client of a server with OpenAI's interface."""

    def __init__(self, port: int) -> None:
        self._url = f"http://127.0.0.1:{port}/v1/chat/completions"
        # A connection for each request, 0.2 ms on this host: llama-server may close an idle one just as it is reused.
        connector = aiohttp.TCPConnector(limit=0, force_close=True)
        self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=TIMEOUT_S), connector=connector)

    async def ask(self, request: Ask, answer: Answer | None = None) -> Answer:
        """Send a request and read the answer as it is streamed."""
        body: dict[str, Any] = {
            "messages": [{"role": turn.role, "content": _content(turn)} for turn in request.turns],
            "max_tokens": request.max_tokens,
            "temperature": request.temperature,
            "seed": request.seed,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if request.json_schema:
            schema = json.loads(request.json_schema)
            body["response_format"] = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}
        if request.num_candidates > 1:
            body["n"] = request.num_candidates
        answer = answer or Answer(start=0.0)
        answer.start = time.perf_counter()
        async with self._session.post(self._url, json=body) as response:
            if response.status != 200:
                raise RuntimeError(f"HTTP {response.status}: {(await response.text())[:500]}")
            async for line in response.content:
                if line.startswith(b"data: {"):
                    _take(answer, json.loads(line[6:]), time.perf_counter())
        answer.end = time.perf_counter()
        # If the server does not report it: llama.cpp sends one piece a token, except for parts of characters.
        answer.num_tokens = answer.num_tokens or len(answer.times)
        return answer

    async def close(self) -> None:
        """Close the connection."""
        await self._session.close()


def _content(turn: Turn) -> str | list[dict[str, Any]]:
    if not turn.images:
        return turn.content
    urls = (f"data:image/png;base64,{base64.b64encode(data).decode()}" for data in turn.images)
    parts: list[dict[str, Any]] = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    return [*parts, {"type": "text", "text": turn.content}]


def _take(answer: Answer, event: dict[str, Any], now: float) -> None:
    if "error" in event:
        raise RuntimeError(str(event["error"])[:500])
    for choice in event.get("choices") or ():
        if text := (choice.get("delta") or {}).get("content"):
            answer.times.append(now)
            if choice.get("index", 0) == 0:
                answer.text += text
    if usage := event.get("usage"):
        # With several choices, the last usage is of one of them only, so count the pieces.
        answer.num_tokens = max(usage.get("completion_tokens", 0), len(answer.times))
        answer.prompt_tokens = usage.get("prompt_tokens", 0)
        answer.cached_tokens = (usage.get("prompt_tokens_details") or {}).get("cached_tokens", 0)
