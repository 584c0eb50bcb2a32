"""The contract's rules and invariants are numbered, and each citation names one that exists."""

import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
CONTRACT = ROOT / "docs" / "contract.md"
READ = ("service", "client", "skill", "tests", "bench", "docs")
KINDS = {".py", ".lua", ".md", ".js", ".html", ".toml"}
KEPT_FREE = {26, 27}
"""Rules whose numbers are reserved, so no text may cite them."""
RULES = re.compile(r"\b[Rr]ules? (\d+(?:(?:, | and |–|-)\d+)*)")
INVARIANTS = re.compile(r"\bI(\d{1,2})\b")


def texts() -> Iterator[tuple[Path, str]]:
    """Yield every text of the repository except the contract and this test."""
    for folder in READ:
        for path in sorted((ROOT / folder).rglob("*")):
            if path.suffix in KINDS and path not in (CONTRACT, Path(__file__)):
                yield path.relative_to(ROOT), path.read_text("utf-8")


def rules_in(text: str) -> set[int]:
    """Return the rules that a text cites: "rule 13", "rules 1, 2 and 8", "rules 3-5"."""
    cited: set[int] = set()
    for said in RULES.findall(text):
        for part in re.split(r", | and ", said):
            first, _, last = part.replace("–", "-").partition("-")
            cited.update(range(int(first), int(last or first) + 1))
    return cited


def invariants_in(text: str) -> set[int]:
    """Return the invariants that a text cites: "I7"."""
    return set(map(int, INVARIANTS.findall(text)))


def stated() -> tuple[list[int], list[int]]:
    """Return the numbers of the rules and of the invariants, in the order of the page."""
    text = CONTRACT.read_text("utf-8")
    rules = re.findall(r"^(\d+)\. ", text, re.MULTILINE)
    return list(map(int, rules)), list(map(int, re.findall(r"^\| I(\d+) \|", text, re.MULTILINE)))


def test_rules_and_invariants_are_numbered_without_a_gap() -> None:
    rules, invariants = stated()
    assert rules == list(range(1, len(rules) + 1))
    assert invariants == list(range(1, len(invariants) + 1))
    assert (len(rules), len(invariants)) >= (20, 14)


def test_a_rule_that_is_not_there_yet_says_so() -> None:
    text = CONTRACT.read_text("utf-8")
    free = re.findall(r"^(\d+)\. \*Kept for .+\*$", text, re.MULTILINE)
    assert set(map(int, free)) == KEPT_FREE


def test_every_citation_leads_to_a_rule_or_an_invariant() -> None:
    rules, invariants = map(set, stated())
    rules -= KEPT_FREE
    astray = [
        f"{path}: {sorted(rules_in(text) - rules)} {sorted(invariants_in(text) - invariants)}"
        for path, text in texts()
        if rules_in(text) - rules or invariants_in(text) - invariants
    ]
    assert astray == []


def test_every_rule_and_invariant_has_a_test_that_names_it() -> None:
    rules, invariants = map(set, stated())
    rules -= KEPT_FREE
    for path, text in texts():
        if path.parts[0] == "tests":
            rules -= rules_in(text)
            invariants -= invariants_in(text)
    assert (rules, invariants) == (set(), set())


def test_every_decision_stands_in_the_index_with_its_date() -> None:
    index = (ROOT / "docs" / "decisions" / "README.md").read_text("utf-8")
    decisions = sorted((ROOT / "docs" / "decisions").glob("0*.md"))
    assert decisions
    for path in decisions:
        title, dated = re.search(
            r"\A# \d+\. (.+)\n\nStatus: .+\nDate: (\d{4}-\d\d-\d\d)\n", path.read_text("utf-8")
        ).groups()
        assert f"| [{int(path.name[:4])}]({path.name}) | {title} | {dated} |" in index
