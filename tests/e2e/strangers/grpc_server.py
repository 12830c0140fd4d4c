"""A gRPC server of all four kinds: `grpc_server.py PORT`. What it sees goes to standard output, a line each."""
import sys
import threading
import time
from concurrent import futures

import grpc


def say(*words):
    print(*words, flush=True)


def watch(context, name):
    """Says when the call ends before its handler does."""
    done = threading.Event()

    def ended():
        if not done.is_set():
            say("cancelled", name, f"{time.time():.6f}")

    context.add_callback(ended)
    return done


def unary(request, context):
    if request == b"fail":
        context.set_trailing_metadata((("x-why", "asked"),))
        context.abort(grpc.StatusCode.FAILED_PRECONDITION, "as asked: ä%")
    if request == b"slow":
        done = watch(context, "unary")
        time.sleep(5)
        done.set()
    if request == b"peer":
        return context.peer().encode()
    return b"unary " + request


def server_stream(request, context):
    for number in range(int(request)):
        yield b"part %d" % number


def client_stream(requests, context):
    return b"%d bytes" % sum(len(request) for request in requests)


def both(requests, context):
    # Whether it was cancelled cannot be told from here: the requests end either way.
    context.add_callback(lambda: say("ended both", f"{time.time():.6f}"))
    for request in requests:
        yield b"echo " + request


handlers = grpc.method_handlers_generic_handler(
    "test.Kinds",
    {
        "Unary": grpc.unary_unary_rpc_method_handler(unary),
        "ServerStream": grpc.unary_stream_rpc_method_handler(server_stream),
        "ClientStream": grpc.stream_unary_rpc_method_handler(client_stream),
        "Both": grpc.stream_stream_rpc_method_handler(both),
    },
)
server = grpc.server(futures.ThreadPoolExecutor(max_workers=64))
server.add_generic_rpc_handlers((handlers,))
server.add_insecure_port("[::]:" + sys.argv[1])
server.start()
say("ready")
server.wait_for_termination()
