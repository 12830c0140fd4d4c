"""One new connection to port 15008 after the other, each with mutual TLS and one request over HTTP/2.

`connections.py HOST PORT SNI CERTIFICATE KEY TO` asks for TO, an address and port, until it is told to end (SIGTERM). Then it
prints `good COUNT`, and before that a line for each connection that did not bring status 200.
"""
import signal
import socket
import ssl
import struct
import sys
import threading

host, port, sni, certificate, key, to = sys.argv[1:7]
over = threading.Event()


def literal(name, value):
    """A field without indexing and without Huffman's code (RFC 7541 6.2.2)."""
    name, value = name.encode(), value.encode()
    return bytes([0, len(name)]) + name + bytes([len(value)]) + value


def frame(kind, flags, stream, payload):
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


FIELDS = [(":method", "GET"), (":scheme", "https"), (":path", "/"), (":authority", "web"), ("x-leno-to", f"1 {to} - a")]
REQUEST = (
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    + frame(4, 0, 0, b"")
    + frame(1, 5, 1, b"".join(literal(*field) for field in FIELDS))
)


def exactly(stream, count):
    data = b""
    while len(data) < count:
        more = stream.recv(count - len(data))
        if not more:
            raise OSError("the end came first")
        data += more
    return data


def once(context):
    raw = socket.create_connection((host, int(port)), timeout=10)
    with context.wrap_socket(raw, server_hostname=sni) as stream:
        stream.sendall(REQUEST)
        while True:
            head = exactly(stream, 9)
            payload = exactly(stream, int.from_bytes(head[:3], "big"))
            kind, number = head[3], int.from_bytes(head[5:], "big")
            if kind == 1 and number == 1:
                # A table size update may stand before the status; 200 has an index of its own (RFC 7541, appendix A).
                while payload[0] & 0xE0 == 0x20:
                    payload = payload[1:]
                return payload[0] == 0x88 or f"another status: {payload[:8].hex()}"
            if kind == 3 or (kind == 7 and int.from_bytes(payload[4:8], "big")):
                return f"frame {kind}: {payload.hex()}"


def work(tally):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_cert_chain(certificate, key)
    context.set_alpn_protocols(["leno/1"])
    while not over.is_set():
        try:
            tally.append(once(context))
        except OSError as error:
            tally.append(repr(error))


def main():
    signal.signal(signal.SIGTERM, lambda *_: over.set())
    tally = []
    threads = [threading.Thread(target=work, args=(tally,)) for _ in range(3)]
    for thread in threads:
        thread.start()
    print("began", flush=True)
    over.wait()
    for thread in threads:
        thread.join()
    for bad in tally:
        if bad is not True:
            print(bad)
    print("good", tally.count(True), flush=True)


main()
