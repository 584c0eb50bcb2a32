"""Detection of names that look alike: they have the same skeleton (`resembles`).

Names that look alike are still different tasks. But a session that claims a name that looks like
another in use probably means that one, so the reply names it. The method is that of Unicode
Technical Standard 39, section 4: map each name to a skeleton, and compare skeletons. The table of
the standard covers all scripts and matches too much for names of tasks ("rn" equals "m" there), so
dibs has its own: Greek and Cyrillic letters whose capital or small form looks Latin, dashes and
quotes.

The store keeps skeletons next to records. After a change of this function, older names are not
found until they are claimed again, so a change costs no more than missing hints.
"""

import re
import string
import unicodedata

from dibs.model import Project, Task

_LETTERS = {
    # Cyrillic, after casefold, by the shape of the capital or the small letter.
    **dict(zip("авекмнорстухіјѕԁԛԝһӏѵ", "abekmhopctyxijsdqwhlv", strict=True)),
    # Greek, likewise; nu by its capital, because names of tasks are often in capitals.
    **dict(zip("αβεζηικμνορτυχϳ", "abezhikmnoptyxj", strict=True)),
    **dict(zip("ıɑɡɩ", "iagi", strict=True)),
}
_MARKS = {
    **dict.fromkeys("‐‑‒–—―−⁃﹘", "-"),
    **dict.fromkeys("⁄∕", "/"),
    **dict.fromkeys("∶꞉։", ":"),
    **dict.fromkeys("‘’‚‛ʼ′`´", "'"),
    **dict.fromkeys("“”„‟″", '"'),
}
_SAME = str.maketrans(_LETTERS | _MARKS)

# A pattern over the kinds of an ASCII name's characters finds the names that need more than lower
# case. A pattern over the characters themselves takes six times as long, on every claim.
_OF_A_KIND = {
    ord("o"): "oilOIL",
    ord("a"): string.ascii_letters,
    ord("0"): "0",
    ord("9"): string.digits,
    ord("#"): "#|`",
    **{ord(char): char for char in "./ "},
}

_ODD = re.compile(r"(?:gh|issues?)[^a-z]|[0-9]+$", re.IGNORECASE).match
"""A name that is an issue number, or begins like GH-12."""
_KINDS = bytes(
    next((kind for kind, chars in _OF_A_KIND.items() if chr(byte) in chars), ord("-"))
    for byte in range(256)
)
_ODD_KINDS = re.compile(rb"#|//|  |[-ao/ ]0[09]|[09]o|o[09]|[-./ ]o[-./ ]").search
"""A number sign, a URL or two spaces; leading zeros; O, I or L next to digits or alone."""

_BLANKS = re.compile(r"\s+")
_HASH = re.compile(r"(?<![^\W_])#+(?=[0-9])")
_ZEROS = re.compile(r"(?<![0-9.])0+(?=[0-9])")
_DIGITS = re.compile(r"(?<![^\W_|])(?:[oil]|[0-9oil|]*[0-9][0-9oil|]*)(?![^\W_|])")
_AS_DIGITS = str.maketrans("oil|", "0111")

_NUMBER = re.compile(r"(?:gh|issues?)[-_ #/]*([0-9]+)|([0-9]+)")
_SHORT = re.compile(r"([\w.-]+/[\w.-]+)#([0-9]+)")
_ISSUE = re.compile(
    r"https?://[^/]+/(.+?)/(?:-/)?(?:issues|work_items|pull)/([0-9]+)(?:[/?#].*)?", re.DOTALL
)
_TICKET = re.compile(
    r"https?://[^/]+/(?:browse|(?:[^/]+/)?issue)/([a-z][a-z0-9_]*-[0-9]+)(?:[/?#].*)?", re.DOTALL
)


def skeleton(task: Task, project: Project) -> str:
    """Return the skeleton of `task`: names have the same one if they look alike, or mean the same
    issue of the project's repository."""
    if task.isascii():
        text = task.lower()
        if not (_ODD(task) or _ODD_KINDS(b"-%b-" % task.encode().translate(_KINDS))):
            return text
        text = text.replace("`", "'")
    else:
        text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", task).casefold())
        text = text.translate(_SAME)
    text = _BLANKS.sub(" ", text).strip()
    if "/" in text:
        if found := _TICKET.fullmatch(text):
            text = found[1]
        elif found := _ISSUE.fullmatch(text) or _SHORT.fullmatch(text):
            number = found[2].lstrip("0") or "0"
            return number if _is_of(found[1], project) else f"{found[1]}#{number}"
    if "#" in text:
        text = _HASH.sub("", text)
    text = _DIGITS.sub(lambda found: found[0].translate(_AS_DIGITS), text)
    text = _ZEROS.sub("", text)
    if found := _NUMBER.fullmatch(text):
        return found[1] or found[2]
    return text


def _is_of(repository: str, project: Project) -> bool:
    """Return whether a repository is the project's. The client names a project owner.repo, or
    outside github.com host--of--it.owner.repo. A project with another kind of name is taken to
    have one tracker, so any repository matches."""
    name, path = project.lower(), repository.replace("/", ".")
    host, _, rest = name.partition(".")
    return not rest or name == path or ("--" in host and rest == path)
