"""The characters that a name or a note may have.

Two names that people cannot tell apart must not be two tasks, and nobody may write text that only a
machine sees. So a name with an invisible character is refused. A note is prose and may be pasted
from anywhere, so it is accepted, and its invisible characters are removed.
"""

import re
import unicodedata

MARKS_MOST = 3
"""Combining marks in a row at most. Scripts put up to three on a letter; more hide the letter."""

# The constants below are parts of character classes in patterns.
CONTROL = "\x00-\x1f\x7f-\x9f\u2028\u2029"
# The category Cf of the newest Unicode; the Unicode data of the service's Python may be older.
FORMAT = (
    "\xad\u0600-\u0605\u061c\u06dd\u070f\u0890\u0891\u08e2\u180e\u200b-\u200f\u202a-\u202e"
    "\u2060-\u206f\ufeff\ufff0-\ufffb\U000110bd\U000110cd\U00013430-\U0001343f"
    "\U0001bca0-\U0001bca3\U0001d173-\U0001d17a"
)
# Letters, marks and symbols by category that are nevertheless invisible: the combining grapheme
# joiner, Hangul and Khmer fillers, variation selectors, the empty Braille cell, a null notehead.
EMPTY = (
    "\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180d\u180f\u2800\u3164\ufe00-\ufe0f\uffa0"
    "\U00016fe4\U0001d159"
)
# Tags, more variation selectors, and code points that Unicode reserves for invisible characters.
PLANE_14 = "\U000e0000-\U000e0fff"
PRIVATE = "\ue000-\uf8ff\U000f0000-\U0010ffff"
# Spaces that look like the plain one, or like nothing. The ideographic space is allowed: it is
# visibly wide, and in use.
BLANKS = "\xa0\u1680\u2000-\u200a\u202f\u205f"

HIDDEN = FORMAT + EMPTY + PLANE_14
"""Invisible characters."""
_KINDS = (
    (re.compile(f"[{CONTROL}]"), "control"),
    (re.compile(f"[{HIDDEN}]"), "invisible"),
    (re.compile(f"[{PRIVATE}]"), "private"),
)
_HIDDEN = _KINDS[1][0]
_BLANK = re.compile(f"[{BLANKS}]")
_JOINERS, _SELECTORS, _KEYCAP = "\u200c\u200d", "\ufe0e\ufe0f", "\u20e3"


def is_plain(text: str) -> bool:
    """Return whether `text` is printable ASCII: nearly all text is, and it breaks no rule."""
    return text.isascii() and text.isprintable()


def fault_of_name(text: str) -> str | None:
    """Return the rule that `text` breaks as a name, as "has no … characters; U+200B is one"; else
    None."""
    if is_plain(text):
        return None
    for pattern, kind in _KINDS:
        if found := pattern.search(text):
            return f"has no {kind} characters; U+{ord(found[0]):04X} is one"
    if found := _BLANK.search(text):
        return f"has no blanks but plain spaces; U+{ord(found[0]):04X} is another"
    for char in text:
        if unicodedata.category(char) in ("Cn", "Cs", "Cf", "Co"):
            return f"has no unassigned characters; U+{ord(char):04X} is one"
    return f"has at most {MARKS_MOST} marks on a letter" if _is_piled_up(text) else None


def fault_of_prose(text: str) -> str | None:
    """Return the rule that `text` breaks as a note, which may have line breaks and tabs; else
    None."""
    if is_plain(text):
        return None
    for char in text:
        if unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp") and char not in "\n\t":
            return f"has no control characters; U+{ord(char):04X} is one"
    return None


def shown(text: str) -> str:
    """Return `text` without invisible characters. A joiner between two characters and a selector
    after one stay where emoji and some scripts need them."""
    if text.isascii():
        return text
    kept: list[str] = []
    marks = 0
    for char, after in zip(text, text[1:] + " ", strict=True):
        if _HIDDEN.match(char) and not _is_needed(kept[-1] if kept else " ", char, after):
            continue
        marks = marks + 1 if _is_mark(char) else 0
        if marks <= MARKS_MOST:
            kept.append(char)
    return "".join(kept)


def _is_needed(before: str, char: str, after: str) -> bool:
    """Return whether a joiner or selector can change how its neighbours look. Between ASCII
    letters it never does, and could encode text that nobody sees."""
    if char in _SELECTORS:
        can_change = not before.isascii() and not _HIDDEN.match(before)
        return can_change or (before in "#*0123456789" and after == _KEYCAP)
    if char not in _JOINERS or before.isascii() or after.isascii():
        return False
    return before not in _JOINERS and not _HIDDEN.match(after)


def _is_mark(char: str) -> bool:
    return char not in _SELECTORS and unicodedata.category(char)[0] == "M"


def _is_piled_up(text: str) -> bool:
    run = 0
    for char in text:
        run = run + 1 if _is_mark(char) else 0
        if run > MARKS_MOST:
            return True
    return False


def lower(text: str) -> str:
    """Return `text` with its ASCII letters in lower case, as Lua's string.lower does."""
    if text.isascii():
        return text.lower()
    return "".join(char.lower() if char.isascii() else char for char in text)
