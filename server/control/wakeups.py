"""Wake the readers of a changed target, a few at a time, and those whose time has come."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from heapq import heappop, heappush
from math import inf

from server.domain.service.inference_service import ServiceKey

# asyncio runs all that is ready before it polls again. Some 10 ms.
WOKEN_AT_ONCE = 200
# A reader is woken this much late at most, and never early: it would find nothing that is due.
CLOCK_STEP = 0.05


class _Topic:
    """A target that has readers: the version of its last change, and the readers that wait."""

    __slots__ = ("changed", "readers", "target", "waiting")

    def __init__(self, target: ServiceKey, changed: int) -> None:
        self.target = target
        self.changed = changed
        self.readers = 0
        self.waiting: dict[Subscription, None] = {}


class Subscription:
    """Waits for changes of a target, for the length of a block.

    `version`: the reader has seen every change until then. `due`: the time of the event loop at
    which a wait ends although nothing has changed.
    """

    __slots__ = ("_topic", "_wakeups", "_woken", "due", "step", "version")

    def __init__(self, wakeups: Wakeups, topic: _Topic, version: int) -> None:
        self.version = version
        self.due = inf
        self.step: int | None = None
        self._wakeups = wakeups
        self._topic = topic
        self._woken: asyncio.Future[None] | None = None

    def __enter__(self) -> Subscription:
        return self

    def __exit__(self, *error: object) -> None:
        self._wakeups.remove(self, self._topic)

    @property
    def target(self) -> ServiceKey:
        """The target, which all its subscriptions share."""
        return self._topic.target

    async def wait(self, seconds: float | None = None) -> int:
        """Wait until `woken`, for so many seconds at most. Move `version` to the present, and
        return the one before."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.woken()
        since, self.version = self.version, self._wakeups.version()
        return since

    def woken(self) -> asyncio.Future[None]:
        """Return a future that is done at a change since `version`, at `due`, or once all are
        woken. It takes less memory than a coroutine would; thousands wait."""
        self._woken = asyncio.get_running_loop().create_future()
        self._wakeups.add(self, self._topic)
        return self._woken

    def wake(self, unseen_since: int) -> None:
        """End a wait of a reader that has seen every change until `unseen_since`."""
        self.version = max(self.version, unseen_since)
        if self._woken and not self._woken.done():
            self._woken.set_result(None)


class Wakeups:
    """All subscriptions. `version` returns the version of the last change of any target.

    A change costs the same however many readers a target has: the readers are woken later, some in
    each round of the event loop. The clock has one timer for all readers.
    """

    def __init__(self, version: Callable[[], int]) -> None:
        self.version = version
        self._topics: dict[ServiceKey, _Topic] = {}
        # Readers to wake, and the version until which they have seen every change.
        self._woken: deque[tuple[dict[Subscription, None], int]] = deque()
        self._clock = _Clock(self._wake)

    def subscribe(self, target: ServiceKey) -> Subscription:
        """Return a subscription, which has to be entered as a block."""
        topic = self._topics.get(target)
        if topic is None:
            topic = self._topics[target] = _Topic(target, self.version())
        topic.readers += 1
        return Subscription(self, topic, self.version())

    def remove(self, subscription: Subscription, topic: _Topic) -> None:
        """Forget a subscription."""
        self._clock.discard(subscription)
        topic.waiting.pop(subscription, None)
        topic.readers -= 1
        if not topic.readers:
            del self._topics[topic.target]

    def changed_since(self, version: int, target: ServiceKey) -> bool:
        """Report whether a target may have changed since a version; it must have a reader."""
        return self._topics[target].changed > version

    def notify(self, target: ServiceKey, since: int) -> None:
        """Note a change, which is the first one after the version `since`."""
        topic = self._topics.get(target)
        if topic:
            topic.changed = self.version()
            self._wake_waiting(topic, since)

    def wake_all(self) -> None:
        """End every wait."""
        for topic in self._topics.values():
            self._wake_waiting(topic, 0)

    def add(self, subscription: Subscription, topic: _Topic) -> None:
        """Wake a subscription once its target has a change that it has not seen."""
        if subscription.due < inf:
            self._clock.add(subscription)
        if topic.changed > subscription.version:
            # In its turn: a reader that is late does not get ahead of the others.
            self._wake({subscription: None}, 0)
        else:
            topic.waiting[subscription] = None

    def _wake_waiting(self, topic: _Topic, since: int) -> None:
        if topic.waiting:
            readers, topic.waiting = topic.waiting, {}
            self._wake(readers, since)

    def _wake(self, readers: dict[Subscription, None], since: int) -> None:
        if not self._woken:
            asyncio.get_running_loop().call_soon(self._wake_some)
        self._woken.append((readers, since))

    def _wake_some(self) -> None:
        for _ in range(WOKEN_AT_ONCE):
            readers, since = self._woken[0]
            if readers:
                readers.popitem()[0].wake(since)
            if not readers:
                self._woken.popleft()
                if not self._woken:
                    return
        asyncio.get_running_loop().call_soon(self._wake_some)


class _Clock:
    """Wakes subscriptions that are due, in steps of CLOCK_STEP.

    A subscription whose `due` has moved on meanwhile only moves to a later step.
    """

    def __init__(self, wake: Callable[[dict[Subscription, None], int], None]) -> None:
        self._wake = wake
        self._steps: dict[int, dict[Subscription, None]] = {}
        self._order: list[int] = []
        self._timer: asyncio.TimerHandle | None = None

    def add(self, subscription: Subscription) -> None:
        """Wake a subscription at its `due`, if it is not there yet, or for a later one."""
        step = _step_after(subscription.due)
        if subscription.step is not None:
            if subscription.step <= step:
                return
            self.discard(subscription)
        subscription.step = step
        if step not in self._steps:
            self._steps[step] = {}
            heappush(self._order, step)
            if self._order[0] == step:
                self._start()
        self._steps[step][subscription] = None

    def discard(self, subscription: Subscription) -> None:
        """Forget a subscription."""
        if subscription.step is not None:
            self._steps[subscription.step].pop(subscription, None)
            subscription.step = None

    def _start(self) -> None:
        if self._timer:
            self._timer.cancel()
        loop = asyncio.get_running_loop()
        self._timer = loop.call_at(self._order[0] * CLOCK_STEP, self._strike)

    def _strike(self) -> None:
        self._timer = None
        now = asyncio.get_running_loop().time()
        due = dict[Subscription, None]()
        while self._order and self._order[0] * CLOCK_STEP <= now:
            step = heappop(self._order)
            for subscription in self._steps.pop(step):
                subscription.step = None
                if _step_after(subscription.due) > step:
                    self.add(subscription)
                else:
                    due[subscription] = None
        if due:
            self._wake(due, 0)
        if self._order:
            self._start()


def _step_after(time: float) -> int:
    return int(time / CLOCK_STEP) + 1
