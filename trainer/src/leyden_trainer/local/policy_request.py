"""What a chat or completions request asks of the policy server. What the server cannot do is refused by name.

Unlike vLLM it takes no defaults from the model's generation_config: temperature and top_p are 1 unless asked.
"""

from abc import abstractmethod
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from leyden.errors import BadInput

__all__ = ["ChatRequest", "CompletionRequest", "PolicyRequest", "parse_request"]

NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "allowed_token_ids": (),
    "audio": (),
    "bad_words": ([],),
    "best_of": (1,),
    "echo": (False,),
    "frequency_penalty": (0,),
    "function_call": (),
    "functions": ([],),
    "ignore_eos": (False,),
    "length_penalty": (1,),
    "logit_bias": ({},),
    "min_p": (0,),
    "min_tokens": (0,),
    "modalities": (["text"],),
    "parallel_tool_calls": (True,),
    "prediction": (),
    "presence_penalty": (0,),
    "repetition_penalty": (1,),
    "response_format": ({"type": "text"},),
    "structured_outputs": ({},),
    "suffix": ("",),
    "tool_choice": ("auto", "none"),
    "top_k": (0, -1),
    "top_logprobs": (0,),
    "use_beam_search": (False,),
}
"""Fields that this server cannot act on, and the values of each that ask for nothing. Null never does."""

IGNORED = ("metadata", "prompt_cache_key", "safety_identifier", "service_tier", "store", "user", "verbosity")
"""Fields that do not concern what is sampled."""


class _StreamOptions(BaseModel):
    include_usage: bool = False


class PolicyRequest(BaseModel):
    """What both kinds of request have."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    model: str = ""
    stream: bool = False
    stream_options: _StreamOptions = _StreamOptions()
    n: int = Field(default=1, ge=1, le=128)
    max_tokens: int | None = Field(default=None, ge=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    temperature: float = Field(default=1.0, ge=0)
    top_p: float = Field(default=1.0, gt=0, le=1)
    seed: int | None = None
    stop: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    return_token_ids: bool = False

    @property
    def most_tokens(self) -> int | None:
        """Under both names; None: up to the end of the context."""
        return min(
            (limit for limit in (self.max_tokens, self.max_completion_tokens) if limit is not None), default=None
        )

    @property
    @abstractmethod
    def wants_logprobs(self) -> bool:
        """Whether the answer carries the sampled tokens' log probabilities."""

    @property
    def offered_tools(self) -> tuple[dict[str, Any], ...]:
        """The tools that the model may call."""
        return ()


class ChatRequest(PolicyRequest):
    """A request of /v1/chat/completions."""

    messages: tuple[dict[str, Any], ...] = Field(min_length=1)
    tools: tuple[dict[str, Any], ...] = ()
    tool_choice: Literal["auto", "none"] = "auto"
    logprobs: bool = False
    chat_template_kwargs: dict[str, Any] = {}

    @property
    def wants_logprobs(self) -> bool:
        return self.logprobs

    @property
    def offered_tools(self) -> tuple[dict[str, Any], ...]:
        return self.tools if self.tool_choice == "auto" else ()


class CompletionRequest(PolicyRequest):
    """A request of /v1/completions: one text, or the token ids themselves."""

    prompt: str | tuple[int, ...] = Field(min_length=1)
    logprobs: Literal[0] | None = None
    """0: the sampled tokens' own."""

    @property
    def wants_logprobs(self) -> bool:
        return self.logprobs is not None


Kind = TypeVar("Kind", bound=PolicyRequest)


def parse_request(kind: type[Kind], body: Any) -> Kind:
    """The request in a JSON body.

    Raises:
        BadInput: a field that the server does not know, cannot act on, or that has a wrong value.
    """
    if not isinstance(body, dict):
        raise BadInput(f"the body must be a JSON object, got {type(body).__name__}")
    asked = {name: value for name, value in body.items() if value is not None and name not in IGNORED}
    unable = sorted(name for name, value in asked.items() if name in NEUTRAL and value not in NEUTRAL[name])
    unable += sorted(name for name in asked if name.startswith("guided_"))
    if unable:
        named = ", ".join(f"{name}={asked[name]!r}" for name in unable)
        raise BadInput(f"this server samples from the model's own distribution and cannot do {named}")
    known = {name: value for name, value in asked.items() if name not in NEUTRAL or name == "tool_choice"}
    if isinstance(known.get("stop"), str):
        known["stop"] = (known["stop"],)
    if kind is CompletionRequest:
        known.pop("tool_choice", None)
    try:
        return kind.model_validate(known)
    except ValidationError as error:
        problems = [f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}" for problem in error.errors()]
        raise BadInput("; ".join(problems)) from error
