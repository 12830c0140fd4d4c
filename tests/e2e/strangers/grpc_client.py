"""Calls grpc_server.py in all four kinds: `grpc_client.py TARGET CASE`. Exits 0 when all was as it should be."""
import sys
import time

import grpc

target, case = sys.argv[1], sys.argv[2]
channel = grpc.insecure_channel(target)
unary = channel.unary_unary("/test.Kinds/Unary")
server_stream = channel.unary_stream("/test.Kinds/ServerStream")
client_stream = channel.stream_unary("/test.Kinds/ClientStream")
both = channel.stream_stream("/test.Kinds/Both")


def ready():
    """Until the first call goes through: names and proxies may be new."""
    end = time.time() + 15
    while True:
        try:
            return unary(b"hello", timeout=5)
        except grpc.RpcError as error:
            if time.time() > end:
                raise
            time.sleep(0.05)


def kinds():
    for _ in range(20):
        assert unary(b"x") == b"unary x"
        assert list(server_stream(b"50")) == [b"part %d" % n for n in range(50)]
        assert client_stream(iter([b"a" * 1000] * 30)) == b"30000 bytes"
        assert list(both(iter([b"%d" % n for n in range(30)]))) == [b"echo %d" % n for n in range(30)]
    # Strictly one after the other: nothing on the way waits for more.
    import queue

    waiting = queue.Queue()
    call = both(iter(waiting.get, None))
    for number in range(20):
        waiting.put(b"%d" % number)
        assert next(call) == b"echo %d" % number
    waiting.put(None)
    assert list(call) == []


def failure():
    try:
        unary(b"fail")
        raise AssertionError("it did not fail")
    except grpc.RpcError as error:
        assert error.code() == grpc.StatusCode.FAILED_PRECONDITION, error
        assert error.details() == "as asked: ä%", error.details()
        assert ("x-why", "asked") in error.trailing_metadata(), error.trailing_metadata()
    try:
        channel.unary_unary("/test.Kinds/Absent")(b"")
        raise AssertionError("it did not fail")
    except grpc.RpcError as error:
        assert error.code() == grpc.StatusCode.UNIMPLEMENTED, error


def deadline():
    begun = time.time()
    try:
        unary(b"slow", timeout=0.5)
        raise AssertionError("it did not end")
    except grpc.RpcError as error:
        assert error.code() == grpc.StatusCode.DEADLINE_EXCEEDED, error
    assert time.time() - begun < 2, time.time() - begun


def cancel():
    """Prints when each of 20 calls was cancelled; the server prints when it saw that."""
    import queue

    for _ in range(20):
        waiting = queue.Queue()
        call = both(iter(waiting.get, None))
        waiting.put(b"first")
        assert next(call) == b"echo first"
        print("cancel", f"{time.time():.6f}", flush=True)
        call.cancel()
        waiting.put(None)
        time.sleep(0.12)


def refused():
    """Prints the status of one call."""
    try:
        print("ok", unary(b"x", timeout=5).decode())
    except grpc.RpcError as error:
        print(error.code().name, error.details())


def stream():
    """A stream that lives until somebody ends it; prints each echo, then how it ended."""
    import queue

    waiting = queue.Queue()
    call = both(iter(waiting.get, None))
    try:
        while True:
            waiting.put(b"x")
            next(call)
            print("echo", flush=True)
            time.sleep(0.05)
    except grpc.RpcError as error:
        print("ended", error.code().name, error.details(), flush=True)
    waiting.put(None)


if case != "refused":
    ready()
{"kinds": kinds, "failure": failure, "deadline": deadline, "cancel": cancel, "refused": refused, "stream": stream}[case]()
