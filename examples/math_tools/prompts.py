"""What the agent is told."""

SOLVER = "Solve the problem with the calculator. End with ANSWER(number)."
