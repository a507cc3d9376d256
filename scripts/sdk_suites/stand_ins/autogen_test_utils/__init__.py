"""What autogen-core's tests import of a package that is in AutoGen's repository and not on the registry: small agents.

Written from how the tests use it, so it has only what they name.
"""

from dataclasses import dataclass
from typing import Any, Self

from autogen_core import (
    BaseAgent,
    Component,
    ComponentBase,
    ComponentModel,
    DefaultTopicId,
    MessageContext,
    RoutedAgent,
    default_subscription,
    message_handler,
)
from autogen_core.exceptions import CantHandleException
from pydantic import BaseModel

__all__ = [
    "CascadingAgent",
    "CascadingMessageType",
    "LoopbackAgent",
    "LoopbackAgentWithDefaultSubscription",
    "MessageType",
    "MyInnerComponent",
    "MyOuterComponent",
    "NoopAgent",
]


@dataclass
class MessageType:
    """A message that says nothing."""


@dataclass
class CascadingMessageType:
    """A message that is answered by further ones, until the last round."""

    round: int


class NoopAgent(BaseAgent):
    """It is there, and takes no message."""

    def __init__(self) -> None:
        super().__init__("does nothing")

    async def on_message_impl(self, message: Any, ctx: MessageContext) -> Any:
        raise CantHandleException("it takes no message")


class LoopbackAgent(RoutedAgent):
    """It gives each message back, and counts them."""

    def __init__(self) -> None:
        super().__init__("gives messages back")
        self.num_calls = 0

    @message_handler
    async def on_message_type(self, message: MessageType, ctx: MessageContext) -> MessageType:
        self.num_calls += 1
        return message


@default_subscription
class LoopbackAgentWithDefaultSubscription(LoopbackAgent):
    """The same, for messages of the default topic."""


@default_subscription
class CascadingAgent(RoutedAgent):
    """It tells all the others of each message that it hears, one round later."""

    def __init__(self, max_rounds: int) -> None:
        super().__init__("answers all")
        self.num_calls = 0
        self.max_rounds = max_rounds

    @message_handler
    async def on_cascading_message(self, message: CascadingMessageType, ctx: MessageContext) -> None:
        self.num_calls += 1
        if message.round < self.max_rounds:
            await self.publish_message(CascadingMessageType(round=message.round + 1), topic_id=DefaultTopicId())


class InnerConfig(BaseModel):
    """Of `MyInnerComponent`."""

    inner_message: str


class MyInnerComponent(ComponentBase[InnerConfig], Component[InnerConfig]):
    """A component within another one."""

    component_config_schema = InnerConfig
    component_type = "custom"

    def __init__(self, inner_message: str) -> None:
        self.inner_message = inner_message

    def _to_config(self) -> InnerConfig:
        return InnerConfig(inner_message=self.inner_message)

    @classmethod
    def _from_config(cls, config: InnerConfig) -> Self:
        return cls(config.inner_message)


class OuterConfig(BaseModel):
    """Of `MyOuterComponent`."""

    outer_message: str
    inner_class: ComponentModel


class MyOuterComponent(ComponentBase[OuterConfig], Component[OuterConfig]):
    """A component that holds another one."""

    component_config_schema = OuterConfig
    component_type = "custom"

    def __init__(self, outer_message: str, inner_class: MyInnerComponent) -> None:
        self.outer_message = outer_message
        self.inner_class = inner_class

    def _to_config(self) -> OuterConfig:
        return OuterConfig(outer_message=self.outer_message, inner_class=self.inner_class.dump_component())

    @classmethod
    def _from_config(cls, config: OuterConfig) -> Self:
        return cls(config.outer_message, MyInnerComponent.load_component(config.inner_class))
