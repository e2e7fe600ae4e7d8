"""Interrupts of receive queues, read from this host's devices; virtual interfaces have none."""

from __future__ import annotations

from pathlib import Path

import pytest
from pyroute2 import IPRoute

from sensor.capture import interrupts
from sensor.capture.cpus import online_cpus, parse_cpu_list, parse_cpu_mask
from sensor.capture.interface import Interface, find_interface
from sensor.capture.interrupts import ReceiveCpus, receive_interrupts


def device_ports() -> list[Interface]:
    """Return this host's virtio interfaces, whose receive interrupts are known. They are only read."""
    with IPRoute() as netlink:
        names = [link.get_attr("IFLA_IFNAME") for link in netlink.get_links()]
    ports = [find_interface(name) for name in names]
    return [port for port in ports if port.nic.device and port.nic.driver == "virtio_net"]


def test_interrupts_agree_with_proc_interrupts() -> None:
    """Each queue has one, on online CPUs, and /proc/interrupts lists it with the device's name."""
    ports = device_ports()
    if not ports:
        pytest.skip("no such device here")
    table = Path("/proc/interrupts").read_text().splitlines()
    for port in ports:
        found = receive_interrupts(port)
        assert len(found) == port.nic.receive_queues
        assert port.nic.device is not None
        for number, cpus in found.items():
            assert set(cpus) <= set(online_cpus())
            [line] = [line for line in table if line.split(":")[0].strip() == str(number)]
            assert f"{port.nic.device.name}-input" in line


def test_virtual_ports_have_none() -> None:
    """The loopback interface has no device."""
    assert receive_interrupts(find_interface("lo")) == {}


def test_rings_are_only_where_frames_arrive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A NIC's frames arrive where its interrupts may run, those of others, or under irqbalance, anywhere."""
    balancer = tmp_path / "irqbalance"
    monkeypatch.setattr(interrupts, "_IRQBALANCE", balancer)
    assert ReceiveCpus([find_interface("lo")]).now() == online_cpus()
    ports = device_ports()
    if not ports:
        pytest.skip("no such device here")
    files = [
        Path(f"/proc/irq/{number}/smp_affinity_list") for port in ports for number in receive_interrupts(port)
    ]
    allowed = {cpu for file in files for cpu in parse_cpu_list(file.read_text())}
    assert set(ReceiveCpus(ports).now()) == allowed & set(online_cpus())
    monkeypatch.setattr(interrupts, "online_cpus", lambda: [*sorted(allowed), 1000])
    assert ReceiveCpus(ports).now() == sorted(allowed)
    assert ReceiveCpus([*ports, find_interface("lo")]).now() == [*sorted(allowed), 1000]
    balancer.mkdir()
    assert ReceiveCpus(ports).now() == [*sorted(allowed), 1000]


def test_parsing_of_cpu_masks() -> None:
    """Masks have the format of sysfs."""
    assert parse_cpu_mask("00000001,80000005\n") == [0, 2, 31, 32]
    assert parse_cpu_mask("0\n") == []


def test_parsing_of_cpu_lists() -> None:
    """Lists have the format of sysfs and procfs."""
    assert parse_cpu_list("0-3,5\n") == [0, 1, 2, 3, 5]
    assert parse_cpu_list("\n") == []
