#!/usr/bin/env python3
"""Makes the series of gaps beside this file: python3 make.py

Each is 2,000 gaps between the heartbeats of one living sender, in milliseconds, a line each. A sender means to beat every
3,750 ms, a quarter of the default ttl, unless the first line says otherwise. Seeded: the same files every time.
"""

import random
from pathlib import Path

COUNT = 2_000
INTERVAL = 3_750


def timer(rng, mean=INTERVAL):
    """What an idle machine and its network make of a timer."""
    return rng.gauss(mean, 20)


def regular(rng):
    """timer and network: normal, 3750 ms, deviation 20 ms"""
    while True:
        yield timer(rng)


def jittery(rng):
    """a busy machine: normal, 3750 ms, deviation 900 ms"""
    while True:
        yield rng.gauss(INTERVAL, 900)


def heavy_tailed(rng):
    """a network that stalls: 3690 ms and Pareto, scale 60 ms, index 1.2"""
    while True:
        yield INTERVAL - 60 + 60 * rng.paretovariate(1.2)


def gc_pauses(rng):
    """regular, but one beat in 50 is held up by 2 to 10 s, and the next comes when it was due"""
    while True:
        if rng.random() < 1 / 50:
            pause = rng.uniform(2_000, 10_000)
            yield timer(rng) + pause
            yield max(timer(rng) - pause, 50)
        else:
            yield timer(rng)


def lossy(rng):
    """regular, but 3 % of the heartbeats are lost"""
    while True:
        gap = timer(rng)
        while rng.random() < 0.03:
            gap += timer(rng)
        yield gap


def changing(rng):
    """regular, every second for the first half and every 3750 ms from then on"""
    for number in range(COUNT):
        yield timer(rng, 1_000 if number < COUNT // 2 else INTERVAL)


for seed, make in enumerate([regular, jittery, heavy_tailed, gc_pauses, lossy, changing], start=1):
    gaps = make(random.Random(seed))
    lines = [f"# {make.__doc__}; seed {seed}"]
    lines += [str(max(1, round(next(gaps)))) for _ in range(COUNT)]
    Path(__file__).with_name(f"{make.__name__}.txt").write_text("\n".join(lines) + "\n")
