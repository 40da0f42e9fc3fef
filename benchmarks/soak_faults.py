"""The faults of the soak. Each is done to a running launch, which ends of it, and says what must follow.

A fault returns the exit codes that are right after it, and texts of which the console must show one.
"""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil
from soak_launch import Launch, Patience, last_step

FAILED, STOPPED_EARLY = 1, 75
_SAVE_SECONDS = 120.0  # within so long a save begins
_FILLER = ".filler"


@dataclass(frozen=True)
class Expected:
    """What must follow a fault: of this launch, and in the console of the next one."""

    codes: tuple[int, ...]
    texts: tuple[str, ...] = ("",)
    next_texts: tuple[str, ...] = ("",)


Fault = Callable[[Launch, random.Random], Expected]


def kill_rank(launch: Launch, rng: random.Random) -> Expected:
    """SIGKILL of one rank at a random moment of a step."""
    time.sleep(rng.uniform(0, 0.2))
    return _kill_one(launch, rng)


def kill_all(launch: Launch, rng: random.Random) -> Expected:
    """SIGKILL of the launch; the kernel ends its ranks with it."""
    time.sleep(rng.uniform(0, 0.2))
    launch.kill_all()
    return Expected((-signal.SIGKILL,))


def kill_rank_in_save(launch: Launch, rng: random.Random) -> Expected:
    """SIGKILL of one rank while a checkpoint is being written."""
    _wait_save(launch)
    time.sleep(rng.uniform(0, 0.02))
    return _kill_one(launch, rng)


def kill_all_in_save(launch: Launch, rng: random.Random) -> Expected:
    """SIGKILL of all while a checkpoint is being written."""
    _wait_save(launch)
    time.sleep(rng.uniform(0, 0.02))
    return kill_all(launch, rng)


def stop(launch: Launch, rng: random.Random) -> Expected:
    """SIGTERM, SIGINT or SIGUSR1 to the launch."""
    time.sleep(rng.uniform(0, 0.2))
    launch.send(rng.choice([signal.SIGTERM, signal.SIGINT, signal.SIGUSR1]))
    return Expected((STOPPED_EARLY,), ("the same command goes on",))


def hang(launch: Launch, rng: random.Random) -> Expected:
    """SIGSTOP of one rank: the watchdogs of those that wait for it must end the run and name it."""
    ranks = launch.ranks()
    if len(ranks) == 1:
        return kill_rank(launch, rng)
    number = rng.randrange(len(ranks))
    while not launch.ended() and "hangs" not in launch.text():
        launch.send(signal.SIGSTOP, [ranks[number]])  # again, should anything let it go on
        time.sleep(0.1)
    return Expected((FAILED,), (f"rank {number} does not answer: its process is stopped",))


def pause(launch: Launch, rng: random.Random) -> Expected:
    """SIGSTOP of all, longer than what counts as a hang, and SIGCONT: the run goes on. Ended by SIGTERM later."""
    everyone = [launch.pid, *launch.ranks()]
    launch.send(signal.SIGSTOP, everyone)
    time.sleep(rng.uniform(7.0, 8.0))
    launch.send(signal.SIGCONT, everyone)
    launch.wait_step(last_step(launch.run_folder) + 1, 60)
    assert not launch.ended(), f"a pause ended the run:\n{launch.text()[-3000:]}"
    return stop(launch, rng)


def full_disk(launch: Launch, rng: random.Random) -> Expected:
    """The rest of the file system filled up; made free again when the run has ended."""
    time.sleep(rng.uniform(0, 0.2))
    filler = launch.run_folder.parent / _FILLER
    try:
        with filler.open("wb", buffering=0) as file:
            for size in (1 << 20, 1 << 12, 1):
                while file.write(bytes(size)) == size:
                    pass
    except OSError:
        pass
    try:
        launch.wait_end(60)
    finally:
        filler.unlink(missing_ok=True)
    return Expected((FAILED,), ("No space left", "disk is full", "file system is full"))


def truncated_file(launch: Launch, rng: random.Random) -> Expected:
    """A stop or a kill, then a file of the newest checkpoint cut short."""
    return _damage(launch, rng, lambda data: data[: rng.randrange(len(data))])


def flipped_bit(launch: Launch, rng: random.Random) -> Expected:
    """A stop or a kill, then one bit of a file of the newest checkpoint turned over."""

    def flip(data: bytes) -> bytes:
        place = rng.randrange(len(data))
        return data[:place] + bytes([data[place] ^ (1 << rng.randrange(8))]) + data[place + 1 :]

    return _damage(launch, rng, flip)


def missing_file(launch: Launch, rng: random.Random) -> Expected:
    """A stop or a kill, then a file of the newest checkpoint removed."""
    return _damage(launch, rng, lambda data: None)


FAULTS: dict[str, Fault] = {
    fault.__name__: fault
    for fault in (
        kill_rank,
        kill_all,
        kill_rank_in_save,
        kill_all_in_save,
        stop,
        hang,
        pause,
        full_disk,
        truncated_file,
        flipped_bit,
        missing_file,
    )
}


def _kill_one(launch: Launch, rng: random.Random) -> Expected:
    ranks = launch.ranks()
    number = rng.randrange(len(ranks))
    launch.send(signal.SIGKILL, [ranks[number]])
    if len(ranks) == 1:
        return Expected((-signal.SIGKILL,))
    return Expected((FAILED,), (f"rank {number} was killed by SIGKILL",))


def _wait_save(launch: Launch) -> None:
    """Until a checkpoint is being written: there is a folder of a step in a hidden folder."""
    timeout_factor = Patience(_SAVE_SECONDS)
    while not timeout_factor.is_over() and not launch.ended():
        if any((launch.run_folder / "checkpoints").glob(".*/step-*")):
            return
        time.sleep(0.0005)


def _damage(launch: Launch, rng: random.Random, change: Callable[[bytes], bytes | None]) -> Expected:
    folder = launch.run_folder / "checkpoints"
    timeout_factor = Patience(_SAVE_SECONDS)
    while len(list(folder.glob("step-*"))) < 2 and not launch.ended():
        assert not timeout_factor.is_over(), "no two checkpoints"
        time.sleep(0.01)
    expected = rng.choice([kill_all, stop])(launch, rng)
    code = launch.wait_end(60)
    assert code in expected.codes, f"exit code {code}:\n{launch.text()[-3000:]}"
    newest = max(folder.glob("step-*"))
    victim = rng.choice(sorted(path for path in newest.iterdir() if path.stat().st_size))
    changed = change(victim.read_bytes())
    if changed is None:
        victim.unlink()
    else:
        victim.write_bytes(changed)
    return Expected(expected.codes, expected.texts, (newest.name,))


def assert_none_left(folder: Path) -> None:
    """No process of any launch is left: none has an open file in the folder."""
    for process in psutil.process_iter():
        try:
            if any(Path(file.path).is_relative_to(folder) for file in process.open_files()):
                raise AssertionError(f"left behind: {process}")
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
