"""A text-to-SQL team on LangGraph: a writer, a checker that sees what a query gave, a rewriter; up to three rounds."""

from pathlib import Path
from typing import TypedDict

from execution import query_in, run_query
from langchain_core.messages import HumanMessage, SystemMessage
from langchain_openai import ChatOpenAI
from langgraph.graph import END, START, StateGraph
from prompts import CHECKER, REWRITER, SHOWN_CHARACTERS, SHOWN_ROWS, WRITER

FOLDER = Path(__file__).parent
ROUNDS = 3

llm = ChatOpenAI(model="gpt-4o-mini", temperature=0, max_tokens=256)


class State(TypedDict, total=False):
    question: str
    schema: str
    database: str
    sql: str
    result: str
    verdict: str
    rounds: int


def ask(system: str, *parts: str) -> str:
    return llm.invoke([SystemMessage(system), HumanMessage("\n".join(parts))]).text.strip()


def writer(state: State) -> State:
    return {"sql": query_in(ask(WRITER, state["schema"], state["question"])), "rounds": 1}


def execute(state: State) -> State:
    database = min((FOLDER / state["database"]).glob("*.sqlite"))
    return {"result": run_query(database, state["sql"]).shown(SHOWN_ROWS, SHOWN_CHARACTERS)}


def checker(state: State) -> State:
    return {"verdict": ask(CHECKER, state["question"], state["sql"], state["result"])}


def rewriter(state: State) -> State:
    said = ask(REWRITER, state["schema"], state["question"], state["sql"], state["result"])
    return {"sql": query_in(said), "rounds": state["rounds"] + 1}


def after_execution(state: State) -> str:
    return "checker" if state["rounds"] < ROUNDS else END


def after_check(state: State) -> str:
    return "rewriter" if state["verdict"].startswith("BAD") else END


graph = StateGraph(State)
graph.add_node(writer)
graph.add_node(execute)
graph.add_node(checker)
graph.add_node(rewriter)
graph.add_edge(START, "writer")
graph.add_edge("writer", "execute")
graph.add_conditional_edges("execute", after_execution, ["checker", END])
graph.add_conditional_edges("checker", after_check, ["rewriter", END])
graph.add_edge("rewriter", "execute")
app = graph.compile()


def solve(task: dict) -> str:
    """The last query that the team wrote."""
    asked = {key: task[key] for key in ("question", "schema", "database")}
    return app.invoke(asked)["sql"]
