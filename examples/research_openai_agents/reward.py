"""The reward: True if the last words are the right name in the agreed form."""


def score(task: dict, result: str) -> bool:
    return result.strip().lower() == f"ANSWER({task['answer']})".lower()
