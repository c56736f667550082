"""What benches/pool.rs measures, with Python's multiprocessing.Pool: the same words, one figure a run."""

import multiprocessing
import statistics
import sys
import time

WORKERS = 2


def square(n):
    return n * n


def compute(rounds):
    total = 1
    for n in range(rounds):
        total = (total * 6364136223846793005 + n) & 0xFFFFFFFFFFFFFFFF
    return total


def main(what, count):
    with multiprocessing.Pool(WORKERS) as pool:
        pool.map(square, range(1000))
        since = time.perf_counter()
        if what == "map":
            pool.map(square, range(count))
            print(count / (time.perf_counter() - since))
        elif what == "map-one":
            pool.map(square, range(count), chunksize=1)
            print(count / (time.perf_counter() - since))
        elif what == "apply":
            times = []
            for n in range(count):
                since = time.perf_counter()
                pool.apply(square, (n,))
                times.append(time.perf_counter() - since)
            print(statistics.median(times) * 1e6)
        elif what == "uneven":
            rounds = [20_000 * (1 + (n * 7 + 3) % 16) for n in range(count)]
            serial = [compute(n) for n in rounds]
            serially = time.perf_counter() - since
            since = time.perf_counter()
            assert pool.map(compute, rounds) == serial
            print((time.perf_counter() - since) / (serially / WORKERS))


main(sys.argv[1], int(sys.argv[2]))
