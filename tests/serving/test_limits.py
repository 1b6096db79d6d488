"""Limits of time, as ``asyncio.timeout`` has them, by one timer."""

import asyncio

import pytest

from raygen.serving.limits import Limits


async def scene(limits: Limits) -> list[str]:
    told = []

    async def block(name: str, seconds: float, takes: float, again: int = 0) -> None:
        try:
            with limits.of(seconds) as limit:
                for _ in range(again):
                    await asyncio.sleep(seconds / 2)
                    limit.again()
                await asyncio.sleep(takes)
            told.append(f"{name} ends")
        except TimeoutError:
            assert limit.expired
            told.append(f"{name} is late")

    await asyncio.gather(
        block("quick", 60, 0),
        block("slow", 0.1, 60),
        block("long", 60, 0.3),
        block("slower", 0.2, 60),
        block("on", 0.1, 0, 5),
    )
    return told


def test_who_is_late_is_stopped_and_nobody_else() -> None:
    limits = Limits()
    for _ in range(2):  # in another event loop, too
        assert asyncio.run(scene(limits)) == ["quick ends", "slow is late", "slower is late", "on ends", "long ends"]


def test_who_is_cancelled_is_not_late() -> None:
    async def waits(limits: Limits) -> None:
        with limits.of(60):
            await asyncio.sleep(60)

    async def main() -> None:
        task = asyncio.create_task(waits(Limits()))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())


def test_the_task_goes_on_after_a_late_block() -> None:
    async def main() -> None:
        limits = Limits()
        with pytest.raises(TimeoutError), limits.of(0.01):
            await asyncio.sleep(60)
        await asyncio.sleep(0.05)  # which a cancellation that is left over would end
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0

    asyncio.run(main())
