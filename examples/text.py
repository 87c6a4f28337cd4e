"""Text commands with nothing but the standard library."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator

import pitwarden

app = pitwarden.App()

# Paths, file names and addresses are no words.
WORD = re.compile(r"(?<![\w./@])[^\W\d_]+(?:['’-][^\W\d_]+)*(?![\w/@]|\.\w)")
SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[\"'“‘(]?[^\W\d_a-z])")
STOP_WORDS = frozenset(
    "a about after all also an and any are as at be because been before but by can could did do does for from had has "
    "have he her him his how i if in into is it its just like may me more most my no not of on one only or other our "
    "out over she should so some such than that the their them then there these they this those through to too under "
    "up us was we were what when where which who will with would you your".split()
)


@app.command
def summarize(text: str, sentences: int = 3) -> str:
    """The sentences that say most, in their order: each weighs what its words weigh in the whole text."""
    if sentences < 1:
        raise pitwarden.InvalidArgument(f"sentences: expected at least 1, got {sentences}")
    with pitwarden.span("weigh"):
        found = _sentences(text)
        weights = _weights(found)
    scored = sorted(range(len(found)), key=lambda index: _score(found[index], weights), reverse=True)
    return " ".join(found[index] for index in sorted(scored[:sentences]))


@app.command
def keywords(text: str, top: int = 10) -> list[dict[str, object]]:
    """The words that weigh most, heaviest first."""
    weights = _weights(_sentences(text))
    heaviest = sorted(weights.items(), key=lambda item: (-item[1], item[0]))[:top]
    return [{"word": word, "weight": round(weight, 3)} for word, weight in heaviest]


@app.command
def count_words(text: str) -> dict[str, int]:
    """How often each word occurs, most frequent first."""
    words = [word.lower() for word in WORD.findall(text)]
    pitwarden.emit("words", len(words), kind="counter")
    return dict(Counter(words).most_common())


@app.command
def tokens(text: str) -> Iterator[str]:
    """The words one by one, as a language model would give them."""
    for match in WORD.finditer(text):
        yield match.group()


def _sentences(text: str) -> list[str]:
    """Sentences of the prose: code blocks, headings, tables and the marks of Markdown are left out."""
    prose = re.sub(r"```.*?(```|\Z)", "\n\n", text, flags=re.DOTALL)
    prose = re.sub(r"^( {4,}|\t|\s*[#|]).*$|^\s*[-*] ", "\n\n", prose, flags=re.MULTILINE)
    prose = re.sub(r"[*_`]|\[([^\]]*)\]\([^)]*\)", r"\1", prose)
    paragraphs = (" ".join(part.split()) for part in re.split(r"\n\s*\n", prose))
    found = [sentence for part in paragraphs for sentence in SENTENCE_END.split(part) if WORD.search(sentence)]
    # What has no end is a heading, a caption or an item of a list, unless nothing has one.
    return [sentence for sentence in found if sentence[-1] in ".!?"] or found


def _weights(sentences: list[str]) -> dict[str, float]:
    """How much of the text each term makes up; a term that occurs once says nothing about the whole."""
    frequency = Counter(term for sentence in sentences for term in _terms(sentence))
    return {term: math.log(count) for term, count in frequency.items()}


def _score(sentence: str, weights: dict[str, float]) -> float:
    """Mean weight, so that a sentence is not chosen for its length; very short ones say too little."""
    terms = _terms(sentence)
    return sum(weights[term] for term in terms) / max(len(terms), 8)


def _terms(sentence: str) -> list[str]:
    return [word for word in (found.lower() for found in WORD.findall(sentence)) if word not in STOP_WORDS]
