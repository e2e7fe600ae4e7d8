"""Interrupts of receive queues, read from this host's devices; virtual interfaces have none."""

from __future__ import annotations

from pathlib import Path

import pytest
from pyroute2 import IPRoute

from sensor.capture.cpus import online_cpus, parse_cpu_list
from sensor.capture.interface import Interface, find_interface
from sensor.capture.interrupts import receive_interrupts


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


def test_parsing_of_cpu_lists() -> None:
    """Lists have the format of sysfs and procfs."""
    assert parse_cpu_list("0-3,5\n") == [0, 1, 2, 3, 5]
    assert parse_cpu_list("\n") == []
