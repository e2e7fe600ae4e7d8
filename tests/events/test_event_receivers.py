"""Receivers that work, stall, fail, return or are unreachable: what arrives, and what is counted."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from event_receivers import (
    Authority,
    FakeReceiver,
    read_counted,
    read_datagrams,
    read_lines,
    receiving,
    tcp,
    udp,
    unix,
)
from event_samples import chunk, sending
from processes import is_running, wait_until

from sensor.events.receiver_state import ReceiverState
from sensor.events.sender import EventSender

BIG = b"union " * 1000


def numbers(events: list[dict[str, Any]]) -> list[int]:
    """Return the numbers of the evidence items of these events."""
    return [int(event["timestamp"][20:26]) for event in events]


def only(sender: EventSender) -> ReceiverState:
    """Return the state of the only receiver; check that its counters add up."""
    [state] = sender.states()
    assert state.offered == state.sent + state.lost + state.waiting
    return state


Server = Callable[[Path], Any]


@contextmanager
def over_udp(_directory: Path) -> Iterator[tuple[str, FakeReceiver]]:
    """Run a syslog server over UDP."""
    with receiving(udp(), read_datagrams) as receiver:
        yield f"syslog+udp://127.0.0.1:{receiver.port}", receiver


@contextmanager
def over_tcp(_directory: Path) -> Iterator[tuple[str, FakeReceiver]]:
    """Run a syslog server over TCP."""
    with receiving(tcp(), read_counted) as receiver:
        yield f"syslog+tcp://127.0.0.1:{receiver.port}", receiver


@contextmanager
def over_tls(directory: Path) -> Iterator[tuple[str, FakeReceiver]]:
    """Run a syslog server over TLS, with an authority for this test."""
    authority = Authority(directory / "tls")
    with receiving(authority.server(tcp()), read_counted) as receiver:
        yield f"syslog+tls://127.0.0.1:{receiver.port}?ca={authority.ca}", receiver


@contextmanager
def over_unix_stream(directory: Path) -> Iterator[tuple[str, FakeReceiver]]:
    """Run a receiver of lines over a unix stream socket."""
    with receiving(unix(directory / "events", socket.SOCK_STREAM), read_lines) as receiver:
        yield f"unix:{directory / 'events'}", receiver


@contextmanager
def over_unix_datagrams(directory: Path) -> Iterator[tuple[str, FakeReceiver]]:
    """Run a receiver of unix datagrams."""
    with receiving(unix(directory / "events", socket.SOCK_DGRAM), read_datagrams) as receiver:
        yield f"unix:{directory / 'events'}", receiver


STREAMS = [over_tcp, over_tls, over_unix_stream]
ALL = [*STREAMS, over_udp, over_unix_datagrams]


@pytest.mark.parametrize("server", ALL)
def test_every_event_arrives_once_and_in_order(tmp_path: Path, server: Server) -> None:
    """Every transport delivers all events, up to the last one before the end."""
    with server(tmp_path) as (url, receiver):
        with sending(url) as sender:
            wait_until(lambda: only(sender).connected)
            sender.offer([chunk(0, 200), chunk(200, 100)])
        assert (only(sender).sent, only(sender).lost) == (300, 0)
        wait_until(lambda: len(receiver.events) == 300)
        assert numbers(receiver.events) == list(range(300))


@pytest.mark.parametrize("server", ALL)
def test_long_events_arrive_whole(tmp_path: Path, server: Server) -> None:
    """The longest payload that the settings allow arrives to the last byte, even in one datagram."""
    payload = bytes(range(256)) * 64 + b"beyond"
    with server(tmp_path) as (url, receiver):
        with sending(url, events_payload=16384) as sender:
            sender.offer([chunk(0, 3, payload)])
        wait_until(lambda: len(receiver.events) == 3)
        assert all(len(event["payload_printable"]) == 16384 for event in receiver.events)


@pytest.mark.parametrize("server", STREAMS)
def test_a_receiver_that_stops_reading_loses_only_its_own_events(tmp_path: Path, server: Server) -> None:
    """Events beyond the queue are counted as lost; the other receiver gets all; then the first resumes."""
    file = tmp_path / "eve.json"
    with server(tmp_path) as (url, receiver):
        receiver.pause()
        with sending(url, f"file:{file}", events_queue_mib=1, events_payload=2000) as sender:
            for first in range(0, 6000, 100):
                sender.offer([chunk(first, 100, BIG)])  # fits into a queue
                wait_until(lambda wanted=first + 100: sender.states()[1].sent == wanted)
            stalled = sender.states()[0]
            assert stalled.lost > 0
            assert stalled.waiting > 100
            receiver.resume()
            wait_until(lambda: sender.states()[0].waiting == 0)
            sender.offer([chunk(900_000, 1)])
        state = sender.states()[0]
        assert state.lost == stalled.lost
        assert state.sent == 6001 - state.lost
        wait_until(lambda: len(receiver.events) == state.sent)
        assert numbers(receiver.events) == sorted(set(numbers(receiver.events)))
        assert numbers([json.loads(line) for line in file.read_text().splitlines()]) == [
            *range(6000),
            900_000,
        ]


@pytest.mark.parametrize("server", [over_tls, over_unix_stream])
def test_a_receiver_that_stalls_until_the_end(tmp_path: Path, server: Server) -> None:
    """The sensor ends nevertheless; events not sent count as lost."""
    with server(tmp_path) as (url, receiver):
        receiver.pause()
        with sending(url, events_payload=2000) as sender:
            sender.offer([chunk(0, 6000, BIG)])
            wait_until(lambda: only(sender).sent > 0)
        state = only(sender)
        assert state.waiting == 0
        assert state.lost > 0
        receiver.resume()
        wait_until(lambda: len(receiver.events) == state.sent)


def test_a_receiver_that_goes_away_and_returns() -> None:
    """Events wait while it is away, and arrive on the next connection in order."""
    with receiving(tcp(), read_counted) as first:
        port = first.port
        with sending(f"syslog+tcp://127.0.0.1:{port}") as sender:
            sender.offer([chunk(0, 100)])
            wait_until(lambda: len(first.events) == 100)
            first.close()
            wait_until(lambda: not only(sender).connected)
            sender.offer([chunk(100, 100)])
            assert only(sender).waiting == 100
            with receiving(tcp(port), read_counted) as second:
                wait_until(lambda: len(second.events) == 100)
                assert numbers(second.events) == list(range(100, 200))
        assert (only(sender).sent, only(sender).lost) == (200, 0)


def test_a_receiver_that_closes_just_before_an_event() -> None:
    """The sender notices before it sends: no event goes to a closed connection."""
    with over_tcp(Path()) as (url, receiver), sending(url) as sender:
        for number in range(4):
            wait_until(lambda: only(sender).connected)
            connections = receiver.connections
            receiver.hang_up()
            sender.offer([chunk(number, 1)])
            wait_until(lambda wanted=number + 1: len(receiver.events) == wanted)
            assert receiver.connections > connections
    assert numbers(receiver.events) == list(range(4))


@pytest.mark.parametrize("server", STREAMS)
def test_an_unreachable_receiver(tmp_path: Path, server: Server, capfd: pytest.CaptureFixture[str]) -> None:
    """The log says it once; all events are lost at the end, which does not wait for it."""
    with server(tmp_path) as (url, receiver):
        receiver.close()
    with sending(url) as sender:
        sender.offer([chunk(0, 1000)])
        wait_until(lambda: only(sender).waiting == 1000)
        assert not only(sender).connected
    state = only(sender)
    assert (state.sent, state.lost, state.waiting) == (0, 1000, 0)
    assert capfd.readouterr().err.count("events wait in the queue, retrying") == 1


def test_a_server_with_a_wrong_certificate_gets_nothing(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Another authority or another name: the log says which."""
    ours, other = Authority(tmp_path / "ours"), Authority(tmp_path / "other")
    with receiving(ours.server(tcp()), read_counted) as receiver:
        urls = [
            f"syslog+tls://127.0.0.1:{receiver.port}?ca={other.ca}",
            f"syslog+tls://localhost:{receiver.port}?ca={ours.ca}",
        ]
        with sending(*urls) as sender:
            sender.offer([chunk(0, 1)])
            wait_until(lambda: receiver.connections >= 2)
        assert [state.lost for state in sender.states()] == [1, 1]
        assert receiver.events == []
    log = capfd.readouterr().err
    assert "self-signed certificate" in log
    assert "Hostname mismatch" in log


def test_a_server_that_requires_a_client_certificate(tmp_path: Path) -> None:
    """It gets the certificate from the URL."""
    authority = Authority(tmp_path / "tls")
    cert, key = authority.issue("client", "DNS:client")
    with receiving(authority.server(tcp(), wants_certificate=True), read_counted) as receiver:
        url = f"syslog+tls://127.0.0.1:{receiver.port}?ca={authority.ca}&cert={cert}&key={key}"
        with sending(url) as sender:
            sender.offer([chunk(0, 10)])
        wait_until(lambda: len(receiver.events) == 10)


def test_a_killed_sender_is_restarted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Exactly the events it had not sent count as lost; later events arrive."""
    with over_tcp(tmp_path) as (url, receiver), sending(url) as sender:
        sender.offer([chunk(0, 100)])
        wait_until(lambda: only(sender).sent == 100)
        assert sender.pid
        os.kill(sender.pid, signal.SIGSTOP)
        sender.offer([chunk(100, 50)])
        os.kill(sender.pid, signal.SIGKILL)
        wait_until(lambda: sender.tick() or "the event sender died (exit code -9)" in caplog.text)
        assert (only(sender).sent, only(sender).lost) == (100, 50)
        sender.offer([chunk(150, 50)])
        wait_until(lambda: len(receiver.events) == 150)
    assert (only(sender).sent, only(sender).lost) == (150, 50)
    assert numbers(receiver.events) == [*range(100), *range(150, 200)]


def test_a_stopped_sender_does_not_block_the_supervisor(tmp_path: Path) -> None:
    """The channel accepts what fits; the rest is counted as lost at once."""
    with over_tcp(tmp_path) as (url, receiver), sending(url) as sender:
        wait_until(lambda: only(sender).connected)
        assert sender.pid
        os.kill(sender.pid, signal.SIGSTOP)
        for first in range(0, 10_000, 100):
            sender.offer([chunk(first, 100, BIG)])
        lost = only(sender).lost
        assert 0 < lost < 10_000
        os.kill(sender.pid, signal.SIGCONT)
        wait_until(lambda: len(receiver.events) == 10_000 - lost)
        assert (only(sender).sent, only(sender).lost) == (10_000 - lost, lost)


def test_the_sender_ends_with_its_supervisor(tmp_path: Path) -> None:
    """Even if the supervisor is killed: the sender sends what the channel held, then ends."""
    with over_tcp(tmp_path) as (url, receiver):
        program = """
import os, signal, sys
from event_samples import chunk
from sensor.config.settings import Settings
from sensor.events.sender import EventSender
sender = EventSender(Settings(events=(sys.argv[1],)), as_json=False)
sender.offer([chunk(0, 100)])
print(sender.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
        command = [sys.executable, "-c", program, url]
        killed = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=environment)
        wait_until(lambda: len(receiver.events) == 100)
        wait_until(lambda: not is_running(int(killed.stdout)))
