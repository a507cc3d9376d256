from leyden.exception_text import exception_text
from leyden.runner.failures import judge


class Wordless(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


def test_an_exception_is_its_type_and_its_message_in_one_line() -> None:
    assert exception_text(ValueError("no number")) == "ValueError: no number"


def test_one_whose_str_raises_is_told_by_its_type() -> None:
    assert exception_text(Wordless()) == "Wordless: its text cannot be had, as its __str__ raised RuntimeError"


def test_an_agent_that_raised_one_has_failed_like_any_other() -> None:
    verdict = judge(Wordless())
    assert (verdict.status, verdict.failure.kind) == ("failed", "agent_error")
    assert verdict.failure.message.startswith("Wordless: ")
