"""The passages, and a BM25 index over them (bm25s), both kept in memory once read."""

import json
from functools import cache
from pathlib import Path

import bm25s

FILE = Path(__file__).parent / "passages.jsonl"
SHOWN = 2


def find(query: str, count: int = SHOWN) -> list[str]:
    """The passages that fit best, without those that share no word with the query."""
    texts, index = loaded()
    rows, scores = index.retrieve(split([query]), k=min(count, len(texts)), show_progress=False)
    return [texts[row] for row, score in zip(rows[0], scores[0], strict=True) if score > 0] or ["Nothing found."]


@cache
def loaded() -> tuple[list[str], bm25s.BM25]:
    texts = [json.loads(line)["text"] for line in FILE.read_text(encoding="utf-8").splitlines()]
    index = bm25s.BM25()
    index.index(split(texts), show_progress=False)
    return texts, index


def split(texts: list[str]) -> bm25s.tokenization.Tokenized:
    return bm25s.tokenize(texts, stopwords="en", show_progress=False)
