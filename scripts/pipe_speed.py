#!/usr/bin/env python3
"""The figures of examples/pipe_speed.rs for Python's multiprocessing.Pipe: the same messages, the same way."""

import statistics
import sys
import time
from multiprocessing import Pipe, Process

SCALE = 10 if sys.argv[1:] == ["quick"] else 1


def echo(connection):
    buffer = bytearray(64)
    while size := connection.recv_bytes_into(buffer):
        connection.send_bytes(buffer, 0, size)


def count(connection, values):
    connection.send(sum(connection.recv() for _ in range(values)))


def drain(connection, size, messages):
    buffer = bytearray(size)
    for _ in range(messages):
        connection.recv_bytes_into(buffer)
    connection.send(messages)


def start(target, *args):
    here, there = Pipe()
    process = Process(target=target, args=(there, *args))
    process.start()
    there.close()
    here.poll(0.05)
    return here, process


def main():
    here, process = start(echo)
    message, buffer, times = bytes([7] * 64), bytearray(64), []
    for _ in range(20_000 // SCALE):
        since = time.perf_counter()
        here.send_bytes(message)
        here.recv_bytes_into(buffer)
        times.append(time.perf_counter() - since)
    # The forked child has this end as well, so closing it would not end it.
    here.send_bytes(b"")
    process.join()
    print(f"round trip of 64 bytes: {statistics.median(times) * 1e6:.1f} µs")

    values = 1_000_000 // SCALE
    here, process = start(count, values)
    since = time.perf_counter()
    for value in range(values):
        here.send(value)
    here.recv()
    print(f"values: {values / (time.perf_counter() - since) / 1e6:.2f} M/s")
    process.join()

    for size, messages in ((1 << 20, 2_000), (64 << 20, 50)):
        messages = max(messages // SCALE, 3)
        here, process = start(drain, size, messages)
        buffer = bytes([7]) * size
        since = time.perf_counter()
        for _ in range(messages):
            here.send_bytes(buffer)
        here.recv()
        total = size * messages
        print(f"messages of {size >> 20} MiB: {total / (time.perf_counter() - since) / 1e9:.2f} GB/s")
        process.join()


if __name__ == "__main__":
    main()
