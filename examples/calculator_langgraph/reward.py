"""The reward: True if the agent's last words are the right number in the agreed form."""


def score(task: dict, result: str) -> bool:
    return result.strip() == f"ANSWER({task['answer']})"
