"""Inputs of one connection, of which 14 ended a process that ran Hypercorn 0.18.0's trio server.

Each is a tuple of pieces; whoever sends it waits for some answer after the first. Sizes are scaled
to this project's limits. The same pauses as in the study are not needed: HTTP/2 is refused at its
first line, and a WebSocket's answer to its handshake is what its frames wait for.
"""

import struct

import hpack

Pieces = tuple[bytes, ...]
Pairs = list[tuple[str | bytes, str | bytes]]

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
HANDSHAKE = (
    b"GET /ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
)
_GET: Pairs = [(":method", "GET"), (":scheme", "http"), (":authority", "x"), (":path", "/")]
_POST: Pairs = [(":method", "POST"), *_GET[1:3]]
_DEFLATE = b"Sec-WebSocket-Extensions: permessage-deflate\r\n"


def websocket_frame(opcode: int, payload: bytes, *, is_final: bool = True, rsv: int = 0) -> bytes:
    """Make a client's frame, masked with zeros."""
    size = len(payload)
    head = bytes([is_final << 7 | rsv << 4 | opcode])
    if size < 126:
        head += bytes([0x80 | size])
    elif size < 65536:
        head += bytes([0x80 | 126]) + struct.pack(">H", size)
    else:
        head += bytes([0x80 | 127]) + struct.pack(">Q", size)
    return head + bytes(4) + payload


def _frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    size = struct.pack(">I", len(payload))[1:]
    return size + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def _headers(pairs: Pairs, *, is_end: bool = True) -> bytes:
    return _frame(1, 4 | is_end, 1, hpack.Encoder().encode(pairs))


def _h2(*frames: bytes) -> Pieces:
    return (PREFACE + _frame(4, 0, 0), b"".join(frames))


def _websocket(*frames: bytes, extra: bytes = b"") -> Pieces:
    return (HANDSHAKE + extra + b"\r\n", b"".join(frames))


def _upgrade(settings: bytes) -> Pieces:
    return (
        b"GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"
        + settings
        + b"\r\n",
    )


def _get(target: bytes, host: bytes = b"x") -> Pieces:
    return (b"GET " + target + b" HTTP/1.1\r\nHost: " + host + b"\r\n\r\n",)


def _priority(stream: int, depends_on: int) -> bytes:
    return _frame(2, 0, stream, struct.pack(">IB", depends_on, 15))


_RESET = _frame(3, 0, 1, b"\0\0\0\x08")
_TOO_LARGE = websocket_frame(2, b"x" * (2 << 20))

KILLERS: dict[str, Pieces] = {
    "h1 websocket extensions not ASCII": (HANDSHAKE + b"Sec-WebSocket-Extensions: \xff\r\n\r\n",),
    "h1 websocket protocol not ASCII": (HANDSHAKE + b"Sec-WebSocket-Protocol: \xe9\r\n\r\n",),
    "h1 websocket connection not ASCII": (
        HANDSHAKE.replace(b"Connection: Upgrade", b"Connection: Upgrade, \xff") + b"\r\n",
    ),
    "h1 websocket bad deflate parameter": (
        HANDSHAKE
        + b"Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits=abc\r\n\r\n",
    ),
    "h1 upgrade to h2c, bad base64": _upgrade(b"HTTP2-Settings: a\r\n"),
    "h1 upgrade to h2c, bad length": _upgrade(b"HTTP2-Settings: AAAA\r\n"),
    "h1 upgrade to h2c, no settings": _upgrade(b""),
    "h1 upgrade to h2c, good settings": _upgrade(b"HTTP2-Settings: AAMAAABkAAQAAP__\r\n"),
    "h1 target not ASCII": _get(b"/\xff"),
    "h1 host not ASCII": _get(b"/", b"\xff"),
    "h1 target of invalid UTF-8": _get(b"/%ff%fe%00"),
    "h1 OPTIONS *": (b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n",),
    "h1 CONNECT": (b"CONNECT x:1 HTTP/1.1\r\nHost: x\r\n\r\n",),
    "h1 target ?": _get(b"?"),
    "h1 absolute target without path": _get(b"http://x"),
    "h1 absolute target of bad IPv6": _get(b"http://["),
    "h1 TLS ClientHello": (bytes.fromhex("16030100c8010000c40303") + bytes(range(192, 256)),),
    "h2 path not ASCII": _h2(_headers([*_GET[:3], (":path", b"/\xff")])),
    "h2 method not ASCII": _h2(_headers([(":method", b"G\xff"), *_GET[1:]])),
    "h2 path empty": _h2(_headers([*_GET[:3], (":path", "")])),
    "h2 CONNECT without path": _h2(_headers([(":method", "CONNECT"), (":authority", "x:1")])),
    "h2 CONNECT to a websocket, extension not ASCII": _h2(
        _headers(
            [
                (":method", "CONNECT"),
                (":protocol", "websocket"),
                *_GET[1:3],
                (":path", "/ws"),
                ("sec-websocket-version", "13"),
                ("sec-websocket-extensions", b"\xff"),
            ],
            is_end=False,
        )
    ),
    "h2 data after a 404": _h2(
        _headers([*_POST, (":path", "/nope")], is_end=False),
        _frame(0, 0, 1, b"x" * 100),
        _frame(0, 1, 1, b"y"),
    ),
    "h2 data after an early answer": _h2(
        _headers([*_POST, (":path", "/drop")], is_end=False), _frame(0, 0, 1, b"x" * 100)
    ),
    "h2 1100 priorities": _h2(*[_priority(2 * number + 1, 0) for number in range(1, 1101)]),
    "h2 priority on itself": _h2(_priority(3, 3)),
    "h2 priority on unknown": _h2(_priority(3, 99)),
    "h2 priority in a circle": _h2(_priority(3, 5), _priority(5, 3), _priority(3, 0x80000005)),
    "h2 headers after goaway": _h2(_frame(7, 0, 0, bytes(8)), _headers(_GET)),
    "h2 two resets": _h2(_headers(_GET), _RESET, _RESET),
    "h2 data after reset": _h2(
        _headers([*_POST, (":path", "/echo")], is_end=False), _RESET, _frame(0, 0, 1, b"x")
    ),
    "h2 window overflow": _h2(
        _headers(_GET),
        _frame(4, 0, 0, struct.pack(">HI", 4, 0x7FFFFFFF)),
        _frame(8, 0, 0, struct.pack(">I", 0x7FFFFFFF)),
    ),
    "h2 window of zero": _h2(_frame(4, 0, 0, struct.pack(">HI", 4, 0)), _headers(_GET)),
    "h2 bad frame size": _h2(_frame(4, 0, 0, struct.pack(">HI", 5, 1))),
    "h2 trailers": _h2(
        _headers([*_POST, (":path", "/echo")], is_end=False),
        _frame(0, 0, 1, b"x"),
        _frame(1, 5, 1, hpack.Encoder().encode([("a", "b")])),
    ),
    "h2 unknown frame": _h2(_frame(0xBB, 0xFF, 1, b"zzz")),
    "h2 push from a client": _h2(
        _frame(5, 4, 1, struct.pack(">I", 2) + hpack.Encoder().encode(_GET))
    ),
    "h2 alternative service": _h2(_frame(10, 0, 0, b"\0\x01xabc")),
    "h2 length mismatch": _h2(
        _headers([*_POST, (":path", "/echo"), ("content-length", "5")], is_end=False),
        _frame(0, 1, 1, b"xx"),
    ),
    "h2 length not a number": _h2(
        _headers([*_POST, (":path", "/echo"), ("content-length", "abc")], is_end=False),
        _frame(0, 1, 1, b"xx"),
    ),
    "h2 connection header": _h2(_headers([*_GET, ("connection", "close")])),
    "h2 header name not ASCII": _h2(_headers([*_GET, (b"x\xff", b"\xff\xfe")])),
    "h2 line break in a value": _h2(_headers([*_GET, (b"x-a", b"a\r\nb: c")])),
    "h2 NUL in a value": _h2(_headers([*_GET, (b"x-a", b"a\0b")])),
    "h2 empty header name": _h2(_headers([*_GET, (b"", b"x")])),
    "websocket message after close": _websocket(
        websocket_frame(8, b"\x03\xe8") + websocket_frame(1, b"hi")
    ),
    "websocket invalid UTF-8": _websocket(websocket_frame(1, b"\xff\xfe")),
    "websocket unmasked": _websocket(b"\x81\x02hi"),
    "websocket long ping": _websocket(websocket_frame(9, b"x" * 200)),
    "websocket reserved opcode": _websocket(websocket_frame(3, b"x")),
    "websocket close code 1": _websocket(websocket_frame(8, b"\x00\x01")),
    "websocket close of one byte": _websocket(websocket_frame(8, b"\x03")),
    "websocket too large": _websocket(_TOO_LARGE),
    "websocket too large, then more": _websocket(_TOO_LARGE, websocket_frame(1, b"hi") * 5),
    "websocket bad deflated data": _websocket(
        websocket_frame(1, b"\xff\xff\xff\xff", rsv=4), extra=_DEFLATE
    ),
    "websocket deflated control": _websocket(websocket_frame(9, b"x", rsv=4), extra=_DEFLATE),
    "websocket deflated continuation": _websocket(
        websocket_frame(1, b"x", is_final=False), websocket_frame(0, b"x", rsv=4), extra=_DEFLATE
    ),
    "websocket empty text": _websocket(websocket_frame(1, b"")),
    "websocket empty binary": _websocket(websocket_frame(2, b"")),
    "websocket data with the handshake": (HANDSHAKE + b"\r\n" + websocket_frame(1, b"early"),),
    "websocket without key": (
        HANDSHAKE.replace(b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n", b"") + b"\r\n",
    ),
    "websocket version 8": (HANDSHAKE.replace(b"13", b"8") + b"\r\n",),
    "websocket to a route of HTTP": (HANDSHAKE.replace(b"/ws", b"/") + b"\r\n",),
    "websocket to nowhere": (HANDSHAKE.replace(b"/ws", b"/nope") + b"\r\n",),
    "websocket over HTTP/1.0": (HANDSHAKE.replace(b"HTTP/1.1", b"HTTP/1.0") + b"\r\n",),
    "websocket by POST": (HANDSHAKE.replace(b"GET", b"POST") + b"Content-Length: 0\r\n\r\n",),
    "websocket with a body": (HANDSHAKE + b"Content-Length: 5\r\n\r\nhello",),
}
