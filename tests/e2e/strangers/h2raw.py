"""One HTTP/2 request over mutual TLS, frame by frame, with nothing but Python's own ssl.

`h2raw.py HOST PORT SNI ALPN CERTIFICATE KEY NAME=VALUE..` prints what came back, a line each: `alpn NAME`,
`status CODE`, `field NAME VALUE`, `data TEXT`, `reset CODE`, `goaway CODE`, `closed`, or `tls REASON`. CERTIFICATE
and KEY may be `-`. Fields need the module hpack; without it they are left out. In place of NAME=VALUE.. there may be one
`raw:HEX`: bytes to be sent in place of preface and request.
"""
import socket
import ssl
import struct
import sys

host, port, sni, alpn, certificate, key = sys.argv[1:7]
fields = [argument.split("=", 1) for argument in sys.argv[7:]]


def literal(name, value):
    """A field without indexing and without Huffman's code (RFC 7541 6.2.2)."""

    def text(of):
        of = of.encode()
        assert len(of) < 127
        return bytes([len(of)]) + of

    return b"\x00" + text(name) + text(value)


def frame(kind, flags, stream, payload):
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def digits(data):
    """Three digits in Huffman's code (RFC 7541, appendix B)."""
    bits = "".join(f"{byte:08b}" for byte in data)
    out = ""
    while len(out) < 3:
        if bits[:5] in ("00000", "00001", "00010"):
            out, bits = out + str(int(bits[:5], 2)), bits[5:]
        else:
            out, bits = out + str(int(bits[:6], 2) - 0x19 + 3), bits[6:]
    return out


def status(block):
    """The status, which comes first. A table size update may stand before it."""
    while block[0] & 0xE0 == 0x20:
        block = block[1:]
    if block[0] & 0x80:
        return {8: "200", 9: "204", 10: "206", 11: "304", 12: "400", 13: "404", 14: "500"}[block[0] & 0x7F]
    assert block[0] & 0x0F == 8, block
    length = block[1] & 0x7F
    value = block[2 : 2 + length]
    return digits(value) if block[1] & 0x80 else value.decode()


def show_fields(block):
    try:
        import hpack
    except ImportError:
        return
    for name, value in hpack.Decoder().decode(block):
        print("field", name, value, flush=True)


def main():
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    if certificate != "-":
        context.load_cert_chain(certificate, key)
    if alpn != "-":
        context.set_alpn_protocols([alpn])
    raw = socket.create_connection((host, int(port)), timeout=10)
    try:
        stream = context.wrap_socket(raw, server_hostname=sni)
        print("alpn", stream.selected_alpn_protocol(), flush=True)
        if fields[0][0].startswith("raw:"):
            stream.sendall(bytes.fromhex(fields[0][0][4:]))
        block = b"".join(literal(*field) for field in fields if len(field) == 2)
        connect = [":method", "CONNECT"] in fields
        # END_HEADERS, and END_STREAM unless it is a tunnel.
        if block:
            request = frame(1, 4 if connect else 5, 1, block)
            stream.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4, 0, 0, b"") + request)
        if connect:
            stream.sendall(frame(0, 0, 1, b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"))
        while True:
            head = exactly(stream, 9)
            if not head:
                print("closed")
                return
            length, kind, flags, number = int.from_bytes(head[:3], "big"), head[3], head[4], int.from_bytes(head[5:], "big")
            payload = exactly(stream, length)
            if kind == 4 and not flags & 1:
                stream.sendall(frame(4, 1, 0, b""))
            elif kind == 1 and number == 1:
                print("status", status(payload), flush=True)
                show_fields(payload)
                if flags & 1:
                    return
            elif kind == 0 and number == 1:
                print("data", payload.decode("latin1").replace("\r\n", "|"), flush=True)
                # A tunnel stays open, and one answer is enough.
                if flags & 1 or connect:
                    return
            elif kind == 3:
                print("reset", int.from_bytes(payload[:4], "big"))
                return
            elif kind == 7 and int.from_bytes(payload[4:8], "big"):
                print("goaway", int.from_bytes(payload[4:8], "big"))
                return
    except ssl.SSLError as error:
        print("tls", error.reason)
    except OSError as error:
        print("closed", error)


def exactly(stream, count):
    data = b""
    while len(data) < count:
        more = stream.recv(count - len(data))
        if not more:
            return b""
        data += more
    return data


main()
