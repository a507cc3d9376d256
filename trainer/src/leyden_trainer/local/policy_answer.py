"""What the policy server answers: OpenAI's forms, vLLM's fields for token ids, and `model_version`.

Text is always decoded from all tokens so far, so a stream's pieces put together are exactly the whole answer.
"""

import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from transformers import PreTrainedTokenizerBase

from leyden_trainer.local.policy_request import ChatRequest, PolicyRequest
from leyden_trainer.local.sampler import Sample, SampledToken
from leyden_trainer.local.tool_calls import OPENING, length_before, parse_tool_calls

__all__ = ["AnswerForm", "Transcript"]

INCOMPLETE_CHARACTER = "\ufffd"


@dataclass
class Transcript:
    """One choice as text, while it grows or when it is whole."""

    tokenizer: PreTrainedTokenizerBase
    request: PolicyRequest
    stop_ids: frozenset[int]
    token_ids: list[int] = field(default_factory=list[int])
    num_sent: int = 0
    """Characters of the content that a stream has sent."""

    def text(self, token_ids: Sequence[int]) -> str:
        """The tokens as text: without the token that ended it, and up to the first stop string."""
        spoken = token_ids[:-1] if token_ids and token_ids[-1] in self.stop_ids else token_ids
        text = self.tokenizer.decode(list(spoken), skip_special_tokens=True, clean_up_tokenization_spaces=False)
        assert isinstance(text, str)
        return text[: min((text.index(stop) for stop in self.request.stop if stop in text), default=len(text))]

    def stopped(self, token_ids: Sequence[int]) -> bool:
        """Whether a stop string has been sampled; it looks at the end only, where a new one must be."""
        # A token is at least a byte, so no stop string reaches further back; special tokens give a little slack.
        reach = max(len(stop.encode()) for stop in self.request.stop) + 8
        tail = self.tokenizer.decode(list(token_ids[-reach:]), skip_special_tokens=True)
        return any(stop in tail for stop in self.request.stop)

    def add(self, token_id: int) -> str:
        """Take a sampled token; the new content that no later token can change."""
        self.token_ids.append(token_id)
        text = self.text(self.token_ids)
        sure = len(text.rstrip(INCOMPLETE_CHARACTER))
        sure = min([sure, *(length_before(text, stop) for stop in self.request.stop)])
        if self.request.offered_tools:
            sure = len(text[: min(sure, length_before(text, OPENING))].rstrip())
        new = text[self.num_sent : sure]
        self.num_sent = max(self.num_sent, sure)
        return new

    def message(self, token_ids: Sequence[int]) -> dict[str, Any]:
        """The assistant's message, with its tool calls if tools were offered."""
        text = self.text(token_ids)
        if not self.request.offered_tools:
            return {"role": "assistant", "content": text}
        parsed = parse_tool_calls(text)
        if not parsed.tool_calls:
            return {"role": "assistant", "content": text}
        return {"role": "assistant", "content": parsed.content or None, "tool_calls": list(parsed.tool_calls)}


@dataclass(frozen=True)
class AnswerForm:
    """Builds the JSON of one answer, whole or in chunks."""

    tokenizer: PreTrainedTokenizerBase
    request: PolicyRequest
    prompt_ids: tuple[int, ...]
    model: str
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    created: int = field(default_factory=lambda: int(time.time()))

    @property
    def chat(self) -> bool:
        return isinstance(self.request, ChatRequest)

    def whole(self, samples: Sequence[Sample], transcripts: Sequence[Transcript]) -> dict[str, Any]:
        """The answer of a request that does not stream."""
        choices: list[dict[str, Any]] = []
        for index, (sample, transcript) in enumerate(zip(samples, transcripts, strict=True)):
            choice = self._choice(index, sample.token_ids, sample.logprobs)
            if self.chat:
                choice["message"] = transcript.message(sample.token_ids)
                called = "tool_calls" in choice["message"]
            else:
                choice["text"], called = transcript.text(sample.token_ids), False
            reason = sample.finish_reason
            choice["finish_reason"] = "tool_calls" if called and reason == "stop" else reason
            choices.append(choice)
        versions = {sample.version for sample in samples}
        # Choices may straddle an update of the weights; then no one version is true of the answer.
        answer = self._envelope(choices, versions.pop() if len(versions) == 1 else None, first=True)
        return answer | {"usage": self._usage([len(sample.token_ids) for sample in samples])}

    def chunk(self, index: int, text: str, token: SampledToken, *, first: bool) -> dict[str, Any]:
        """One sampled token; its text may be empty while it is not yet sure."""
        choice = self._choice(index, (token.id,), (token.logprob,)) | self._piece(text, first) | {"finish_reason": None}
        return self._envelope([choice], token.version, first=first)

    def ending(self, index: int, sample: Sample, transcript: Transcript) -> dict[str, Any]:
        """The chunk after a choice's last token: text that was held back, tool calls, the finish reason."""
        message = transcript.message(sample.token_ids) if self.chat else {"content": transcript.text(sample.token_ids)}
        held = (message["content"] or "")[transcript.num_sent :]
        last = self._choice(index, (), ()) | self._piece(held, False)
        reason = sample.finish_reason
        if "tool_calls" in message:
            calls: Any = message["tool_calls"]
            last["delta"]["tool_calls"] = [{"index": place, **call} for place, call in enumerate(calls)]
            reason = "tool_calls" if reason == "stop" else reason
        last["finish_reason"] = reason
        return self._envelope([last], sample.version, first=False)

    def usage_chunk(self, samples: Sequence[Sample]) -> dict[str, Any]:
        """The last chunk of a stream that was asked for its usage."""
        usage = self._usage([len(sample.token_ids) for sample in samples])
        return self._envelope([], samples[-1].version, first=False) | {"usage": usage}

    def _usage(self, num_tokens: Sequence[int]) -> dict[str, int]:
        completion = sum(num_tokens)
        prompt = len(self.prompt_ids)
        return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}

    def _piece(self, text: str, first: bool) -> dict[str, Any]:
        if not self.chat:
            return {"text": text}
        return {"delta": ({"role": "assistant"} if first else {}) | ({"content": text} if text or first else {})}

    def _choice(self, index: int, token_ids: Sequence[int], logprobs: Sequence[float]) -> dict[str, Any]:
        choice: dict[str, Any] = {"index": index, "logprobs": None}
        if self.request.return_token_ids:
            choice["token_ids"] = list(token_ids)
        if self.request.wants_logprobs:
            choice["logprobs"] = self._logprobs(token_ids, logprobs)
        return choice

    def _logprobs(self, token_ids: Sequence[int], logprobs: Sequence[float]) -> dict[str, Any]:
        texts = [str(self.tokenizer.decode([token_id])) for token_id in token_ids]
        if not self.chat:
            return {"tokens": texts, "token_logprobs": list(logprobs), "top_logprobs": None, "text_offset": None}
        return {
            "content": [
                {"token": text, "logprob": logprob, "bytes": list(text.encode()), "top_logprobs": []}
                for text, logprob in zip(texts, logprobs, strict=True)
            ],
            "refusal": None,
        }

    def _envelope(self, choices: list[dict[str, Any]], version: int | None, *, first: bool) -> dict[str, Any]:
        kind = "text_completion"
        if self.chat:
            kind = "chat.completion.chunk" if self.request.stream else "chat.completion"
        envelope: dict[str, Any] = {
            "id": f"{'chatcmpl' if self.chat else 'cmpl'}-{self.id}",
            "object": kind,
            "created": self.created,
            "model": self.model,
            "model_version": version,
            "choices": choices,
        }
        if first and self.request.return_token_ids:
            envelope["prompt_token_ids"] = list(self.prompt_ids)
        return envelope
