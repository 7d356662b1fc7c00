"""The routes of a complete mirror, packed: about 90 bytes a route where a dictionary takes 270 and more.

Records lie one after another in chunks of bytes and are found by open addressing, in segments of plain numbers.
Reading one touches no reference count beside it, so what a process loaded before it forked stays shared with its
children. No step takes long: growing rehashes one small segment, and room is reclaimed one small chunk at a time.
"""

from __future__ import annotations

from array import array
from collections.abc import ItemsView, Iterable, Iterator, MutableMapping
from struct import Struct

from traffic_manager.routing.ports import Entry

# An offset is the number of a chunk and a place in it, in 32 bits: room for 4 GiB.
_PLACE_BITS = 17
_PLACE_MASK = (1 << _PLACE_BITS) - 1
# Fixed, and each grows for itself: of a million routes each has a thousand, which take a millisecond.
_SEGMENT_BITS = 10
_SEGMENTS = 1 << _SEGMENT_BITS
_SEGMENT_MASK = _SEGMENTS - 1
_LEAST_SLOTS = 8
# Revision and length of the URL. Then key, _END and URL; offsets point to the key, so that 0 is none.
_HEADER = Struct("<QI")
_HEADER_BYTES = _HEADER.size
# A byte that no UTF-8 text holds: with it no key is the beginning of another.
_END = b"\xff"
# A portion is over after so much work: to look at an entry is one, to read it ten.
_PORTION_WORK = 4000
_FOUND_WORK = 10
# So much of the room may be waste, records no longer in force, before some of it is reclaimed.
_WASTE_SHARE = 0.25


class RouteTable(MutableMapping[str, Entry]):
    """Entries by the text of their keys, in no particular order; room for *expected* from the start. For one
    thread. The hash is Python's own of bytes: its seed is secret, random and the same in forked processes."""

    def __init__(self, expected: int = 0) -> None:
        self._chunks = [bytearray()]
        self._open = 0  # the chunk that takes new records
        self._empty: list[int] = []  # chunks that were reclaimed
        self._waste = [0]  # bytes of waste, by chunk
        self._wasted_bytes = 0
        self._used_bytes = 0
        slots = _LEAST_SLOTS
        while slots * _SEGMENTS < 2 * expected:
            slots *= 2
        self._segments = [_empty_segment(slots) for _ in range(_SEGMENTS)]
        self._counts = [0] * _SEGMENTS
        self._size = 0
        self._popped_from = 0  # the segment that popitem is emptying

    def get(self, key: str, default: None = None) -> Entry | None:  # type: ignore[override] # on the hot path
        """Return the entry of *key*, None if there is none."""
        probe = key.encode() + _END
        hashed = hash(probe)
        segment = self._segments[hashed & _SEGMENT_MASK]
        mask = len(segment) - 1
        slot = hashed >> _SEGMENT_BITS & mask
        while offset := segment[slot]:
            chunk = self._chunks[offset >> _PLACE_BITS]
            place = offset & _PLACE_MASK
            if chunk.startswith(probe, place):
                revision, url_bytes = _HEADER.unpack_from(chunk, place - _HEADER_BYTES)
                place += len(probe)
                return Entry(chunk[place : place + url_bytes].decode(), revision)
            slot = slot + 1 & mask
        return None

    def __getitem__(self, key: str) -> Entry:
        entry = self.get(key)
        if entry is None:
            raise KeyError(key)
        return entry

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and self.get(key) is not None

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[str]:
        for chunk, place in self._records():
            yield chunk[place : chunk.index(_END, place)].decode()

    def items(self) -> ItemsView[str, Entry]:
        """Return keys with their entries, each record read once."""
        return _Items(self)

    def popitem(self) -> tuple[str, Entry]:
        """Remove some route and return it. Raises KeyError if there is none."""
        if not self._size:
            raise KeyError("the table is empty")
        while not self._counts[self._popped_from]:
            self._popped_from = (self._popped_from + 1) & _SEGMENT_MASK
        offset = next(filter(None, self._segments[self._popped_from]))
        chunk, place = self._chunks[offset >> _PLACE_BITS], offset & _PLACE_MASK
        key = chunk[place : chunk.index(_END, place)].decode()
        return key, self.pop(key)

    def __setitem__(self, key: str, entry: Entry) -> None:
        probe = key.encode() + _END
        number, slot = self._find(probe)
        segment = self._segments[number]
        replaced = segment[slot]
        text = entry.url.encode()
        if replaced and self._overwrite(replaced, len(probe), entry.revision, text):
            return
        segment[slot] = self._append(_HEADER.pack(entry.revision, len(text)) + probe + text)
        if replaced:
            self._throw_away(replaced)
            return
        self._counts[number] += 1
        self._size += 1
        if self._counts[number] * 3 > len(segment) * 2:
            self._grow(number)

    def __delitem__(self, key: str) -> None:
        number, slot = self._find(key.encode() + _END)
        offset = self._segments[number][slot]
        if not offset:
            raise KeyError(key)
        self._close_gap(number, slot)
        self._counts[number] -= 1
        self._size -= 1
        self._throw_away(offset)

    def load(self, rows: Iterable[tuple[str, str, int]]) -> None:
        """Add routes that are not here yet: key, URL and revision of each. All in one loop, which takes 0.9 s for
        a million and not 1.3."""
        segments, counts, pack = self._segments, self._counts, _HEADER.pack
        chunk, place = self._room()
        for key, url, revision in rows:
            probe, text = key.encode() + _END, url.encode()
            if place > _PLACE_MASK:
                chunk, place = self._room()
            hashed = hash(probe)
            number = hashed & _SEGMENT_MASK
            segment = segments[number]
            mask = len(segment) - 1
            slot = hashed >> _SEGMENT_BITS & mask
            while segment[slot]:
                slot = slot + 1 & mask
            segment[slot] = self._open << _PLACE_BITS | place
            counts[number] += 1
            chunk += pack(revision, len(text)) + probe + text
            place = len(chunk) + _HEADER_BYTES
            if counts[number] * 3 > mask * 2:
                self._grow(number)
        self._recount()

    def _find(self, probe: bytes) -> tuple[int, int]:
        """Return the segment of a key, and its slot there or the empty one for it."""
        hashed = hash(probe)
        number = hashed & _SEGMENT_MASK
        segment = self._segments[number]
        mask = len(segment) - 1
        slot = hashed >> _SEGMENT_BITS & mask
        while offset := segment[slot]:
            if self._chunks[offset >> _PLACE_BITS].startswith(probe, offset & _PLACE_MASK):
                break
            slot = slot + 1 & mask
        return number, slot

    def _overwrite(self, offset: int, probe_bytes: int, revision: int, text: bytes) -> bool:
        """Put a URL, as *text*, in the place of the record at *offset*, if that one is as long."""
        chunk, place = self._chunks[offset >> _PLACE_BITS], offset & _PLACE_MASK
        if _HEADER.unpack_from(chunk, place - _HEADER_BYTES)[1] != len(text):
            return False
        _HEADER.pack_into(chunk, place - _HEADER_BYTES, revision, len(text))
        place += probe_bytes
        chunk[place : place + len(text)] = text
        return True

    def _append(self, record: bytes) -> int:
        """Store *record* and return its offset."""
        chunk, place = self._room()
        chunk += record
        self._used_bytes += len(record)
        return self._open << _PLACE_BITS | place

    def _room(self) -> tuple[bytearray, int]:
        """Return the open chunk, another if it is full, and the place of the next record in it."""
        chunk = self._chunks[self._open]
        if len(chunk) + _HEADER_BYTES <= _PLACE_MASK:
            return chunk, len(chunk) + _HEADER_BYTES
        if self._empty:
            self._open = self._empty.pop()
        else:
            self._open = len(self._chunks)
            self._chunks.append(bytearray())
            self._waste.append(0)
        return self._chunks[self._open], _HEADER_BYTES

    def _recount(self) -> None:
        self._size = sum(self._counts)
        self._used_bytes = sum(map(len, self._chunks))

    def _grow(self, number: int) -> None:
        """Give a segment twice its slots."""
        segment = self._segments[number]
        larger = self._segments[number] = _empty_segment(2 * len(segment))
        mask = len(larger) - 1
        for offset in filter(None, segment):
            slot = self._home(offset) & mask
            while larger[slot]:
                slot = slot + 1 & mask
            larger[slot] = offset

    def _home(self, offset: int) -> int:
        """Return where the search for the record at *offset* begins, to be masked."""
        chunk = self._chunks[offset >> _PLACE_BITS]
        place = offset & _PLACE_MASK
        return hash(bytes(chunk[place : chunk.index(_END, place) + 1])) >> _SEGMENT_BITS

    def _close_gap(self, number: int, gap: int) -> None:
        """Empty a slot. Those behind it that were only there because it was taken move up, else a search for
        them would end at the gap (Knuth, volume 3, 6.4, algorithm R)."""
        segment = self._segments[number]
        mask = len(segment) - 1
        slot = gap + 1 & mask
        while offset := segment[slot]:
            if slot - self._home(offset) & mask >= slot - gap & mask:
                segment[gap] = offset
                gap = slot
            slot = slot + 1 & mask
        segment[gap] = 0

    def _throw_away(self, offset: int) -> None:
        """Count the record at *offset* as waste, and reclaim a chunk if there is too much of it."""
        number = offset >> _PLACE_BITS
        place = offset & _PLACE_MASK
        size = _end_of(self._chunks[number], place) - place + _HEADER_BYTES
        self._waste[number] += size
        self._wasted_bytes += size
        if self._wasted_bytes > self._used_bytes * _WASTE_SHARE:
            worst = max(range(len(self._waste)), key=self._waste.__getitem__)
            # While most of the waste is in the open chunk, the others are not worth it.
            if worst != self._open and self._waste[worst] > len(self._chunks[worst]) * _WASTE_SHARE:
                self._reclaim(worst)

    def _reclaim(self, number: int) -> None:
        """Move what is in force out of a chunk, and empty it."""
        chunk = self._chunks[number]
        place = _HEADER_BYTES
        while place < len(chunk):
            end = _end_of(chunk, place)
            probe = bytes(chunk[place : chunk.index(_END, place) + 1])
            segment_number, slot = self._find(probe)
            segment = self._segments[segment_number]
            if segment[slot] == number << _PLACE_BITS | place:
                segment[slot] = self._append(bytes(chunk[place - _HEADER_BYTES : end]))
            place = end + _HEADER_BYTES
        self._used_bytes -= len(chunk)
        self._wasted_bytes -= self._waste[number]
        self._waste[number] = 0
        self._chunks[number] = bytearray()
        self._empty.append(number)

    def portions(self, prefix: str = "") -> Iterator[list[tuple[str, Entry]]]:
        """Yield the entries whose keys begin with *prefix*, in portions that take about a millisecond each. Entries
        may come, change and go between two portions: one that stays as it is is there exactly once."""
        portion: list[tuple[str, Entry]] = []
        start, work = prefix.encode(), 0
        for segment in self._segments:  # a key never leaves its segment
            offsets = [offset for offset in segment if offset]
            places = [(self._chunks[offset >> _PLACE_BITS], offset & _PLACE_MASK) for offset in offsets]
            found = [self._entry_at(*place) for place in places if place[0].startswith(start, place[1])]
            portion += found
            work += len(offsets) + _FOUND_WORK * len(found)
            if work >= _PORTION_WORK:
                yield portion
                portion, work = [], 0
        yield portion

    def _entry_at(self, chunk: bytearray, place: int) -> tuple[str, Entry]:
        key, _, url = chunk[place : _end_of(chunk, place)].partition(_END)
        return key.decode(), Entry(url.decode(), _HEADER.unpack_from(chunk, place - _HEADER_BYTES)[0])

    def _records(self) -> Iterator[tuple[bytearray, int]]:
        """Yield the chunk and place of every record in force."""
        for segment in self._segments:
            for offset in filter(None, segment):
                yield self._chunks[offset >> _PLACE_BITS], offset & _PLACE_MASK


class _Items(ItemsView[str, Entry]):
    _mapping: RouteTable

    def __iter__(self) -> Iterator[tuple[str, Entry]]:
        for chunk, place in self._mapping._records():
            key, _, url = chunk[place : _end_of(chunk, place)].partition(_END)
            yield key.decode(), Entry(url.decode(), _HEADER.unpack_from(chunk, place - _HEADER_BYTES)[0])


def _end_of(chunk: bytearray, place: int) -> int:
    """Return where the record at *place* ends."""
    url_bytes: int = _HEADER.unpack_from(chunk, place - _HEADER_BYTES)[1]
    return chunk.index(_END, place) + 1 + url_bytes


def _empty_segment(slots: int) -> array[int]:
    return array("I", bytes(4 * slots))
