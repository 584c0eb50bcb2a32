"""dibs, for an agent's shell lines: parses them as sh, bash and zsh do.

gate.py, passing.py and work.py use this parser. It runs and expands nothing: a word records that it
contains a variable, a pattern or the output of a command, whose values are unknown.
"""

from __future__ import annotations

import re

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Union

    Line = list[Union["Command", str]]  # commands, with operators and reserved words between them

MOST_CHARACTERS, MOST_DEPTH = 64 << 10, 12
# Reserved words that a command may follow.
RESERVED = ("if", "then", "elif", "else", "fi", "while", "until", "do", "done", "!", "{", "}")
# Reserved words that are followed by names, not by a command.
NAMING = ("for", "case", "select", "function", "coproc")
BLANKS = re.compile(r"(?:[ \t]|\\\n)+")
COMMENT = re.compile(r"#[^\n]*")
OPERATOR = re.compile(r"\n|;;&|;;|;&|;|&&|\|\||\|&|\||&(?!>)|\(|\)")
REDIRECT = re.compile(r"(\d*|\{\w+\})(<<<|<<-|<<|<>|<&|<(?!\()|>>|>\||>&|>(?!\())|()(&>>?)")
PLAIN = re.compile(r"[^ \t\n;&|()<>'\"\\$`*?\[{~]+")
QUOTED = re.compile(r'[^"\\$`]+')
BRACES = re.compile(r"\{[^{}\s]*(?:,|\.\.)")
VARIABLE = re.compile(r"[A-Za-z_]\w*|[0-9@*#?$!-]")
ANSI = re.compile(r"\$'((?:[^'\\]|\\.)*)'", re.DOTALL)
ARITHMETIC = re.compile(r"\$?\(\([^()`;\n]*(?:\([^()`;\n]*\)[^()`;\n]*)*\)\)")
BACKTICKS = re.compile(r"`((?:[^`\\]|\\.)*)`", re.DOTALL)


class Unreadable(ValueError):
    """The line is incomplete, too long or nested too deep."""


class Word:
    """A word of a command as written, which the shell may expand to several."""

    def __init__(self) -> None:
        self.text = ""  # its text, without quotes
        self.unknown: list[str] = []  # its expansions: names of variables, `$(` and the like
        self.inner: list[Line] = []  # the command lines whose output it contains
        self.is_plain = True  # whether it has no quotes
        self.pattern = ""  # its characters that the shell expands to file names or several words
        self.literal: int | None = (
            None  # the length of the text before the first expansion or pattern
        )

    def is_known(self) -> bool:
        return not self.unknown and not self.pattern

    def stop(self, what: str | None = None) -> None:
        """Record that the rest of the word is unknown."""
        if self.literal is None:
            self.literal = len(self.text)
        if what:
            self.unknown.append(what)

    def known_part(self) -> str:
        return self.text if self.literal is None else self.text[: self.literal]


class Command:
    """A command: its words, redirections and here-documents (<<EOF)."""

    def __init__(self) -> None:
        self.words: list[Word] = []
        self.redirects: list[tuple[str, str, Word]] = []  # descriptor, operator, target
        self.fed: list[str] = []
        self.inner: list[Line] = []
        self.is_naming = False  # whether its words are names: `for x in …`

    def __bool__(self) -> bool:
        return bool(self.words or self.redirects)

    def lines(self) -> list[Line]:
        """Return the command lines that run first, because the command uses their output."""
        words = [*self.words, *(word for _, _, word in self.redirects)]
        return [*self.inner, *(line for word in words for line in word.inner)]


def read(text: str, depth: int = 0) -> Line:
    """Parse a line into commands, with operators and reserved words between them as text."""
    return Reader(text, depth).line()


class Reader:
    def __init__(self, text: str, depth: int = 0) -> None:
        if len(text) > MOST_CHARACTERS or "\0" in text:
            raise Unreadable
        self.text, self.at, self.depth = text, 0, depth
        self.waiting: list[tuple[Command, Word, bool]] = []

    def line(self, end: str = "") -> Line:
        """Parse up to the end of the text, or up to `end`, a closing )."""
        self.deeper()
        found: Line = []
        command, opened, is_open = Command(), 0, bool(end)
        while self.skip_blanks():
            is_sum = not command and self.text.startswith("((", self.at) and self.take(ARITHMETIC)
            operator = "((" if is_sum else self.take(OPERATOR)
            if not operator:
                command = self.add(found, command)
                continue
            found += [command] if command else []
            command = Command()
            if operator == "(":
                opened += 1
            elif operator == ")" and opened:
                opened -= 1
            elif operator == end and found.count("case") <= found.count("esac"):
                is_open = False
                break
            elif operator == "\n":
                self.read_bodies()
            found.append(operator)
        if is_open:
            raise Unreadable
        self.depth -= 1
        return [*found, command] if command else found

    def deeper(self) -> None:
        self.depth += 1
        if self.depth > MOST_DEPTH:
            raise Unreadable

    def skip_blanks(self) -> bool:
        """Skip blanks and comments; return False at the end of the text."""
        self.take(BLANKS)
        self.take(COMMENT)
        return self.at < len(self.text)

    def take(self, pattern: re.Pattern[str]) -> str:
        """Return the text that matches at this place and move past it; return '' if none does."""
        match = pattern.match(self.text, self.at)
        self.at = match.end() if match else self.at
        return match[0] if match else ""

    def add(self, found: Line, command: Command) -> Command:
        """Add the next word or redirection to the command; return the command."""
        is_test = [word.text for word in command.words[:1]] == ["[["]  # there > compares
        redirect = None if is_test else REDIRECT.match(self.text, self.at)
        if redirect:
            self.at = redirect.end()
            self.redirect(command, redirect[1] or "", redirect[2] or redirect[4])
            return command
        if self.text[self.at] in "<>" and not self.text.startswith(("<(", ">("), self.at):
            self.at += 1
            return command
        word = self.word()
        if word.is_plain and not command and word.text in (*RESERVED, *NAMING, "esac", "in"):
            found.append(word.text)
            command.is_naming = command.is_naming or word.text in NAMING
        else:
            command.words.append(word)
        return command

    def redirect(self, command: Command, number: str, operator: str) -> None:
        self.take(BLANKS)
        word = self.word()
        command.redirects.append((number, operator, word))
        if operator in ("<<", "<<-"):
            self.waiting.append((command, word, operator == "<<-"))

    def read_bodies(self) -> None:
        """Read the here-documents (<<EOF) of the previous line's commands."""
        for command, end, may_indent in self.waiting:
            body = []
            while self.at < len(self.text):
                stop = self.text.find("\n", self.at)
                stop = len(self.text) if stop < 0 else stop
                line, self.at = self.text[self.at : stop], stop + 1
                line = line.lstrip("\t") if may_indent else line
                if line == end.text:
                    break
                body.append(line)
            text = "\n".join(body)
            command.fed.append(text)
            if end.is_plain:  # the shell runs $( ) in such a text
                command.inner += inner_of(text, self.depth)
        self.waiting = []
        self.at = min(self.at, len(self.text))

    def word(self) -> Word:
        word = Word()
        while self.at < len(self.text):
            begun, char = self.at, self.text[self.at]
            if self.text.startswith(("<(", ">("), self.at):
                self.at += 2
                self.nest(word)
            elif char == "(" and word.text.endswith("=") and word.is_plain:
                self.at += 1
                self.nest(word)  # an array
            elif char in " \t\n;&|()<>":
                break
            else:
                QUOTES.get(char, Reader.plain)(self, word)
            if self.at == begun:
                raise Unreadable
        return word

    def plain(self, word: Word) -> None:
        char = self.text[self.at]
        is_home = char == "~" and word.text[-1:] in ("", "=", ":")
        if char in "*?[" or is_home or (char == "{" and BRACES.match(self.text, self.at)):
            word.pattern += char
            word.stop()
        text = self.take(PLAIN)
        self.at += 0 if text else 1
        word.text += text or char

    def escaped(self, word: Word) -> None:
        """A backslash outside quotes."""
        after = self.text[self.at + 1 : self.at + 2]
        self.at += 2
        if after != "\n":
            word.is_plain = False
            word.text += after or "\\"
        self.at = min(self.at, len(self.text))

    def single(self, word: Word) -> None:
        end = self.text.find("'", self.at + 1)
        if end < 0:
            raise Unreadable
        word.text += self.text[self.at + 1 : end]
        word.is_plain, self.at = False, end + 1

    def double(self, word: Word) -> None:
        word.is_plain = False
        self.at += 1
        while True:
            word.text += self.take(QUOTED)
            char = self.text[self.at : self.at + 1]
            if char == '"':
                self.at += 1
                return
            if char == "\\":
                after = self.text[self.at + 1 : self.at + 2]
                self.at += 2
                word.text += after if after in '$`"\\' else "" if after == "\n" else "\\" + after
            elif char == "$":
                self.dollar(word, in_quotes=True)
            elif char == "`":
                self.backtick(word)
            else:
                raise Unreadable

    def dollar(self, word: Word, in_quotes: bool = False) -> None:
        after = self.text[self.at + 1 : self.at + 2]
        sum_ = ARITHMETIC.match(self.text, self.at)
        quoted = None if in_quotes else ANSI.match(self.text, self.at)
        if sum_ and "$(" not in sum_[0][1:]:
            word.stop("$((")
            self.at = sum_.end()
        elif after == "(":
            self.at += 2
            self.nest(word)
        elif after == "{":
            self.parameter(word)
        elif quoted:
            self.at, word.is_plain = quoted.end(), False
            if "\\" in quoted[1]:
                word.stop("$'")
            word.text += quoted[1]
        else:
            self.variable(word, after == '"' and not in_quotes)

    def variable(self, word: Word, is_translated: bool) -> None:
        self.at += 1
        name = "" if is_translated else self.take(VARIABLE)
        if name:
            word.stop(name)
        word.text += "" if is_translated else "$" + name

    def parameter(self, word: Word) -> None:
        """Read ${name…}, which may contain quotes and commands."""
        self.deeper()
        self.at += 2
        word.stop("$" + (self.take(VARIABLE) or "{"))
        while True:
            char = self.text[self.at : self.at + 1]
            if char == "}":
                self.at += 1
                self.depth -= 1
                return
            if not char:
                raise Unreadable
            handler = QUOTES.get(char)
            if handler:
                handler(self, word)
            else:
                self.at += 1

    def backtick(self, word: Word) -> None:
        found = BACKTICKS.match(self.text, self.at)
        if not found:
            raise Unreadable
        self.at, word.is_plain = found.end(), False
        word.stop("$(")
        word.inner.append(read(re.sub(r"\\([`\\$])", r"\1", found[1]), self.depth))

    def nest(self, word: Word) -> None:
        """Read the rest of $( ), up to its )."""
        word.is_plain = False
        word.stop("$(")
        waiting, self.waiting = self.waiting, []
        word.inner.append(self.line(")"))
        self.waiting = waiting


QUOTES = {
    "'": Reader.single,
    '"': Reader.double,
    "\\": Reader.escaped,
    "$": Reader.dollar,
    "`": Reader.backtick,
}


def inner_of(text: str, depth: int) -> list[Line]:
    """Return the command lines of $( ) and `…` in a text where quotes have no meaning."""
    word, reader = Word(), Reader(text, depth)
    while reader.at < len(text):
        char = text[reader.at]
        if char == "$":
            reader.dollar(word, in_quotes=True)
        elif char == "`":
            reader.backtick(word)
        else:
            reader.at += 2 if char == "\\" else 1
    return word.inner
