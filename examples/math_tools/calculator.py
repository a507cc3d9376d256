"""The tool: sums with + - * / and brackets, and nothing else of what Python could evaluate."""

import ast
import operator
from typing import Annotated

OPERATIONS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv}


async def calculator(expression: Annotated[str, "such as 3*(4+5)"]) -> str:
    """Work out + - * / and brackets."""
    try:
        value = evaluate(ast.parse(expression.strip(), mode="eval").body)
        return str(int(value)) if value == int(value) else str(round(value, 6))
    except (SyntaxError, ValueError, ZeroDivisionError, OverflowError) as error:
        raise ValueError(f"cannot work out {expression!r}") from error


def evaluate(node: ast.expr) -> int | float:
    match node:
        case ast.BinOp(left, sign, right) if type(sign) in OPERATIONS:
            return OPERATIONS[type(sign)](evaluate(left), evaluate(right))
        case ast.UnaryOp(ast.USub(), operand):
            return -evaluate(operand)
        case ast.Constant(int() | float() as value):
            return value
    raise ValueError("only numbers, + - * / and brackets")
