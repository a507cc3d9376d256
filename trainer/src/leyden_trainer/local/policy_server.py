"""The policy behind an OpenAI-compatible endpoint, in a thread of the trainer's process; on loopback unless told.

Unlike a serving engine's it refuses what would bend the distribution, and says with which version of the weights each
answer was sampled.
"""

import asyncio
import contextlib
import hashlib
import hmac
import json
import secrets
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from concurrent.futures import Future
from typing import Any

import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from transformers import PreTrainedTokenizerBase

from leyden.errors import BadConfig, BadInput, LeydenError, Unreachable
from leyden.server.listening import is_loopback, listen, url_of
from leyden_trainer.local.continuation import Conversations, Turn
from leyden_trainer.local.policy_answer import AnswerForm, Transcript
from leyden_trainer.local.policy_request import ChatRequest, CompletionRequest, PolicyRequest, parse_request
from leyden_trainer.local.rendering import Renderer
from leyden_trainer.local.sampler import Sample, SampledToken, Sampler, SampleRequest

__all__ = ["ContextOverflow", "PolicyServer"]

STOP_GRACE_S = 5


_Tokens = asyncio.Queue[tuple[int, SampledToken | None]]
"""(choice, token) as they are sampled; None after a choice's last."""


class ContextOverflow(BadInput):
    """A prompt that leaves no room for an answer."""


class PolicyServer:
    """Serves one sampler.

    Args:
        key: the bearer key that opens it; None, on loopback only: open to every process of this machine.
        host: an address of this machine by which the gateway reaches it.

    Raises:
        BadConfig: the port is in use, the address is not one of this machine, or it is not loopback and has no key.
    """

    def __init__(
        self,
        sampler: Sampler,
        tokenizer: PreTrainedTokenizerBase,
        *,
        model_name: str,
        key: str | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
    ) -> None:
        self.sampler = sampler
        self.tokenizer = tokenizer
        self.model_name = model_name
        self.key = key
        self.stop_ids = _stop_ids(sampler, tokenizer)
        self._conversations = Conversations(Renderer(tokenizer), self.stop_ids)
        if not is_loopback(host) and not key:
            raise BadConfig(f"refusing to serve the policy on {host} without a key")
        self._socket = listen(host, port, setting="trainer.port")
        self.url = f"{url_of(self._socket)}/v1"
        config = uvicorn.Config(
            self._app(), log_level="warning", access_log=False, ws="none", timeout_graceful_shutdown=STOP_GRACE_S
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._serve, name="leyden-policy-server", daemon=True)

    def start(self) -> None:
        """Begin to serve; connections made from now on are answered."""
        self._thread.start()

    def stop(self) -> None:
        """Stop serving. Close the sampler first, so that no request is left waiting for it."""
        self._server.should_exit = True
        if self._thread.ident is not None:
            self._thread.join()
        self._socket.close()

    def _serve(self) -> None:
        self._server.run(sockets=[self._socket])

    def _app(self) -> FastAPI:
        app = FastAPI(title="Leyden policy server", openapi_url=None)
        app.add_exception_handler(LeydenError, _error)

        @app.get("/v1/models")
        async def models(request: Request) -> Response:
            self._authorise(request)
            model = {"id": self.model_name, "object": "model", "created": 0, "owned_by": "leyden"}
            model |= {"max_model_len": self.sampler.context_length, "model_version": self.sampler.version}
            return JSONResponse({"object": "list", "data": [model]})

        @app.post("/v1/chat/completions")
        async def chat(request: Request) -> Response:
            asked = parse_request(ChatRequest, await self._body(request))
            session, options = request.headers.get("x-leyden-rollout"), asked.chat_template_kwargs
            turn = self._conversations.turn(session, asked.messages, asked.offered_tools, options)
            return await self._answer(request, asked, turn.prompt_ids, turn)

        @app.post("/v1/completions")
        async def completions(request: Request) -> Response:
            asked = parse_request(CompletionRequest, await self._body(request))
            return await self._answer(request, asked, self._completion_prompt(asked), None)

        return app

    def _authorise(self, request: Request) -> None:
        if self.key is None:
            return
        given = request.headers.get("authorization", "").removeprefix("Bearer ")
        if not hmac.compare_digest(given.encode(), self.key.encode()):
            raise _WrongKey("the key is missing or wrong; this server is for the gateway of the same run")

    async def _body(self, request: Request) -> Any:
        self._authorise(request)
        try:
            return json.loads(await request.body())
        except ValueError as error:
            raise BadInput(f"the body is not JSON: {error}") from error

    def _completion_prompt(self, asked: CompletionRequest) -> tuple[int, ...]:
        if isinstance(asked.prompt, str):
            return tuple(self.tokenizer(asked.prompt).input_ids)
        size = self.sampler.model.config.get_text_config(decoder=True).vocab_size
        wrong = [token for token in asked.prompt if not 0 <= token < size]
        if wrong:
            raise BadInput(f"prompt has token id {wrong[0]}, expected 0 to {size - 1}")
        return asked.prompt

    async def _answer(
        self, request: Request, asked: PolicyRequest, prompt_ids: tuple[int, ...], turn: Turn | None
    ) -> Response:
        form = AnswerForm(self.tokenizer, asked, prompt_ids, self.model_name)
        transcripts = [Transcript(self.tokenizer, asked, self.stop_ids) for _ in range(asked.n)]
        if not asked.stream:
            futures = self.sampler.submit(self._sample_requests(asked, prompt_ids, transcripts, None))
            samples = await _unless_gone(request, futures)
            if not samples:
                return Response(status_code=499)
            answer = form.whole(samples, transcripts)
            for choice, sample in zip(answer["choices"], samples, strict=True):
                if turn is not None:
                    turn.remember(choice["message"], sample.token_ids)
            return JSONResponse(answer)
        tokens = _Tokens()
        futures = self.sampler.submit(self._sample_requests(asked, prompt_ids, transcripts, tokens))
        loop = asyncio.get_running_loop()
        for index, future in enumerate(futures):
            future.add_done_callback(lambda _, index=index: _put(loop, tokens, (index, None)))
        chunks = _chunks(form, transcripts, futures, tokens, turn)
        return StreamingResponse(_event_stream(chunks), media_type="text/event-stream")

    def _sample_requests(
        self,
        asked: PolicyRequest,
        prompt_ids: tuple[int, ...],
        transcripts: Sequence[Transcript],
        tokens: _Tokens | None,
    ) -> list[SampleRequest]:
        room = self.sampler.context_length - len(prompt_ids)
        if room < 1:
            raise ContextOverflow(
                f"This model's maximum context length is {self.sampler.context_length} tokens, and the prompt has "
                f"{len(prompt_ids)}. Shorten the messages, or raise model.context_length."
            )
        loop = asyncio.get_running_loop()
        seed = secrets.randbits(63) if asked.seed is None else asked.seed
        return [
            SampleRequest(
                prompt_ids,
                max_new_tokens=min(room, asked.most_tokens or room),
                seed=_choice_seed(seed, index),
                stop_ids=self.stop_ids,
                temperature=asked.temperature,
                top_p=asked.top_p,
                stops=transcript.stopped if asked.stop else None,
                on_token=None if tokens is None else _listener(loop, tokens, index),
            )
            for index, transcript in enumerate(transcripts)
        ]


class _WrongKey(LeydenError):
    """The request's key does not open this server."""


def _listener(loop: asyncio.AbstractEventLoop, queue: _Tokens, index: int) -> Callable[[SampledToken], None]:
    return lambda token: _put(loop, queue, (index, token))


def _put(loop: asyncio.AbstractEventLoop, queue: _Tokens, item: tuple[int, SampledToken | None]) -> None:
    # The sampler outlives a server that is stopping, and must not fail because nobody listens any more.
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(queue.put_nowait, item)


def _stop_ids(sampler: Sampler, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """What ends a turn: the tokenizer's end token, and those of the model's generation settings."""
    generation = sampler.model.generation_config
    configured: Any = generation.eos_token_id if generation is not None else None
    ends: Any = tokenizer.eos_token_id
    ids = [*(configured if isinstance(configured, list) else [configured]), ends]
    return frozenset(token for token in ids if isinstance(token, int))


def _choice_seed(seed: int, index: int) -> int:
    """Choice 0 has the request's seed, the others their own."""
    if index == 0:
        return seed
    return int.from_bytes(hashlib.blake2b(f"{seed}:{index}".encode(), digest_size=8).digest(), "big")


async def _unless_gone(request: Request, futures: "Sequence[Future[Sample]]") -> list[Sample]:
    """The samples; [] if the client hung up, whose rows are then dropped."""
    waiting = asyncio.gather(*map(asyncio.wrap_future, futures), return_exceptions=True)
    gone = asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait({waiting, gone}, return_when=asyncio.FIRST_COMPLETED)
        samples: list[Sample] = []
        for sample in await waiting if waiting.done() else []:
            if isinstance(sample, BaseException):
                raise sample
            samples.append(sample)
        return samples
    finally:
        waiting.cancel()
        gone.cancel()


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _chunks(
    form: AnswerForm,
    transcripts: Sequence[Transcript],
    futures: "Sequence[Future[Sample]]",
    tokens: _Tokens,
    turn: Turn | None,
) -> AsyncGenerator[dict[str, Any]]:
    """Every token as it is sampled, then each choice's ending. Leaving early drops the rows."""
    begun: set[int] = set()
    try:
        num_ended = 0
        while num_ended < len(futures):
            index, token = await tokens.get()
            if token is None:
                num_ended += 1
                sample = futures[index].result()
                if turn is not None:
                    turn.remember(transcripts[index].message(sample.token_ids), sample.token_ids)
                yield form.ending(index, sample, transcripts[index])
            else:
                yield form.chunk(index, transcripts[index].add(token.id), token, first=index not in begun)
                begun.add(index)
        if form.request.stream_options.include_usage:
            yield form.usage_chunk([future.result() for future in futures])
    finally:
        for future in futures:
            future.cancel()


async def _event_stream(chunks: AsyncGenerator[dict[str, Any]]) -> AsyncIterator[str]:
    async with contextlib.aclosing(chunks):
        try:
            async for chunk in chunks:
                yield f"data: {json.dumps(chunk)}\n\n"
        except Unreachable as error:
            yield f"data: {json.dumps(_error_body(error, 503))}\n\n"
            return
    yield "data: [DONE]\n\n"


async def _error(request: Request, error: Exception) -> Response:
    status = 400 if isinstance(error, BadInput) else 401 if isinstance(error, _WrongKey) else 503
    return JSONResponse(_error_body(error, status), status_code=status)


def _error_body(error: Exception, status: int) -> dict[str, Any]:
    kind = "invalid_request_error" if status < 500 else "server_error"
    code = "context_length_exceeded" if isinstance(error, ContextOverflow) else None
    return {"error": {"message": str(error), "type": kind, "param": None, "code": code}}
