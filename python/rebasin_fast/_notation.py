"""Layouts read from text: the notation of `rebasin_fast.layout`."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

from .layout import Axis, Fixed, Layout, ProductAxis, SumAxis, Within, positive_integer, simplified

_TOKEN = re.compile(r"\s*(?:([+*()])|([^\s+*()@]+)(?:@([^\s+*()@]+))?)")


def is_composite(text: str) -> bool:
    """Say whether a string is more than the name of a group."""
    return any(sign in text for sign in "+*()@")


def parsed(text: str) -> Layout:
    """Return the layout that a string describes.

    Raises
    ------
    ValueError
        If the string is not in the notation; the message shows where it ends to be.
    """
    tokens = list(_tokens(text))
    parser = _Parser(text, tokens)
    layout = parser.sum()
    if parser.position != len(tokens):
        raise parser.error()
    return simplified(layout)


class _Token(NamedTuple):
    sign: str
    name: str
    parent: str


def _tokens(text: str) -> Iterator[_Token]:
    position = 0
    stripped = text.rstrip()
    while position < len(stripped):
        match = _TOKEN.match(stripped, position)
        if match is None:
            raise ValueError(f"{text!r} is not in the notation for axes from {stripped[position:]!r} on")
        yield _Token(*(part or "" for part in match.groups()))
        position = match.end()


class _Parser:
    """Recursive descent over sums, products and names."""

    def __init__(self, text: str, tokens: list[_Token]) -> None:
        self._text = text
        self._tokens = tokens
        self.position = 0

    def error(self) -> ValueError:
        rest = " ".join(token.sign or token.name for token in self._tokens[self.position :])
        return ValueError(f"{self._text!r} is not in the notation for axes: unexpected {rest or 'end'!r}")

    def sum(self) -> Layout:
        terms = self._chain("+", self._product)
        return terms[0] if len(terms) == 1 else SumAxis(terms)

    def _product(self) -> Layout:
        factors = self._chain("*", self._factor)
        return factors[0] if len(factors) == 1 else ProductAxis(factors)

    def _chain(self, sign: str, part: Callable[[], Layout]) -> tuple[Layout, ...]:
        parts = [part()]
        while self._next().sign == sign:
            self.position += 1
            parts.append(part())
        return tuple(parts)

    def _factor(self) -> Layout:
        token = self._next()
        self.position += 1
        if token.sign == "(":
            inside = self.sum()
            if self._next().sign != ")":
                raise self.error()
            self.position += 1
            return inside
        if not token.name:
            self.position -= 1
            raise self.error()
        if token.parent:
            return Within(token.name, token.parent)
        if token.name.isdecimal():
            return Fixed(positive_integer(int(token.name), f"the length in {self._text!r}"))
        return Axis(token.name)

    def _next(self) -> _Token:
        return self._tokens[self.position] if self.position < len(self._tokens) else _Token("", "", "")
