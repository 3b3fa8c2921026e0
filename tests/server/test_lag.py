"""The event loop's lag: measured, told when it is long, and told where while it lasts."""

import asyncio
import threading
import time

import structlog

from its_proxy.server.lag import watching_lag


async def test_every_tick_is_observed_and_a_late_one_is_told():
    lags = []
    with structlog.testing.capture_logs() as events:
        async with watching_lag(lags.append):
            await asyncio.sleep(0.15)
            time.sleep(0.6)
            await asyncio.sleep(0.15)
    assert min(lags) < 0.25 < max(lags)
    [late] = [event for event in events if event["event"] == "the event loop was late"]
    assert late["lag_s"] >= 0.25


async def test_while_the_loop_hangs_its_place_is_told_once():
    hangs = threading.Event()
    told = []

    def tell(logger, method, event):
        told.append(event)
        hangs.set()
        raise structlog.DropEvent

    before = structlog.get_config()
    structlog.configure(processors=[tell])
    try:
        async with watching_lag(lambda lag: None, late_s=3600, blocked_s=0.2):
            for n_told in (1, 2):
                await asyncio.sleep(0.3)
                hangs.clear()
                wait_for_it(hangs)
                time.sleep(0.3)  # as long again
                assert [event["event"] for event in told] == ["the event loop is blocked"] * n_told
    finally:
        structlog.configure(**before)
    assert "in wait_for_it" in told[0]["stack"]
    assert "secret words" not in told[0]["stack"]


def wait_for_it(hangs: threading.Event) -> None:
    words = " ".join(["secret", "words"])
    assert hangs.wait(30), words
