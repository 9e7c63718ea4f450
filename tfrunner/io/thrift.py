"""Structs of Thrift's compact protocol, read field by field: bytes that anyone may have sent.

Source: Apache Thrift, "Thrift Compact protocol encoding". Stricter than other readers, so that
none of them finds another value: no field twice, no number that wraps around, no field of another
type (they skip those), no list of other items than are expected (they do not look).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

DEPTH = 8
"""Structs within structs; the footer of a Parquet file has six."""

MOST_NUMBER = 2**15 - 1
"""Of a field. Numbers wrap around in other readers."""

TRUE, FALSE, BYTE, SHORT, INT, LONG, DOUBLE, BINARY, LIST, STRUCT = 1, 2, 3, 4, 5, 6, 7, 8, 9, 12
"""Types of fields; sets and maps do not occur."""

BITS = {SHORT: 16, INT: 32, LONG: 64}

Wanted = Mapping[int, Any]
"""Fields of a struct by their numbers: a type, a Wanted of a struct, or a list with the one of
its items. Others are passed over, but must hold no lists. Lists are kept if there is something
that is wanted of their items."""


class Reader:
    """Reads structs one after the other.

    Args:
        data: Bytes.
        most: Fields and items of lists that are read, of all structs: about a microsecond each.
    """

    def __init__(self, data: bytes, *, most: int) -> None:
        self.data = data
        self.at = 0
        """Where the next struct begins."""
        self._left = most

    def struct(self, wanted: Wanted, depth: int = DEPTH) -> dict[int, Any]:
        """Return the fields of a struct that are wanted: numbers, bytes, dicts, lists of dicts.

        Raises:
            ValueError: It is broken, or is none that every reader understands alike.
            IndexError: It is cut off.
        """
        if depth == 0:
            raise ValueError("it has structs within structs")
        fields: dict[int, Any] = {}
        number = 0
        while sign := self._byte():
            number = number + (sign >> 4) if sign >> 4 else self._number(SHORT)
            if number in fields or not 0 < number <= MOST_NUMBER:
                raise ValueError(f"field {number} cannot be")
            self._spend(1)
            want = wanted.get(number)
            found = self._value(sign & 15, want, depth)
            if want is not None:
                fields[number] = found
        return fields

    def _value(self, kind: int, want: Any, depth: int) -> Any:
        """Return a value: 0 of a type that nobody wants."""
        if want is not None and kind != _kind(want):
            raise ValueError(f"a field has type {kind}, expected {_kind(want)}")
        if kind in BITS:
            return self._number(kind)
        if kind == BINARY:
            return self._bytes()
        if kind == STRUCT:
            return self.struct(want or {}, depth - 1)
        if kind == LIST and want is not None:
            return self._list(want[0], depth)
        if kind in (BYTE, DOUBLE):
            self.at += 1 if kind == BYTE else 8
        elif kind not in (TRUE, FALSE):
            raise ValueError(f"type {kind} is not known")
        return 0

    def _list(self, want: Any, depth: int) -> list[Any]:
        sign = self._byte()
        size, kind = sign >> 4, sign & 15
        if size == 15:
            size = self._varint()
        self._spend(size)
        if size and kind != _kind(want):
            raise ValueError(f"a list has items of type {kind}, expected {_kind(want)}")
        items = [self._value(kind, want, depth) for _ in range(size)]
        return items if want and not isinstance(want, int) else []

    def _spend(self, count: int) -> None:
        self._left -= count
        if self._left < 0:
            raise ValueError("it has too many parts")

    def _bytes(self) -> bytes:
        size = self._varint()
        self.at += size
        return self.data[self.at - size : self.at]

    def _byte(self) -> int:
        self.at += 1
        return self.data[self.at - 1]

    def _number(self, kind: int) -> int:
        found = self._varint()
        if found >> BITS[kind]:
            raise ValueError(f"a number has more than {BITS[kind]} bits")
        return (found >> 1) ^ -(found & 1)

    def _varint(self) -> int:
        found = sign = self._byte()
        if sign < 128:  # most are
            return sign
        found &= 127
        for shift in range(7, 70, 7):
            sign = self._byte()
            found |= (sign & 127) << shift
            if sign < 128:
                return found
        raise ValueError("a number does not end")


def _kind(want: Any) -> int:
    """Return the type of what is wanted."""
    if isinstance(want, int):
        return want
    return LIST if isinstance(want, list) else STRUCT
