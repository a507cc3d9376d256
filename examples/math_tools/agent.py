"""A word-problem agent on AutoGen: it decides when to call its calculator, and what to do with the result."""

import ast
import operator
from typing import Annotated

from autogen_agentchat.agents import AssistantAgent
from autogen_ext.models.openai import OpenAIChatCompletionClient

INSTRUCTIONS = "Solve the problem with the calculator. End with ANSWER(number)."
OPERATIONS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv}

model_client = OpenAIChatCompletionClient(model="gpt-4o-mini", temperature=0.2, max_tokens=48)


async def calculator(expression: Annotated[str, "such as 3*(4+5)"]) -> str:
    """Work out + - * / and brackets."""
    try:
        value = evaluate(ast.parse(expression.strip(), mode="eval").body)
    except (SyntaxError, ValueError, ZeroDivisionError, OverflowError) as error:
        raise ValueError(f"cannot work out {expression!r}") from error
    return str(int(value)) if value == int(value) else str(round(value, 6))


def evaluate(node: ast.expr) -> int | float:
    match node:
        case ast.BinOp(left, sign, right) if type(sign) in OPERATIONS:
            return OPERATIONS[type(sign)](evaluate(left), evaluate(right))
        case ast.UnaryOp(ast.USub(), operand):
            return -evaluate(operand)
        case ast.Constant(int() | float() as value):
            return value
    raise ValueError("only numbers, + - * / and brackets")


def make_solver() -> AssistantAgent:
    return AssistantAgent(
        "solver",
        model_client=model_client,
        tools=[calculator],
        max_tool_iterations=4,
        system_message=INSTRUCTIONS,
    )


async def solve(task: dict) -> str:
    """The last thing that the solver said."""
    return (await make_solver().run(task=task["question"])).messages[-1].to_text()
