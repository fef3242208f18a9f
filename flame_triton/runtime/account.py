"""Accounts of memory: bytes handed out and given back, and what is still to be had on the host."""

from __future__ import annotations

from dataclasses import dataclass

ALIGNMENT = 512


def rounded(nbytes: int) -> int:
    """nbytes rounded up to the unit in which memory is handed out."""
    return -(-nbytes // ALIGNMENT) * ALIGNMENT


@dataclass
class Counter:
    """Bytes of one memory, in multiples of 512: handed out and given back so far, and the most held at once."""

    handed_out: int = 0
    given_back: int = 0
    peak: int = 0

    @property
    def held(self) -> int:
        """Bytes handed out and not given back yet."""
        return self.handed_out - self.given_back

    def reset_peak(self) -> None:
        """Let `peak` start again from what is held now."""
        self.peak = self.held

    def take(self, nbytes: int) -> None:
        """Count bytes that are handed out."""
        self.handed_out += nbytes
        self.peak = max(self.peak, self.held)

    def give(self, nbytes: int) -> None:
        """Count bytes that are given back."""
        self.given_back += nbytes


_counters: dict[str, Counter] = {}


def counter(memory: str) -> Counter:
    """The counter of a memory; it lives as long as the process."""
    return _counters.setdefault(memory, Counter())


@dataclass(frozen=True)
class MemoryInfo:
    """Bytes of a memory: what can still be allocated, and all there is."""

    available: int
    total: int


def host_memory() -> MemoryInfo:
    """What Linux says can be allocated without swapping (caches it would drop included)."""
    with open("/proc/meminfo", encoding="ascii") as file:
        kilobytes = {name: int(rest.split()[0]) for name, _, rest in (line.partition(":") for line in file)}
    return MemoryInfo(kilobytes["MemAvailable"] * 1024, kilobytes["MemTotal"] * 1024)
