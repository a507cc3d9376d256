"""langchain-tests' own suite for chat models: ChatOpenAI at our gateway, of which it is told by OpenAI's variables."""

from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_openai import ChatOpenAI
from langchain_tests.integration_tests import ChatModelIntegrationTests  # pyright: ignore[reportMissingImports]

__all__ = ["TestGateway"]


class TestGateway(ChatModelIntegrationTests):
    """What the suite asks of every provider, with nothing left out that ChatOpenAI itself has."""

    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return ChatOpenAI

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"model": "policy", "max_retries": 0, "stream_usage": True}

    @property
    def model_override_value(self) -> str:
        return "another"
