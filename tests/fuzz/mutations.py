"""Ways in which files are damaged, by accident or on purpose; all of them drawn from a seed."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

HUGE = (b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\x00\x00\x00\x00", b"\x80\x00\x00\x00")
Mutation = Callable[[bytes, np.random.Generator], bytes]


def cut_off(data: bytes, rng: np.random.Generator) -> bytes:
    return data[: rng.integers(0, len(data) + 1)]


def flip_bits(data: bytes, rng: np.random.Generator) -> bytes:
    changed = bytearray(data)
    for place in rng.integers(0, len(data), int(rng.integers(1, 40))) if data else ():
        changed[place] ^= 1 << int(rng.integers(0, 8))
    return bytes(changed)


def huge_numbers(data: bytes, rng: np.random.Generator) -> bytes:
    """Sizes and counts near the beginning or the end, where headers are, become enormous."""
    changed = bytearray(data)
    for _ in range(int(rng.integers(1, 4))):
        near = int(rng.integers(0, min(400, max(len(data), 1))))
        place = near if rng.random() < 0.5 else max(0, len(data) - near - 4)
        changed[place : place + 4] = HUGE[int(rng.integers(0, len(HUGE)))]
    return bytes(changed[: len(data)])


def swap_parts(data: bytes, rng: np.random.Generator) -> bytes:
    a, b, c = sorted(rng.integers(0, len(data) + 1, 3).tolist())
    return data[:a] + data[b:c] + data[a:b] + data[c:]


def repeat_part(data: bytes, rng: np.random.Generator) -> bytes:
    a, b = sorted(rng.integers(0, len(data) + 1, 2).tolist())
    return data[:b] + data[a:b] * int(rng.integers(1, 4)) + data[b:]


def remove_part(data: bytes, rng: np.random.Generator) -> bytes:
    a, b = sorted(rng.integers(0, len(data) + 1, 2).tolist())
    return data[:a] + data[b:]


def noise(data: bytes, rng: np.random.Generator) -> bytes:
    a = int(rng.integers(0, len(data) + 1))
    return data[:a] + rng.bytes(int(rng.integers(0, 200))) + data[a:]


MUTATIONS: tuple[Mutation, ...] = (cut_off, flip_bits, huge_numbers, swap_parts, repeat_part, remove_part, noise)


def mutated(data: bytes, seed: int) -> bytes:
    """Damaged in one to three ways."""
    rng = np.random.default_rng(seed)
    for _ in range(int(rng.integers(1, 4))):
        data = MUTATIONS[int(rng.integers(0, len(MUTATIONS)))](data, rng)
    return data
