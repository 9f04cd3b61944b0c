"""How somebody outside speaks to whatever process lives: heard, refused, or not at all."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import trio

from actors import ActorDeadError, AskTimeout, InboxFull, SystemNotRunning
from arbstr.errors import ArbstrError, LedgerUnavailable, Overloaded

if TYPE_CHECKING:
    from arbstr.sim._process import Process
    from arbstr.sim._world import World

ASK_S = 60.0
ATTEMPTS = 4
"""Of whoever repeats until they are heard."""
UNANSWERED = (ActorDeadError, AskTimeout, InboxFull, SystemNotRunning)

Question = Callable[["Process"], Awaitable[Any]]


async def say(world: World, question: Question) -> Any:
    """What the process answers, or the ArbstrError that it refuses with; None when nothing was heard.

    Then it may have been done, or not.
    """
    heard: list[Any] = []
    done = trio.Event()
    process = world.process

    async def speak() -> None:
        try:
            heard.append(await question(process))
        except (LedgerUnavailable, Overloaded, *UNANSWERED) as error:
            world.note(f"no answer: {type(error).__name__}")
        except ArbstrError as refusal:
            world.note(f"refused with {refusal.status} {refusal.reason}")
            heard.append(refusal)
        finally:
            done.set()

    await process.ready.wait()
    if not process.takes_clients:
        return None  # it came while there was nobody
    process.start_client(speak)
    await done.wait()
    return heard[0] if heard and not process.dead else None


async def say_until_heard(world: World, question: Question, times: int = ATTEMPTS) -> Any:
    """``say``, once a second; None when nothing was heard at any time."""
    for _ in range(times):
        answer = await say(world, question)
        if answer is not None:
            return answer
        await trio.sleep(1)
    return None
