"""Requests that two servers could read differently, so that the second finds another request in the first.

Each ends with what a careless reader would take for a request of its own: answered, it was smuggled past whoever
stands in front.
"""

from __future__ import annotations

MARK = b"smuggled"
SMUGGLED = (
    b"GET /health/live HTTP/1.1\r\nHost: localhost\r\nX-Correlation-ID: "
    + MARK
    + b"\r\nConnection: close\r\n\r\n"
)
_LINE = b"POST /api/v1/routes HTTP/1.1\r\n"
_HOST = b"Host: localhost\r\nContent-Type: application/json\r\n"


def _head(*lines: bytes, line: bytes = _LINE) -> bytes:
    return line + _HOST + b"".join(header + b"\r\n" for header in lines) + b"\r\n"


def _chunked(body: bytes) -> bytes:
    return _head(b"Transfer-Encoding: chunked") + body


_CL, _TE = b"Content-Length: 5", b"Transfer-Encoding: chunked"
_LENGTHS = [
    b"+5", b"-5", b"5x", b"0x5", b"5 5", b"5,5", b"5, 6", b"05;", b"5.0", b"1e1", b"", b"\xb2", b"\xd9\xa5",
    b"5\x00", b"5\x0b", b"99999999999999999999999", b"18446744073709551621", b"five", b"'5'",
]  # fmt: skip
_CODINGS = [
    b"chunked, identity", b"identity, chunked, x", b"xchunked", b"chunkedx", b"chunked;", b"chunked\x00",
    b"chunked\x0b", b"\x0bchunked", b"\"chunked\"", b"x", b"chunked, x", b"chunk", b"chunke\xc4\x91",
    b"identity",
]  # fmt: skip
_NAMES = [
    b"Transfer-Encoding : chunked", b"Transfer-Encoding\t: chunked", b" Transfer-Encoding: chunked",
    b"Transfer-Encoding\x00: chunked", b"Transfer-Encoding\x0b: chunked", b"Transfer Encoding: chunked",
    b"Content-Length : 5", b"Content-Length\t: 5", b" Content-Length: 5", b"Content-Length\x00: 5", b": 5",
    b"Content-Length", b"X: a\x00b", b"X\r: b", b"X: a\rTransfer-Encoding: chunked",
    b"X: a\nTransfer-Encoding: chunked", b"X: a\r\n Transfer-Encoding: chunked",
    b"Transfer-Encoding:\r\n chunked", b"Content-Length:\r\n 5", b"(X): a", b"X[]: a",
]  # fmt: skip
_CHUNKS = [
    b"+5", b"-5", b"0x5", b"5 5", b" 5", b"\t5", b"5x", b"x", b"", b"5;\n", b"5;a\nb", b"5\n", b"5\r",
    b"5;a\x00", b"G", b"FFFFFFFFFFFFFFFFF", b"10000000000000005",
]  # fmt: skip
_LINES = [
    b"POST\t/api/v1/routes\tHTTP/1.1\r\n", b"POST /api/v1/routes\r\n", b"POST /api/v1/routes HTTP/1.1 x\r\n",
    b"POST /api/v1/routes HTTP/1.10\r\n", b"POST /api/v1/routes HTTP/0.9\r\n",
    b"POST /api/v1/routes HTTP/2.0\r\n", b"POST /api/v1/routes HTTP/11\r\n",
    b"POST /api/v1/routes HTTP /1.1\r\n", b"POST /api/v1/routes FTP/1.1\r\n", b"POST /a b HTTP/1.1\r\n",
    b"POST /a\x00 HTTP/1.1\r\n", b" POST / HTTP/1.1\r\n", b"P\x00ST / HTTP/1.1\r\n", b"post / HTTP/1.1\r\n",
    b"PO ST / HTTP/1.1\r\n", b"PRI * HTTP/2.0\r\n", b"\x16\x03\x01\x02\r\n",
    b"POST /api/v1/routes HTTP/1.1\rX: a\r\n", b"TRACK / HTTP/1.1\r\n", b"{}\r\n",
    b"POST /api/v1/routes HTTP/1.1\n",
]  # fmt: skip
_BODY = b"0\r\n\r\n"

# Each must be refused, alone, and end the connection.
CORPUS: dict[str, bytes] = {
    "length and coding": _head(_CL, _TE) + _BODY,
    "coding and length": _head(_TE, _CL) + _BODY,
    "length and broken coding": _head(_CL, b"Transfer-Encoding: xchunked") + _BODY,
    "two lengths": _head(_CL, b"Content-Length: 6") + _BODY,
    "two lengths, the longer first": _head(b"Content-Length: 6", _CL) + _BODY,
    "length 0 and another": _head(b"Content-Length: 0", _CL) + _BODY,
    "chunked, then identity": _head(_TE, b"Transfer-Encoding: identity") + _BODY,
    "body after the chunk": _chunked(b"1\r\naa\r\n0\r\n\r\n"),
    "chunk without its end": _chunked(b"1\r\na0\r\n\r\n"),
    "trailer that is none": _chunked(b"0\r\nno colon\r\n\r\n"),
    "last chunk by bare LF": _chunked(b"0\n\n"),
    "all by bare LF": _head(_CL).replace(b"\r\n", b"\n") + _BODY,
    "all by bare CR": _head(_CL).replace(b"\r\n", b"\r") + _BODY,
    "head ended by bare LF": _head(_CL)[:-2] + b"\n" + _BODY,
    **{f"length {value!r}": _head(b"Content-Length: " + value) + _BODY for value in _LENGTHS},
    **{f"coding {value!r}": _head(b"Transfer-Encoding: " + value) + _BODY for value in _CODINGS},
    **{f"header {value!r}": _head(value) + _BODY for value in _NAMES},
    **{f"chunk {value!r}": _chunked(value + b"\r\nhello\r\n0\r\n\r\n") for value in _CHUNKS},
    **{f"line {value!r}": _head(_CL, line=value) + _BODY for value in _LINES},
}  # fmt: skip
