"""The faults of the soak. Each is inflicted on a running launch and returns what must follow.

A fault ends the launch. It returns the exit codes that may follow it, and texts of which one must be on the console.
"""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil
from soak_launch import Deadline, Launch, last_step

FAILED, STOPPED_EARLY = 1, 75
_SAVE_SECONDS = 120.0  # a save must begin within this time
_FILLER = ".filler"


@dataclass(frozen=True)
class Expected:
    """The exit codes and console texts that must follow a fault, of this launch and of the next one."""

    codes: tuple[int, ...]
    texts: tuple[str, ...] = ("",)
    next_texts: tuple[str, ...] = ("",)


Fault = Callable[[Launch, random.Random], Expected]


def kill_rank(launch: Launch, rng: random.Random) -> Expected:
    """Kills one rank with SIGKILL at a random moment of a step."""
    time.sleep(rng.uniform(0, 0.2))
    return _kill_one(launch, rng)


def kill_all(launch: Launch, rng: random.Random) -> Expected:
    """Kills the launch with SIGKILL; the kernel ends its ranks with it."""
    time.sleep(rng.uniform(0, 0.2))
    launch.kill_all()
    return Expected((-signal.SIGKILL,))


def kill_rank_in_save(launch: Launch, rng: random.Random) -> Expected:
    """Kills one rank with SIGKILL while a checkpoint is being written."""
    _wait_save(launch)
    time.sleep(rng.uniform(0, 0.02))
    return _kill_one(launch, rng)


def kill_all_in_save(launch: Launch, rng: random.Random) -> Expected:
    """Kills the launch with SIGKILL while a checkpoint is being written."""
    _wait_save(launch)
    time.sleep(rng.uniform(0, 0.02))
    return kill_all(launch, rng)


def stop(launch: Launch, rng: random.Random) -> Expected:
    """Sends SIGTERM, SIGINT or SIGUSR1 to the launch."""
    time.sleep(rng.uniform(0, 0.2))
    launch.send(rng.choice([signal.SIGTERM, signal.SIGINT, signal.SIGUSR1]))
    return Expected((STOPPED_EARLY,), ("the same command goes on",))


def hang(launch: Launch, rng: random.Random) -> Expected:
    """Stops one rank with SIGSTOP: the watchdogs of the ranks that wait for it must end the run and name it."""
    ranks = launch.ranks()
    if len(ranks) == 1:
        return kill_rank(launch, rng)
    number = rng.randrange(len(ranks))
    while not launch.ended() and "hangs" not in launch.text():
        launch.send(signal.SIGSTOP, [ranks[number]])  # repeated, in case something continues it
        time.sleep(0.1)
    return Expected((FAILED,), (f"rank {number} does not answer: its process is stopped",))


def pause(launch: Launch, rng: random.Random) -> Expected:
    """Stops all processes for longer than a hang and continues them: the run must go on. Then stops the run."""
    everyone = [launch.pid, *launch.ranks()]
    launch.send(signal.SIGSTOP, everyone)
    time.sleep(rng.uniform(7.0, 8.0))
    launch.send(signal.SIGCONT, everyone)
    launch.wait_step(last_step(launch.run_folder) + 1, 60)
    assert not launch.ended(), f"a pause ended the run:\n{launch.text()[-3000:]}"
    return stop(launch, rng)


def full_disk(launch: Launch, rng: random.Random) -> Expected:
    """Fills the rest of the file system, and frees it when the run has ended."""
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
    """Stops or kills the launch, then truncates a file of the newest checkpoint."""
    return _damage(launch, rng, lambda data: data[: rng.randrange(len(data))])


def flipped_bit(launch: Launch, rng: random.Random) -> Expected:
    """Stops or kills the launch, then flips one bit of a file of the newest checkpoint."""

    def flip(data: bytes) -> bytes:
        place = rng.randrange(len(data))
        return data[:place] + bytes([data[place] ^ (1 << rng.randrange(8))]) + data[place + 1 :]

    return _damage(launch, rng, flip)


def missing_file(launch: Launch, rng: random.Random) -> Expected:
    """Stops or kills the launch, then removes a file of the newest checkpoint."""
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
    """Waits until a checkpoint is being written: there is a folder of a step in a hidden folder."""
    deadline = Deadline(_SAVE_SECONDS)
    while not deadline.is_over() and not launch.ended():
        if any((launch.run_folder / "checkpoints").glob(".*/step-*")):
            return
        time.sleep(0.0005)


def _damage(launch: Launch, rng: random.Random, change: Callable[[bytes], bytes | None]) -> Expected:
    folder = launch.run_folder / "checkpoints"
    deadline = Deadline(_SAVE_SECONDS)
    while len(list(folder.glob("step-*"))) < 2 and not launch.ended():
        assert not deadline.is_over(), "no two checkpoints"
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
    """Raises AssertionError if a process of a launch is left, that is, has an open file in the folder."""
    for process in psutil.process_iter():
        try:
            if any(Path(file.path).is_relative_to(folder) for file in process.open_files()):
                raise AssertionError(f"left behind: {process}")
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
