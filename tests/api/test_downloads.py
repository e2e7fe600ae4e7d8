"""Tests of downloads: capture files from the API, read with tshark."""

from __future__ import annotations

import subprocess
from pathlib import Path

import httpx
import pytest
from api_samples import ITEMS, REPLY, Server, evidence_item, keep, serving


def shown(response: httpx.Response, directory: Path, *fields: str) -> list[str]:
    """Return one line of fields per packet, as tshark prints them."""
    assert response.status_code == 200, response.text
    path = directory / "download"
    path.write_bytes(response.content)
    command = ["tshark", "-r", path, "-T", "fields", *(f"-e{field}" for field in fields)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return done.stdout.splitlines()


def key_of(server: Server, number: int) -> str:
    """Return the key of an item."""
    [item] = server.get(f"/api/v1/evidence?text=/{number}%20HTTP").json()["items"]
    return str(item["key"])


@pytest.mark.parametrize("container", ["pcap", "pcapng"])
def test_packet_download(server: Server, tmp_path: Path, container: str) -> None:
    """The file has the packet with its time and lengths, and is named by its key."""
    key = key_of(server, 13)
    response = server.get(f"/api/v1/evidence/{key}/{container}")
    assert response.headers["content-disposition"] == f'attachment; filename="{key}.{container}"'
    time = f"{ITEMS[13].timestamp_ns / 1e9:.6f}000"
    fields = ("frame.time_epoch", "frame.cap_len", "frame.len", "tcp.srcport")
    expected = f"{time}\t{ITEMS[13].caplen}\t{ITEMS[13].wirelen}\t40013"
    assert shown(response, tmp_path, *fields) == [expected]


@pytest.mark.parametrize("container", ["pcap", "pcapng"])
def test_flow_download(server: Server, tmp_path: Path, container: str) -> None:
    """The file has both directions of the flow and nothing else."""
    response = server.get(f"/api/v1/evidence/{key_of(server, 7)}/flow.{container}")
    assert shown(response, tmp_path, "tcp.srcport") == ["40007", "80"]


@pytest.mark.parametrize("container", ["pcap", "pcapng"])
def test_export_has_what_the_filters_find(server: Server, tmp_path: Path, container: str) -> None:
    """Packets are oldest first; without a match the file is empty, without filters it has all."""
    everything = shown(server.get(f"/api/v1/export.{container}"), tmp_path, "tcp.srcport")
    assert len(everything) == len(ITEMS) + 1
    threats = shown(server.get(f"/api/v1/export.{container}?class=threat"), tmp_path, "tcp.srcport")
    assert threats == sorted(threats, key=lambda port: everything.index(port))
    assert len(threats) == 21
    assert shown(server.get(f"/api/v1/export.{container}?devid=9"), tmp_path, "frame.number") == []


def test_pcapng_names_the_rules(server: Server, tmp_path: Path) -> None:
    """Each packet has a comment with the rules that matched it."""
    response = server.get("/api/v1/export.pcapng?port=40007")
    comments = shown(response, tmp_path, "frame.comment")
    assert all("threat 50001 SQL injection" in comment for comment in comments)
    assert len(comments) == 2


def test_a_download_ends_at_its_limit(directory: Path, tmp_path: Path) -> None:
    """The file ends with a whole packet, and the audit line says that it was truncated."""
    large = [evidence_item(number, payload=b"GET / HTTP/1.1\r\n\r\n" + bytes(60_000)) for number in range(30)]
    keep(directory / "evidence", large)
    with serving(directory / "evidence", "--export-mib", "1") as running:
        response = running.get("/api/v1/export.pcap")
        limit = int(response.headers["x-limit-bytes"])
        assert limit == 1 << 20
        assert limit - large[0].caplen - 16 < len(response.content) <= limit
        assert len(shown(response, tmp_path, "frame.number")) == (limit - 24) // (large[0].caplen + 16)
    assert [(line["truncated"], line["bytes"]) for line in running.audit()] == [(True, len(response.content))]


def test_deleted_packets_are_left_out(directory: Path, tmp_path: Path) -> None:
    """An export has the packets whose files still exist."""
    later_us = REPLY.timestamp_ns // 1000 + 600_000_000
    keep(directory / "evidence", [*ITEMS[:3], evidence_item(3, later_us)])
    files = list((directory / "evidence" / "3").glob("*.pcap"))
    for file in files:  # threats have a file of their own
        if file.name[:12] == min(files).name[:12]:
            file.unlink()
    with serving(directory / "evidence") as running:
        assert shown(running.get("/api/v1/export.pcap"), tmp_path, "tcp.srcport") == ["40003"]
        assert "is gone" in running.log.read_text()
