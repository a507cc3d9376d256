"""What the agents are told, and how much they see of a result."""

WRITER = "Write one SQLite query that answers the question. Reply only with SQL."
CHECKER = "Does the query answer the question? Reply only OK or BAD."
REWRITER = "The query does not answer the question. Write a better one. Reply only with SQL."

SHOWN_ROWS, SHOWN_CHARACTERS = 2, 80
