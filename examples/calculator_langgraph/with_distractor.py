"""The same agent with a colleague that talks first and changes nothing: whoever credits its words learns from noise."""

from agent import State, answerer, asks_calculator, calculator, llm, planner
from langchain_core.messages import HumanMessage, SystemMessage
from langgraph.graph import END, START, StateGraph

CHAT = SystemMessage("You are a cheerful colleague. Say something nice about the question in a few words.")


def distractor(state: State) -> State:
    llm.invoke([CHAT, state["messages"][0]])
    return {"messages": []}


graph = StateGraph(State)
graph.add_node(distractor)
graph.add_node(planner)
graph.add_node(calculator)
graph.add_node(answerer)
graph.add_edge(START, "distractor")
graph.add_edge("distractor", "planner")
graph.add_conditional_edges("planner", asks_calculator, ["calculator", END])
graph.add_edge("calculator", "answerer")
graph.add_edge("answerer", END)
app = graph.compile()


def solve(task: dict) -> str:
    """The last thing the agent said."""
    return app.invoke({"messages": [HumanMessage(task["question"])]})["messages"][-1].text
