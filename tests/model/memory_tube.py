"""beanstalkd in memory: a tube whose jobs can be doubled, early, or lost, as a test likes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from bson import ObjectId

from mailqueue.queue.broker import End, Job


class MemoryTube:
    """Jobs in memory. Those who reserve get the most urgent, of these the oldest."""

    def __init__(self) -> None:
        self.delays: dict[int, float] = {}
        self._jobs: dict[int, tuple[ObjectId, int]] = {}
        self._holders: dict[int, object] = {}
        self._last = 0

    def put(self, email_id: ObjectId, priority: int, delay: float = 0.0) -> None:
        self._last += 1
        self._jobs[self._last] = email_id, priority
        self.delays[self._last] = delay

    def take(self, holder: object) -> int | None:
        """Reserve a job."""
        ready = [n for n in self._jobs if n not in self._holders and self.delays[n] <= 0]
        if not ready:
            return None
        chosen = min(ready, key=lambda n: (self._jobs[n][1], n))
        self._holders[chosen] = holder
        return chosen

    def email_of(self, n: int) -> ObjectId:
        return self._jobs[n][0]

    def holds(self, holder: object, n: int) -> bool:
        return self._holders.get(n) is holder

    def back(self, holder: object) -> None:
        """What was reserved there is ready again."""
        self._holders = {n: other for n, other in self._holders.items() if other is not holder}

    def delete(self, n: int) -> None:
        self._holders.pop(n)
        self.delays.pop(n)
        self._jobs.pop(n)

    def release(self, n: int, priority: int, delay: float) -> None:
        self._holders.pop(n)
        self._jobs[n] = self.email_of(n), priority
        self.delays[n] = delay

    def run_out(self) -> None:
        """Every time to run is over: the jobs come early for those who still hold them."""
        self._holders.clear()

    def forget(self) -> None:
        """The server was restarted without a binlog."""
        for kept in (self._jobs, self._holders, self.delays):
            kept.clear()

    def pass_time(self, seconds: float) -> None:
        self.delays = {n: delay - seconds for n, delay in self.delays.items()}

    def depth(self) -> dict[str, int]:
        delayed = sum(delay > 0 for delay in self.delays.values())
        reserved = len(self._holders)
        ready = len(self._jobs) - delayed - reserved
        return {"ready": ready, "reserved": reserved, "delayed": delayed, "buried": 0}


class Line:
    """One worker's side of the tube: a ``Tube`` and its connection in one."""

    name = place = "memory"

    def __init__(self, tube: MemoryTube, pause: Callable[[str], str]) -> None:
        self._tube, self._pause = tube, pause

    def reserve(self, _: int, limit: int = 1) -> list[Job]:
        self._pause("reserve")
        jobs = (self._next() for _ in range(limit))
        return [job for job in jobs if job is not None]

    def _next(self) -> Job | None:
        n = self._tube.take(self)
        if n is None:
            return None
        return Job(self._tube.email_of(n), n, self)

    def end(self, ends: Mapping[Job, End]) -> None:
        """End jobs, unless the server has taken them back meanwhile."""
        self._pause("end")
        for job, end in ends.items():
            if self._tube.holds(self, job.turn):
                self._end(job.turn, end)

    def _end(self, n: int, end: End) -> None:
        if end.word == "delete":
            self._tube.delete(n)
        elif end.word == "release":
            self._tube.release(n, end.priority, end.delay)
        else:
            raise AssertionError(f"job {n} was buried")

    def give_back(self, _: Sequence[Job]) -> None:
        self.close()

    def close(self) -> None:
        """The server takes back what was reserved here."""
        self._tube.back(self)
