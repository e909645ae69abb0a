"""The shop's network: real connections through its proxy."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import pytest

from rca.shop.supervisor.network import Backend, Disturbance, Network, described


@dataclass
class _Pod:
    received_bytes: int = 0
    sent_bytes: int = 0


async def _echo(name: bytes) -> tuple[asyncio.Server, int]:
    """A server that answers every line with its name and the line."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.CancelledError):
            while line := await reader.readline():
                writer.write(name + b" " + line)
            writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    return server, server.sockets[0].getsockname()[1]


async def _talking(port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection that was answered once."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"one\n")
    await reader.readline()
    return reader, writer


async def _ask(port: int, text: bytes = b"hello\n") -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(text)
        return await asyncio.wait_for(reader.readline(), 5)
    finally:
        writer.close()


def _with_echo(scenario: Callable[[Network, list[Backend], _Pod], Awaitable[None]]) -> None:
    """Run a scenario with a network whose callees are the backends listed."""

    async def run() -> None:
        backends: list[Backend] = []
        network = Network(lambda _callee: list(backends))
        server, port = await _echo(b"a")
        callee = _Pod()
        backends.append(Backend(port, callee))
        try:
            await scenario(network, backends, callee)
        finally:
            network.close()
            server.close()

    asyncio.run(run())


def test_bytes_pass_and_are_counted_at_both_ends() -> None:
    async def scenario(network: Network, _backends: list[Backend], callee: _Pod) -> None:
        caller = _Pod()
        port = await network.connect("cart-1", "cart", "catalogue", caller)
        assert await _ask(port) == b"a hello\n"
        assert (caller.sent_bytes, callee.received_bytes) == (6, 6)
        assert (caller.received_bytes, callee.sent_bytes) == (8, 8)
        assert network.ports("cart-1") == {"catalogue": port}

    _with_echo(scenario)


def test_connections_are_spread_over_what_is_ready_and_skip_what_does_not_answer() -> None:
    async def scenario(network: Network, backends: list[Backend], _callee: _Pod) -> None:
        other, port = await _echo(b"b")
        backends.append(Backend(port, None))
        edge = await network.connect("cart-1", "cart", "catalogue", None)
        assert {await _ask(edge) for _ in range(4)} == {b"a hello\n", b"b hello\n"}
        other.close()
        await other.wait_closed()
        assert {await _ask(edge) for _ in range(4)} == {b"a hello\n"}

    _with_echo(scenario)


def test_without_anybody_ready_connections_are_reset() -> None:
    async def scenario(network: Network, backends: list[Backend], _callee: _Pod) -> None:
        backends.clear()
        port = await network.connect("cart-1", "cart", "catalogue", None)
        with pytest.raises(ConnectionError):
            await _read_after(port)

    _with_echo(scenario)


async def _read_after(port: int) -> None:
    answer = await _ask(port)
    if not answer:
        raise ConnectionResetError


def test_delay_is_added_to_a_round_trip_and_order_is_kept() -> None:
    async def scenario(network: Network, _backends: list[Backend], _callee: _Pod) -> None:
        port = await network.connect("cart-1", "cart", "catalogue", None)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"warm\n")
        await reader.readline()
        network.disturb("cart", "catalogue", Disturbance(delay_s=0.2, jitter_s=0.1))
        begun = time.monotonic()
        for number in range(5):
            writer.write(b"%d\n" % number)
            await asyncio.sleep(0)
        answers = [await asyncio.wait_for(reader.readline(), 5) for _ in range(5)]
        assert time.monotonic() - begun >= 0.1
        assert answers == [b"a %d\n" % number for number in range(5)]
        network.clear()
        begun = time.monotonic()
        writer.write(b"quick\n")
        await reader.readline()
        assert time.monotonic() - begun < 0.1
        writer.close()

    _with_echo(scenario)


def test_what_is_lost_waits_for_its_retransmission() -> None:
    waits = [Disturbance(loss=0.3).one_way_s() for _ in range(4000)]
    assert {round(wait, 1) for wait in waits} >= {0.0, 0.2, 0.6}
    assert 0.25 < sum(wait > 0 for wait in waits) / len(waits) < 0.35
    assert all(wait == 0 or wait > 0.19 for wait in waits)


def test_a_reset_closes_open_connections_and_refuses_new_ones() -> None:
    async def scenario(network: Network, _backends: list[Backend], _callee: _Pod) -> None:
        port = await network.connect("cart-1", "cart", "catalogue", None)
        other = await network.connect("cart-1", "cart", "telemetry", None)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"one\n")
        await reader.readline()
        network.disturb("cart-1", "*", Disturbance(cut="reset"))
        with pytest.raises(ConnectionError):
            assert await asyncio.wait_for(reader.read(), 5) != b"", "closed without a reset"
        with pytest.raises(ConnectionError):
            await _read_after(port)
        assert await _ask(other) == b"a hello\n"  # `*` does not mean telemetry
        network.clear("cart-1", "*")
        assert await _ask(port) == b"a hello\n"

    _with_echo(scenario)


def test_a_black_hole_holds_everything_until_it_is_lifted() -> None:
    async def scenario(network: Network, _backends: list[Backend], _callee: _Pod) -> None:
        port = await network.connect("cart-1", "cart", "catalogue", None)
        reader, writer = await _talking(port)
        network.disturb("*", "catalogue", Disturbance(cut="blackhole"))
        writer.write(b"two\n")
        new = asyncio.create_task(_ask(port, b"three\n"))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(reader.readline(), 0.3)
        network.clear()
        assert await asyncio.wait_for(reader.readline(), 5) == b"a two\n"
        assert await new == b"a three\n"
        writer.close()

    _with_echo(scenario)


def test_a_black_hole_is_lifted_from_connections_whose_other_end_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(network: Network, _backends: list[Backend], _callee: _Pod) -> None:
        port = await network.connect("cart-1", "cart", "catalogue", None)
        _, writer = await _talking(port)
        network.disturb("*", "catalogue", Disturbance(cut="blackhole"))
        writer.write(b"two\n")
        writer.write_eof()
        await asyncio.sleep(0.1)
        (connection,) = network._edges["cart-1", "catalogue"].connections

        def gone() -> None:
            raise OSError(errno.ENOTCONN, "Transport endpoint is not connected")

        monkeypatch.setattr(connection.server.transport, "write_eof", gone)
        network.clear()
        assert connection.client.out.is_done
        assert await _ask(port) == b"a hello\n"
        writer.close()

    _with_echo(scenario)


def test_a_narrow_link_takes_its_time() -> None:
    async def scenario(network: Network, _backends: list[Backend], _callee: _Pod) -> None:
        port = await network.connect("cart-1", "cart", "catalogue", None)
        network.disturb("cart", "*", Disturbance(rate_bytes_per_second=10_000))
        begun = time.monotonic()
        assert len(await _ask(port, b"x" * 1999 + b"\n")) == 2002
        assert time.monotonic() - begun >= 0.38

    _with_echo(scenario)


def test_an_end_of_either_side_reaches_the_other_and_nothing_stays_open() -> None:
    async def scenario(network: Network, _backends: list[Backend], _callee: _Pod) -> None:
        port = await network.connect("cart-1", "cart", "catalogue", None)
        edge = network._edges["cart-1", "catalogue"]
        for _ in range(3):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"one\n")
            writer.write_eof()
            assert await asyncio.wait_for(reader.read(), 5) == b"a one\n"
            writer.close()
        await asyncio.sleep(0.1)
        assert not edge.connections

    _with_echo(scenario)


def test_names_that_break_close_what_is_open() -> None:
    async def scenario(network: Network, _backends: list[Backend], _callee: _Pod) -> None:
        port = await network.connect("cart-1", "cart", "catalogue", None)
        reader, writer = await _talking(port)
        network.drop("cart-1", ["cache"])
        writer.write(b"two\n")
        assert await reader.readline() == b"a two\n"
        network.drop("cart-1", "*")
        with pytest.raises(ConnectionError):
            assert await asyncio.wait_for(reader.read(), 5) != b"", "closed without a reset"

    _with_echo(scenario)


def test_disturbances_that_overlap_add_up_and_are_told() -> None:
    one, two = Disturbance(delay_s=0.1, loss=0.5), Disturbance(delay_s=0.2, loss=0.5, cut="blackhole", rate_bytes_per_second=5.0)
    both = one.and_also(two)
    assert (both.loss, both.cut, both.rate_bytes_per_second) == (0.75, "blackhole", 5.0)
    assert both.delay_s == pytest.approx(0.3)
    assert described([(("cart", "*"), both)]) == ["network cart -> *: delay 300 ms ± 0 ms, loss 75 %, 5 bytes/s, blackhole"]
