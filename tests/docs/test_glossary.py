"""The glossary names the words of dibs; pages, messages and code keep to them."""

import re
from pathlib import Path

import pytest
from tests.harness.test_structure import MODULES, classes

import dibs

ROOT = Path(__file__).parents[2]
SERVICE = Path(dibs.__file__).parent
GLOSSARY = ROOT / "docs/glossary.md"
ROW = re.compile(r"^\| ([a-z -]+) \| ([^|]+) \| ([^|]+) \| `([\w./]+)` \|$", re.MULTILINE)
GIVEN_UP = re.compile(
    r"\bwho(so)?ever\b|(?<![\".])\blately\b(?![\":])|\bhea(rs|rd) of\b|\bmended\b|\bthereby\b"
    r"|\bas (many|much|few|little|large) as (it |they |there )?(may|might)\b|\bas may be\b"
    r"|\bnought\b|\ball told\b|\btill\b|\bkept back\b|\bkeeps? (it|this|\S+) back\b|\bover there\b"
    r"|\bto who\b|\bfor ever\b|\bat hand\b|\bgoes by\b|\bis to be had\b"
    r"|\bmend(s|ing)?\b",
    re.IGNORECASE,
)
"""Riddling or archaic words. `lately` stays as a field's name, which old open pages read."""
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "AGENTS.md", "SECURITY.md")),
    *(ROOT / "docs").glob("*.md"),
    *(ROOT / "skill").glob("*.md"),
    *(SERVICE / "board/templates").glob("*.html"),
]
SPEAKING = [
    *SERVICE.rglob("*.py"),
    *SERVICE.rglob("*.lua"),
    *(SERVICE / "board/static").glob("*.js"),
    *(ROOT / "client").glob("*.py"),
]
"""Files whose string literals reach people and agents."""


def rows() -> list[tuple[str, str, str, str]]:
    """Return (word, meaning, the field's term, file) of each row."""
    return ROW.findall(GLOSSARY.read_text("utf-8"))


def test_each_word_has_one_row_with_a_meaning_and_the_fields_term() -> None:
    text = GLOSSARY.read_text("utf-8")
    lines = [line for line in text.splitlines() if line.startswith("| ") and "| word |" not in line]
    assert len(rows()) == len(lines) >= 30
    words = [word for word, *_ in rows()]
    assert len(words) == len(set(words))
    meanings = [meaning for _, meaning, *_ in rows()]
    assert len(meanings) == len(set(meanings))


@pytest.mark.parametrize(("word", "where"), [(row[0], row[3]) for row in rows()])
def test_each_word_is_used_where_the_glossary_says(word: str, where: str) -> None:
    text = (ROOT / where).read_text("utf-8").lower()
    stem = {"hand-over window": "hand", "lease time": "lease", "private store": "private"}
    assert stem.get(word, word) in text, f"{where} does not say {word}"


ANOTHER_THING = {
    "issue": "the forge's own, not a task that is listed",
    "row": "of the board's table, not what the store keeps of a task",
    "waiter": "who has a ticket, as /v1 calls the field",
    "waiting": "what `next` answers while too much waits for people",
}
"""Names in the code that are others' term for a word of dibs, but mean something else here."""


def test_nothing_is_called_by_a_term_of_others_for_a_word_of_ours() -> None:
    words = {word for word, *_ in rows()}
    terms = {
        term.strip().lower(): word
        for word, _, elsewhere, _ in rows()
        for term in re.split("[,;]", re.sub(r"\([^)]*\)", "", elsewhere))
    }
    named = {
        " ".join(re.findall("[A-Z]?[a-z]+", name)).lower()
        for module, file in MODULES.items()
        if module.startswith("dibs.")
        for name in (module.rpartition(".")[2], *classes(file))
    }
    found = {name: terms[name] for name in named & set(terms) - words}
    assert {name: word for name, word in found.items() if name not in ANOTHER_THING} == {}
    assert set(ANOTHER_THING) <= set(found)


def test_the_words_of_the_contract_mean_the_same_in_the_glossary() -> None:
    contract = (ROOT / "docs/contract.md").read_text("utf-8")
    section = contract.split("## Words")[1].split("## States")[0]
    words = dict(re.findall(r"^\| ([a-z -]+) \| ([^|]+) \|", section, re.MULTILINE))
    meanings = {word: meaning for word, meaning, *_ in rows()}
    del words["word"]
    assert words.items() <= meanings.items()


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_pages_are_written_in_plain_words(page: Path) -> None:
    text = re.sub(r"\{[{%#].*?[}%#]\}|`[^`\n]*`|<[^>]*>", "", page.read_text("utf-8"))
    found = [match[0] for match in GIVEN_UP.finditer(" ".join(text.split()))]
    assert found == []


@pytest.mark.parametrize("source", SPEAKING, ids=lambda path: path.name)
def test_messages_docstrings_and_comments_are_written_in_plain_words(source: Path) -> None:
    text = re.sub(r'"\s*\n\s*f?"|\n\s*(#|//|--)? ?', " ", source.read_text("utf-8"))
    found = [match[0] for match in GIVEN_UP.finditer(text)]
    assert found == []


def test_a_word_that_was_given_up_is_found() -> None:
    for text in (
        *("Whoever reads", "happened lately", "as many as may be", "as much as they may"),
        *("T-1 is kept back by lea", "lea keeps it back", "done over there"),
        *("It is told to who asks", "kept for ever", "a sweep goes by this key"),
    ):
        assert GIVEN_UP.search(text)
