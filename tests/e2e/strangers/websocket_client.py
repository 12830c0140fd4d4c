"""Talks to websocket_server.py: `websocket_client.py URL CASE`. Exits 0 when all was as it should be."""
import asyncio
import sys
import time

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

url, case = sys.argv[1], sys.argv[2]


async def open_socket():
    end = time.time() + 15
    while True:
        try:
            return await connect(url, max_size=None, ping_interval=None)
        except Exception as error:
            if time.time() > end:
                raise
            await asyncio.sleep(0.05)


async def echo():
    async with await open_socket() as socket:
        for message in ["text", "ä" * 1000, b"bytes", b"x" * 3_000_000, ""]:
            await socket.send(message)
            assert await socket.recv() == message
        pong = await socket.ping()
        await asyncio.wait_for(pong, 5)
    assert socket.close_code == 1000, socket.close_code


async def stream():
    """Numbers each frame until the connection ends, and says when one is missing."""
    socket = await open_socket()
    number = 0
    try:
        while True:
            await socket.send(str(number))
            answer = await socket.recv()
            assert answer == str(number), (answer, number)
            number += 1
            if number % 10 == 1:
                print("frames", number, flush=True)
            await asyncio.sleep(0.01)
    except ConnectionClosed as error:
        print("ended", number, error.rcvd, flush=True)


asyncio.run({"echo": echo, "stream": stream}[case]())
