"""One run: a quiet server is learned from, then everybody comes at once, then it must end."""

from __future__ import annotations

import asyncio
import contextlib
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from spil_d2.web import WebSettings

from .clients import Attacker, Findings, Leaver, SlowClient
from .hostile import Case
from .served import SECRET, Gallery, Server
from .valid import Timings, Truth, User, learn
from .wire import Line, Watch, request

_STOP_SECONDS = 15.0
_SAMPLE_SECONDS = 0.2
# Decoders of WebP hold a picture four times, with four bytes a pixel.
_BYTES_A_PIXEL = 16
_LARGE_PIXELS = 16_000_000
_MEGABYTE = 2**20
# Of the threads of asyncio and of pictures that are listed.
_MORE_THREADS = 48
_MORE_FILES = 32


@dataclass(frozen=True)
class Plan:
    """The size of a run.

    Attributes:
        clients: in all; of ten, six are users, two send hostile requests and two are slow.
        seconds: of the attack.
        quiet_seconds: before it, with the users alone.
        seed: of all chance.
    """

    clients: int
    seconds: float
    quiet_seconds: float
    seed: int

    @property
    def users(self) -> int:
        """Clients that mean well."""
        return max(1, self.clients * 6 // 10)

    @property
    def attackers(self) -> int:
        """Clients that send hostile requests, of which one leaves early."""
        return max(2, self.clients * 2 // 10)

    @property
    def slow(self) -> int:
        """Clients that hang on."""
        return max(1, self.clients - self.users - self.attackers)


@dataclass
class Usage:
    """What the server's process took, sampled.

    Attributes:
        megabytes, threads, files: of each sample; resident memory, threads, open descriptors.
    """

    megabytes: list[float] = field(default_factory=list)
    threads: list[int] = field(default_factory=list)
    files: list[int] = field(default_factory=list)

    def sample(self, server: Server) -> None:
        """Look at the process once."""
        with server.process.oneshot():
            self.megabytes.append(server.process.memory_info().rss / _MEGABYTE)
            self.threads.append(server.process.num_threads())
            self.files.append(server.process.num_fds())


@dataclass
class Result:
    """What a run has shown.

    Attributes:
        quiet, attacked: timings of the users' requests by kind, without and with the others.
        least: answers to the user that got the fewest under attack.
        findings: of the hostile clients.
        before, usage: of the process, before and during the attack.
        limits: megabytes, threads and files that are allowed.
        stop_seconds: from SIGTERM to the end, with clients hanging on.
        failures: everything that is not as it must be.
    """

    quiet: dict[str, Timings] = field(default_factory=dict)
    attacked: dict[str, Timings] = field(default_factory=dict)
    least: int = 0
    findings: Findings = field(default_factory=Findings)
    before: Usage = field(default_factory=Usage)
    usage: Usage = field(default_factory=Usage)
    limits: tuple[float, int, int] = (0.0, 0, 0)
    stop_seconds: float = 0.0
    failures: list[str] = field(default_factory=list)


async def run(
    server: Server, gallery: Gallery, cases: list[Case], plan: Plan, settings: WebSettings
) -> Result:
    """Learn, attack, look, and stop the server.

    Args:
        server: that has just started.
        gallery: what it serves.
        cases: hostile requests; all of them are sent.
        plan: the size.
        settings: those of the server.
    """
    result, watch = Result(), Watch([SECRET.encode(), b"Traceback (most recent call last)"])
    truth = await learn(gallery, server.port, watch, plan.seed)
    result.before.sample(server)
    result.limits = _limits(result.before, settings)
    if plan.quiet_seconds:
        users = await _users(server, watch, plan, truth, plan.quiet_seconds)
        _collect(users, result.quiet, result.failures)
    with _sampled(server, result.usage):
        await _attack(server, watch, plan, cases, truth, settings, result)
    again = await learn(gallery, server.port, watch, plan.seed)
    if again != truth:
        result.failures.append("the server answers otherwise than before")
    result.failures += sorted(f"sent {one!r}" for one in watch.seen)
    await _stop(server, watch, result)
    _judge(server, result)
    return result


async def _attack(
    server: Server,
    watch: Watch,
    plan: Plan,
    cases: list[Case],
    truth: Truth,
    settings: WebSettings,
    result: Result,
) -> None:
    loop = asyncio.get_running_loop()
    until = loop.time() + plan.seconds
    order = cases[:]
    random.Random(plan.seed).shuffle(order)
    shares = plan.attackers - 1
    others = [
        Attacker(server.port, watch, result.findings).run(order[i::shares], until)
        for i in range(shares)
    ]
    others.append(Leaver(server.port, watch, random.Random(plan.seed)).run(until))
    slow = [SlowClient(server.port, watch, result.findings, settings) for _ in range(plan.slow)]
    hanging = [asyncio.ensure_future(one.run(i, until)) for i, one in enumerate(slow)]
    users, *ends = await asyncio.gather(
        _users(server, watch, plan, truth, plan.seconds), *others, return_exceptions=True
    )
    result.failures += [f"a client has failed: {one!r}" for one in ends if one is not None]
    if isinstance(users, BaseException):
        raise users
    # What still hangs on was cut short by the end of the run, not by the server.
    for one in hanging:
        one.cancel()
    ends = await asyncio.gather(*hanging, return_exceptions=True)
    await watch.hang_up()
    failed = [one for one in ends if isinstance(one, Exception)]
    result.failures += [f"a slow client has failed: {one!r}" for one in failed]
    _collect(users, result.attacked, result.failures)
    result.least = min(sum(len(t.seconds) for t in one.timings.values()) for one in users)


async def _users(
    server: Server, watch: Watch, plan: Plan, truth: Truth, seconds: float
) -> list[User]:
    until = asyncio.get_running_loop().time() + seconds
    rngs = [random.Random(f"{plan.seed} {number}") for number in range(plan.users)]
    users = [User(server.port, watch, rng) for rng in rngs]
    await asyncio.gather(*(one.run(truth, until) for one in users))
    return users


def _collect(users: list[User], timings: dict[str, Timings], failures: list[str]) -> None:
    for user in users:
        failures += [f"user: {one}" for one in user.errors]
        for kind, one in user.timings.items():
            whole = timings.setdefault(kind, Timings())
            whole.seconds += one.seconds
            whole.refused += one.refused


@contextlib.contextmanager
def _sampled(server: Server, usage: Usage) -> Iterator[None]:
    async def sample() -> None:
        while True:
            usage.sample(server)
            await asyncio.sleep(_SAMPLE_SECONDS)

    task = asyncio.ensure_future(sample())
    try:
        yield
    finally:
        task.cancel()


async def _stop(server: Server, watch: Watch, result: Result) -> None:
    """End the server while clients hang on to it."""
    heads = [
        b"",
        b"GET / HT",
        b"POST /api/uploads HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n",
    ]
    lines = [await Line.open(server.port, watch) for _ in heads]
    for line, head in zip(lines, heads):
        await line.send(head)
    kept = await Line.open(server.port, watch)
    await kept.send(request("GET", "/api/info"))
    await kept.answer()
    if not server.is_alive():
        result.failures.append("the server has ended")
    try:
        result.stop_seconds = await asyncio.to_thread(server.stop, _STOP_SECONDS)
    except TimeoutError as error:
        result.failures.append(str(error))
    await watch.hang_up()


def _limits(before: Usage, settings: WebSettings) -> tuple[float, int, int]:
    """Megabytes, threads and files: what the settings allow over what the quiet server takes."""
    pixels = settings.max_pixels + 2 * settings.thumbnail_workers * _LARGE_PIXELS
    stores = settings.upload_memory + settings.thumbnail_memory + settings.body_memory
    megabytes = (pixels * _BYTES_A_PIXEL + stores) / _MEGABYTE
    files = before.files[0] + 2 * settings.max_connections + _MORE_FILES
    return before.megabytes[0] + megabytes, before.threads[0] + _MORE_THREADS, files


def _judge(server: Server, result: Result) -> None:
    usage, failures = result.usage, result.failures
    failures += sorted(set(result.findings.wrong))
    for name, seen, most in zip(
        ("megabytes", "threads", "files"),
        (usage.megabytes, usage.threads, usage.files),
        result.limits,
    ):
        if max(seen) > most:
            failures.append(f"{max(seen):.0f} {name}, {most:.0f} are allowed")
    if not result.least:
        failures.append("a user got no answer under attack")
    log = server.log.read_text(errors="replace")
    for line in re.findall(r"^(?:ERROR.*|Traceback.*|\S*Error.*|Exception.*)$", log, re.MULTILINE):
        failures.append(f"in the log: {line}"[:300])
