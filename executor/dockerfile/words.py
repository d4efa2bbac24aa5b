"""Words: splitting, quoting, escaping, variables (BuildKit `shell/lex.go`, `parser/line_parsers.go`).

`Expander` gives the text a word stands for; `split_words` cuts a line into words that keep their quotes, for a later
expansion. Everything takes time linear in the text, nesting is bounded, and so is what a word may expand to.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal, NoReturn

from executor.dockerfile import patterns
from executor.errors import DockerfileError, Location

# Go's unicode.IsSpace; str.isspace would add the ASCII separators U+001C to U+001F
SPACE = "\t\n\v\f\r \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000" + "".join(map(chr, range(0x2000, 0x200B)))
_SPACES = frozenset(SPACE)
_LEXED = frozenset("$'\"<")
_SPECIAL_PARAMETERS = frozenset("@*#?-$!0")

NESTING_LIMIT = 100
# ten times what Linux takes as one argument or variable (MAX_ARG_STRLEN); `ENV a=$a$a` doubles at every line
EXPANSION_LIMIT_CHARACTERS = 1_310_720

Quotes = Literal["remove", "keep", "ordinary"]


class WordError(ValueError):
    """A word that cannot be expanded; `Expander` gives it a location."""


class Expander:
    """Expands words by the rules of one Dockerfile.

    `escape` is the file's escape character. `quotes` says what becomes of `'` and `"`: removed as the rule, kept for
    texts that people read, or ordinary characters (in the here-documents of COPY and ADD). With `keep_unset` a
    variable that is not set stays as written.
    """

    def __init__(
        self, escape: str = "\\", *, quotes: Quotes = "remove", keep_unset: bool = False, keep_escapes: bool = False
    ) -> None:
        self._escape = escape
        self._quotes: Quotes = quotes
        self._keep_unset = keep_unset
        self._keep_escapes = keep_escapes

    def expand(self, word: str, env: Mapping[str, str], location: Location | None = None) -> str:
        """The text that `word` stands for."""
        # most words are plain, and so need no lexing
        if self._escape not in word and _LEXED.isdisjoint(word):
            return word
        return self._process(word, env, location)[0]

    def expand_words(self, word: str, env: Mapping[str, str], location: Location | None = None) -> list[str]:
        """The words that `word` stands for: split at unquoted space after the expansion."""
        return self._process(word, env, location)[1]

    def _process(self, word: str, env: Mapping[str, str], location: Location | None) -> tuple[str, list[str]]:
        lexer = _Lexer(word, env, self._escape, self._quotes, self._keep_unset)
        try:
            return lexer.process("", self._keep_escapes)
        except (WordError, patterns.PatternError) as error:
            shown = word if len(word) <= 120 else word[:117] + "..."
            raise DockerfileError(
                f"cannot expand {shown!r}: {error}", code="dockerfile-expansion", location=location
            ) from error


class _Words:
    """Collects characters into words: space ends a word unless it was quoted or escaped."""

    def __init__(self) -> None:
        self._current: list[str] = []
        self._words: list[str] = []

    def add(self, text: str) -> None:
        for character in text:
            if character not in _SPACES:
                self._current.append(character)
            elif self._current:
                self._end()

    def add_raw(self, text: str) -> None:
        if text:
            self._current.append(text)

    def _end(self) -> None:
        self._words.append("".join(self._current))
        self._current.clear()

    def finish(self) -> list[str]:
        if self._current:
            self._end()
        return self._words


class _Lexer:
    """One pass over one word, by recursive descent; `${...}` is the only thing that nests."""

    def __init__(self, source: str, env: Mapping[str, str], escape: str, quotes: Quotes, keep_unset: bool) -> None:
        self._source = source
        self._position = 0
        self._env = env
        self._escape = escape
        self._quotes = quotes
        self._keep_unset = keep_unset
        self._depth = 0
        self._produced = 0
        self._special: dict[str, Callable[[bool], str]] = {"$": self._dollar, "<": self._less}
        if quotes != "ordinary":
            self._special.update({"'": self._single_quoted, '"': self._double_quoted})

    def process(self, stop: str, keep_escapes: bool) -> tuple[str, list[str]]:
        """Text and words up to the end, or up to and over `stop`."""
        self._depth += 1
        if self._depth > NESTING_LIMIT:
            raise WordError(f"substitutions are nested deeper than {NESTING_LIMIT}")
        result: list[str] = []
        words = _Words()
        while character := self._peek():
            if character == stop:
                self._position += 1
                self._depth -= 1
                return "".join(result), words.finish()
            if handler := self._special.get(character):
                text = handler(keep_escapes)
                (words.add if character == "$" else words.add_raw)(text)
                result.append(text)
                continue
            self._position += 1
            if character == self._escape:
                escaped = self._next()
                text = (character if keep_escapes else "") + escaped
                words.add_raw(text)
                result.append(text)
            else:
                words.add(character)
                result.append(character)
        if stop:
            raise WordError(f"missing {stop!r}")
        self._depth -= 1
        return "".join(result), words.finish()

    def _peek(self) -> str:
        return self._source[self._position : self._position + 1]

    def _next(self) -> str:
        character = self._peek()
        self._position += 1
        return character

    def _count(self, text: str) -> str:
        self._produced += len(text)
        if self._produced > EXPANSION_LIMIT_CHARACTERS:
            raise WordError(f"it expands to more than {EXPANSION_LIMIT_CHARACTERS} characters")
        return text

    def _less(self, _: bool) -> str:
        """`<<` takes the blanks behind it into its word, so that `<< EOF` is one here-document word."""
        start = self._position
        self._position += 1
        if self._peek() == "<":
            self._position += 1
            while self._peek() in {" ", "\t"}:
                self._position += 1
        return self._source[start : self._position]

    def _single_quoted(self, _: bool) -> str:
        end = self._source.find("'", self._position + 1)
        if end < 0:
            raise WordError("a single quote is not closed")
        start, self._position = self._position, end + 1
        return self._source[start : end + 1] if self._quotes == "keep" else self._source[start + 1 : end]

    def _double_quoted(self, keep_escapes: bool) -> str:
        self._position += 1
        quote = '"' if self._quotes == "keep" else ""
        result = [quote]
        while character := self._peek():
            if character == "$":
                result.append(self._dollar(keep_escapes))
                continue
            self._position += 1
            if character == '"':
                return "".join([*result, quote])
            if character == self._escape:
                if keep_escapes:
                    result.append(character)
                following = self._peek()
                if not following:
                    break
                if following in {'"', "$", self._escape}:
                    self._position += 1
                    character = following
            result.append(character)
        raise WordError("a double quote is not closed")

    def _dollar(self, _: bool) -> str:
        self._position += 1
        if self._peek() != "{":
            name = self._name()
            if not name:
                return "$"
            value = self._env.get(name)
            if value is None:
                return f"${name}" if self._keep_unset else ""
            return self._count(value)
        self._position += 1
        return self._count(self._braced())

    def _braced(self) -> str:
        following = self._peek()
        if not following:
            raise WordError("missing '}'")
        if following in {"{", "}", ":"}:
            raise WordError("bad substitution: expected a variable's name after '${'")
        name = self._name()
        value = self._env.get(name)
        operator = self._next()
        if operator == "}":
            if value is None:
                return f"${{{name}}}" if self._keep_unset else ""
            return value
        if operator == "/":
            return self._substitution(name, value)
        colon = operator == ":"
        if colon:
            operator = self._next()
        shown = f":{operator}" if colon else operator
        if not operator:
            raise WordError("missing '}'")
        if operator not in "-+?#%" or (colon and operator in "#%"):
            self._unsupported(shown)
        word = self.process("}", operator in "#%")[0]
        if value is None and self._keep_unset:
            return f"${{{name}{shown}{word}}}"
        return self._modified(name, value, operator, colon, word)

    @staticmethod
    def _unsupported(shown: str) -> NoReturn:
        raise WordError(
            f"unsupported modifier {shown!r}: expected one of :- - :+ + :? ? # ## % %% / // after the variable's name"
        )

    @staticmethod
    def _modified(name: str, value: str | None, operator: str, colon: bool, word: str) -> str:
        missing = value is None or (colon and not value)
        if operator == "-":
            return word if missing else value or ""
        if operator == "+":
            return "" if missing else word
        if operator == "?":
            if missing:
                default = "is not allowed to be unset" if value is None else "is not allowed to be empty"
                raise WordError(f"{name}: {word or default}")
            return value or ""
        longest = word.startswith(operator)
        trim = patterns.trim_prefix if operator == "#" else patterns.trim_suffix
        return trim(word[1:] if longest else word, value or "", longest)

    def _substitution(self, name: str, value: str | None) -> str:
        every = self._peek() == "/"
        if every:
            self._position += 1
        pattern = self.process("/", keep_escapes=True)[0]
        replacement = self.process("}", keep_escapes=True)[0]
        if value is None and self._keep_unset:
            return f"${{{name}/{pattern}/{replacement}}}"
        return patterns.replace(pattern, value or "", replacement, every, EXPANSION_LIMIT_CHARACTERS)

    def _name(self) -> str:
        """A variable's name: letters, digits and `_`; a leading run of digits, or one special character, is one."""
        source, start = self._source, self._position
        first = self._peek()
        accepts: Callable[[str], bool] = str.isdecimal if first.isdecimal() else _is_name_character
        if first in _SPECIAL_PARAMETERS and not first.isdecimal():
            self._position += 1
            return first
        end = start
        while end < len(source) and accepts(source[end]):
            end += 1
        self._position = end
        return source[start:end]


def _is_name_character(character: str) -> bool:
    return character == "_" or character.isalpha() or character.isdecimal()


def split_words(text: str, escape: str) -> list[str]:
    """The words of `text`, quotes and escapes kept: space inside quotes, or escaped, does not split.

    A lone escape character at the end is dropped, and an open quote runs to the end (the expansion refuses it).
    """
    words: list[str] = []
    current: list[str] = []
    quote = ""
    position = 0
    while position < len(text):
        character = text[position]
        position += 1
        if not quote and character in _SPACES:
            if current:
                words.append("".join(current))
                current.clear()
            continue
        if character == escape and quote != "'":
            if position == len(text):
                break
            current += [character, text[position]]
            position += 1
            continue
        if quote:
            quote = "" if character == quote else quote
        elif character in {"'", '"'}:
            quote = character
        current.append(character)
    if current:
        words.append("".join(current))
    return words
