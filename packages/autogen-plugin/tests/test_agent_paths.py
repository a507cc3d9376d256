"""Who called, and which call led there, in every way that AgentChat runs agents."""

from typing import Any

import openai
from autogen_agentchat.agents import AssistantAgent, BaseChatAgent
from autogen_agentchat.base import Response
from autogen_agentchat.messages import TextMessage
from autogen_agentchat.teams import RoundRobinGroupChat, SelectorGroupChat, Swarm
from autogen_agentchat.tools import AgentTool, TeamTool
from autogen_core import AgentId, CancellationToken, MessageContext, RoutedAgent, SingleThreadedAgentRuntime, rpc
from autogen_core.models import UserMessage

from leyden.testing.fake_server import Reply
from leyden.types import Call


def who(calls: list[Call]) -> list[tuple[tuple[str, ...], int | None]]:
    """Agent path, and place of the parent among the calls."""
    place: dict[str | None, int] = {call.id: number for number, call in enumerate(calls)}
    return [(call.structure.agent, place.get(call.structure.parent)) for call in calls if call.structure]


def uses(call: Call) -> list[tuple[Any, ...]]:
    return [(use.kind, use.name, use.result) for use in call.tools]


def asks(name: str, **arguments: Any) -> Reply:
    return Reply(tool_calls=[(name, arguments)])


async def test_an_agent_that_runs_alone(calls_of: Any, model: Any) -> None:
    calls = await calls_of([Reply("hi")], lambda: AssistantAgent("solver", model()).run(task="go"))
    assert who(calls) == [(("solver",), None)]


async def test_an_agent_that_streams_alone(calls_of: Any, model: Any) -> None:
    async def run() -> None:
        agent = AssistantAgent("solver", model(), model_client_stream=True)
        assert [item async for item in agent.run_stream(task="go")][-1].messages[-1].content == "hi"

    assert who(await calls_of([Reply("hi")], run)) == [(("solver",), None)]


async def test_an_agent_that_is_sent_messages_without_run(calls_of: Any, model: Any) -> None:
    async def run() -> None:
        message = TextMessage(content="go", source="user")
        await AssistantAgent("solver", model()).on_messages([message], CancellationToken())

    assert who(await calls_of([Reply("hi")], run)) == [(("solver",), None)]


async def test_an_agent_class_of_the_users_own(calls_of: Any, model: Any) -> None:
    class Poet(BaseChatAgent):
        produced_message_types = (TextMessage,)

        async def on_messages(self, messages: Any, cancellation_token: Any) -> Response:
            said = await model().create([UserMessage(content="a rhyme", source="user")])
            return Response(chat_message=TextMessage(content=str(said.content), source=self.name))

        async def on_reset(self, cancellation_token: Any) -> None:
            pass

    async def run() -> None:
        await Poet("poet", "rhymes").run(task="go")
        await RoundRobinGroupChat([Poet("bard", "sings")], max_turns=1).run(task="go")

    assert who(await calls_of([Reply("a"), Reply("b")], run)) == [(("poet",), None), (("bard",), None)]


async def test_the_participants_of_a_round_robin(calls_of: Any, model: Any) -> None:
    def run() -> Any:
        members = [AssistantAgent(name, model()) for name in ("writer", "editor")]
        return RoundRobinGroupChat(members, max_turns=3).run(task="go")

    calls = await calls_of([Reply("a"), Reply("b"), Reply("c")], run)
    assert who(calls) == [(("writer",), None), (("editor",), None), (("writer",), None)]


async def test_a_selectors_own_calls_carry_the_managers_name(calls_of: Any, model: Any) -> None:
    def run() -> Any:
        members = [AssistantAgent(name, model()) for name in ("writer", "editor")]
        return SelectorGroupChat(members, model(), max_turns=1).run(task="go")

    calls = await calls_of([Reply("editor"), Reply("a")], run)
    assert who(calls) == [(("SelectorGroupChatManager",), None), (("editor",), None)]


async def test_a_swarm_hands_off_and_only_the_first_call_after_it_has_the_parent(calls_of: Any, model: Any) -> None:
    def run() -> Any:
        alice = AssistantAgent("alice", model(), handoffs=["bob"])
        bob = AssistantAgent("bob", model(), handoffs=["alice"])
        return Swarm([alice, bob], max_turns=4).run(task="go")

    replies = [asks("transfer_to_bob"), Reply("a"), asks("transfer_to_alice"), Reply("b")]
    calls = await calls_of(replies, run)
    assert who(calls) == [(("alice",), None), (("bob",), 0), (("bob",), None), (("alice",), 2)]
    assert uses(calls[0]) == [("handoff", "transfer_to_bob", "bob")]
    assert uses(calls[2]) == [("handoff", "transfer_to_alice", "alice")]


async def test_of_several_handoffs_in_one_answer_the_first_is_the_one_that_is_followed(
    calls_of: Any, model: Any
) -> None:
    def run() -> Any:
        alice = AssistantAgent("alice", model(), handoffs=["bob", "carol"])
        return Swarm([alice, AssistantAgent("bob", model()), AssistantAgent("carol", model())], max_turns=2).run(
            task=""
        )

    both = Reply(tool_calls=[("transfer_to_carol", {}), ("transfer_to_bob", {})])
    calls = await calls_of([both, Reply("a")], lambda: _ignoring_warnings(run))
    assert who(calls) == [(("alice",), None), (("carol",), 0)]


async def _ignoring_warnings(run: Any) -> None:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # AutoGen warns that it follows the first only
        await run()


async def test_a_handoff_that_a_round_robin_does_not_follow_leads_nowhere(calls_of: Any, model: Any) -> None:
    def run() -> Any:
        members = [AssistantAgent("alice", model(), handoffs=["carol"])]
        members += [AssistantAgent(name, model()) for name in ("bob", "carol")]
        return RoundRobinGroupChat(members, max_turns=3).run(task="go")

    calls = await calls_of([asks("transfer_to_carol"), Reply("a"), Reply("b")], run)
    assert who(calls) == [(("alice",), None), (("bob",), None), (("carol",), None)]


async def test_nested_teams(calls_of: Any, model: Any) -> None:
    def run() -> Any:
        inner = SelectorGroupChat(
            [AssistantAgent(n, model()) for n in ("writer", "editor")], model(), name="desk", max_turns=1
        )
        return RoundRobinGroupChat([AssistantAgent("lead", model()), inner], max_turns=2).run(task="go")

    calls = await calls_of([Reply("a"), Reply("writer"), Reply("b")], run)
    assert who(calls) == [
        (("lead",), None),
        (("desk", "SelectorGroupChatManager"), None),
        (("desk", "writer"), None),
    ]


async def test_an_agent_as_a_tool_is_below_the_call_that_asked_for_it(calls_of: Any, model: Any) -> None:
    def double(number: int) -> int:
        """Twice the number."""
        return 2 * number

    def run() -> Any:
        sub = AssistantAgent("sub", model(), tools=[double], reflect_on_tool_use=True)
        return AssistantAgent("solver", model(), tools=[AgentTool(sub)], reflect_on_tool_use=True).run(task="go")

    calls = await calls_of([asks("sub", task="t"), asks("double", number=2), Reply("4"), Reply("four")], run)
    assert who(calls) == [(("solver",), None), (("solver", "sub"), 0), (("solver", "sub"), 0), (("solver",), None)]
    assert [uses(call) for call in calls] == [[("agent", "sub", "sub: 4")], [("function", "double", "4")], [], []]


async def test_a_team_as_a_tool_goes_by_the_tools_name(calls_of: Any, model: Any) -> None:
    def run() -> Any:
        team = RoundRobinGroupChat([AssistantAgent("writer", model())], max_turns=1)
        tool = TeamTool(team, "desk", "writes")
        return AssistantAgent("lead", model(), tools=[tool], reflect_on_tool_use=True).run(task="go")

    calls = await calls_of([asks("desk", task="t"), Reply("a"), Reply("b")], run)
    assert who(calls) == [(("lead",), None), (("lead", "desk", "writer"), 0), (("lead",), None)]
    assert uses(calls[0]) == [("agent", "desk", "writer: a")]


async def test_an_agent_of_core_that_knows_no_team(calls_of: Any, model: Any) -> None:
    class Echo(RoutedAgent):
        @rpc
        async def handle(self, message: TextMessage, ctx: MessageContext) -> TextMessage:
            said = await model().create([UserMessage(content=message.content, source="user")])
            return TextMessage(content=str(said.content), source="echo")

    async def run() -> None:
        runtime = SingleThreadedAgentRuntime()
        await Echo.register(runtime, "echo", lambda: Echo("echoes"))
        runtime.start()
        await runtime.send_message(TextMessage(content="go", source="user"), AgentId("echo", "default"))
        await runtime.stop_when_idle()

    assert who(await calls_of([Reply("hi")], run)) == [(("echo",), None)]


async def test_who_reads_a_stream_is_not_the_agent_that_makes_it(calls_of: Any, model: Any) -> None:
    async def run() -> None:
        async with openai.AsyncOpenAI(base_url="http://127.0.0.1:9", api_key="sk-x") as bare:
            async for _ in AssistantAgent("solver", model()).run_stream(task="go"):
                await bare.chat.completions.create(model="m", messages=[{"role": "user", "content": "mine"}])

    calls = await calls_of(lambda body, headers: Reply("hi"), run)
    own = [call for call in calls if call.request.messages[0]["content"] == "mine"]
    assert len(own) == len(calls) - 1 == 3
    assert all(call.structure is None for call in own)
