"""`sensor doctor`: it finds and explains what is wrong with a host, and its commands fix it."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from doctor_runs import by_check, doctor, levels, sh
from live import PASS_ALL, running

from sensor.capture import compiler
from sensor.capture.attachment import attached
from sensor.capture.interface import find_interface
from sensor.capture.program import Program
from sensor.capture.refusals import refusals
from sensor.config.settings import BUNDLED_RULES, Settings
from sensor.doctor.examination import apply_safe_fixes
from sensor.doctor.host import kernel_finding
from sensor.doctor.port import RING_FRAMES, filter_findings, speed_findings
from sensor.doctor.program_load import program_findings
from sensor.doctor.software import hyperscan_finding
from sensor.rules.engine.profile import PROFILES
from sensor.rules.ready import make_ready
from tests.rules.commands import sensor

pytestmark = [pytest.mark.kernel, pytest.mark.usefixtures("use_few_rules", "network", "evidence")]


def test_a_host_that_is_ready() -> None:
    """There is no error; every finding says what was checked, and every bad one why it matters."""
    code, found = doctor("mirror")
    assert code == 0
    assert {
        "kernel",
        "privileges",
        "bcc",
        "hyperscan",
        "clock",
        "port",
        "memory",
        "rules",
        "program",
    } <= found.keys()
    assert {"evidence", "disk", "metrics", "listen"} <= found.keys()
    for one in found.values():
        assert one["what"]
        assert one["level"] in ("ok", "note", "warning")
        assert one["level"] == "ok" or one["why"]
    assert found["rules"]["what"] == "13 rules"
    assert "speed" not in found


def test_what_is_printed() -> None:
    """Each finding has a line, and one for the remedy; --quiet leaves out what is not wrong."""
    sh("ip link set mirror down")
    done = sensor("doctor", "mirror")
    assert done.code == 1
    lines = done.out.splitlines()
    place = lines.index("error    mirror: no carrier, so nothing can be captured")
    assert lines[place + 1] == "         connect the cable, or bring the interface up: ip link set mirror up"
    assert [line for line in lines if line.startswith("ok ")]
    quiet = sensor("doctor", "mirror", "--quiet")
    assert (quiet.code, set(quiet.out.splitlines()) < set(lines)) == (1, True)
    assert not [line for line in quiet.out.splitlines() if line.startswith(("ok ", "note "))]


def test_an_interface_that_does_not_exist() -> None:
    """The error lists the existing interfaces; without a name, there is a note."""
    code, found = doctor("nosuch0")
    assert (code, found["port"]["level"]) == (1, "error")
    assert "this host has lo, mirror, source" in found["port"]["what"]
    code, found = doctor()
    assert (code, found["port"]["level"]) == (0, "note")


def test_a_port_without_carrier_is_brought_up() -> None:
    """--fix prints the command it ran."""
    sh("ip link set mirror down")
    assert doctor("mirror")[0] == 1
    done = sensor("doctor", "mirror", "--fix")
    assert done.code == 0
    assert done.out.splitlines()[0] == "ran: ip link set mirror up"
    assert find_interface("mirror").has_carrier


def test_offloads_are_turned_off() -> None:
    """The fix for a NIC that strips VLAN tags works; veth has the offloads, but does not strip."""
    port = find_interface("mirror")
    assert {"rxvlan", "rx-vlan-stag-hw-parse"} <= port.nic.offloads
    findings = list(refusals(replace(port, nic=replace(port.nic, driver="ixgbe")), "native", frags=True))
    assert [str(one) for one in apply_safe_fixes(findings)] == [
        "ran: ethtool -K mirror rx-vlan-stag-hw-parse off rxvlan off"
    ]
    assert not find_interface("mirror").nic.offloads
    [failed] = apply_safe_fixes([replace(findings[0], command="ip link set nosuch0 up")])
    assert failed.exit_code != 0
    assert "nosuch0" in str(failed)


def test_a_program_of_another_process() -> None:
    """It is an error, and --fix does not detach it."""
    with closing(Program(PASS_ALL)) as program, attached(program.fd, find_interface("mirror"), "native"):
        theirs = find_interface("mirror").xdp_program_id
        done = sensor("doctor", "mirror", "--fix", "--json")
        [result] = done.objects
        assert (done.code, result["ran"]) == (1, [])
        assert by_check(result["findings"])["attached"]["command"] == "ip link set mirror xdp off"
        assert find_interface("mirror").xdp_program_id == theirs


def test_a_running_sensor_is_not_a_fault(evidence: Path) -> None:
    """Its program, evidence and addresses are recognised; with other settings they are errors."""
    with running("mirror", evidence, "--api") as run:
        code, found = doctor("mirror")
        assert (code, levels(found, "attached", "evidence", "metrics", "listen")) == (0, ["ok"] * 4)
        for check in ("attached", "evidence", "metrics"):
            assert f"process {run.process.pid}" in found[check]["what"]
        other = evidence.with_name("other")
        code, found = doctor("mirror", "--evidence", other)
        assert (code, levels(found, "attached", "metrics")) == (1, ["error", "error"])
        assert run.stop() == 0


def test_few_queues() -> None:
    """If the interface has more queues, the command uses them."""
    sh("ip link add wide numrxqueues 4 type veth peer name other && ethtool -L wide rx 1")
    sh("ip link set wide up && ip link set other up")
    _, found = doctor("wide")
    cpus = os.cpu_count() or 1
    assert found["queues"]["command"] == f"ethtool -L wide rx {min(4, cpus)}"
    sh(found["queues"]["command"])
    assert "queues" not in doctor("wide")[1]
    assert levels(doctor("mirror")[1], "queues") == ["note"]  # it has no more


def test_a_peer_with_more_queues() -> None:
    """The peer needs as many queues; the error and the command are those of `sensor run`."""
    sh("ip link add few numrxqueues 1 numtxqueues 4 type veth peer name many numrxqueues 4 numtxqueues 2")
    sh("ip link set few up; ip link set many up")
    code, found = doctor("few")
    assert (code, found["driver"]["command"]) == (1, "ethtool -L many tx 1")
    sh(found["driver"]["command"])
    assert doctor("few")[0] == 0


def test_an_interface_that_the_host_needs() -> None:
    """Dropping its frames would cut off the host, so there is a warning."""
    sh("ip addr add 192.0.2.1/24 dev mirror")
    assert "own-traffic" not in doctor("mirror")[1]
    _, found = doctor("mirror", "--action", "drop")
    assert found["own-traffic"]["level"] == "warning"
    assert "192.0.2.1" in found["own-traffic"]["what"]


def test_generic_mode_without_need() -> None:
    """There is a note if the driver supports native XDP, and none if it does not."""
    assert levels(doctor("mirror", "--mode", "generic")[1], "mode") == ["note"]
    code, found = doctor("lo", "--mode", "generic")
    assert (code, levels(found, "mode", "driver")) == (0, ["-", "-"])
    assert doctor("lo")[1]["driver"]["level"] == "error"


def test_interrupts_and_rings() -> None:
    """There are warnings about what costs frames; no virtual device has rings, so they are made up."""
    port = find_interface("mirror")
    port = replace(port, nic=replace(port.nic, receive_queues=2, ring_frames=256, ring_frames_max=4096))
    found = by_check([vars_of(one) for one in speed_findings(port, {40: [1], 41: [1]}, cpus=4)])
    assert levels(found, "interrupts", "ring", "queues") == ["warning", "warning", "-"]
    assert "run on CPU 1" in found["interrupts"]["what"]
    assert found["ring"]["command"] == f"ethtool -G mirror rx {2 * RING_FRAMES}"
    all_it_has = replace(port, nic=replace(port.nic, ring_frames_max=256))
    found = by_check([vars_of(one) for one in speed_findings(all_it_has, {40: [0], 41: [1]}, cpus=4)])
    assert levels(found, "interrupts", "ring") == ["ok", "-"]
    assert not list(filter_findings(port))
    [note] = filter_findings(replace(port, nic=replace(port.nic, driver="virtio_net")))
    assert note.level == "note"


def vars_of(finding: Any) -> dict[str, Any]:
    """Return a finding as JSON has it."""
    return {name: getattr(finding, name) for name in finding.__slots__}


def test_versions() -> None:
    """A kernel that is too old and an untested Hyperscan are errors; those of this host are not."""
    assert kernel_finding("5.14.21-generic").level == "error"
    assert kernel_finding("5.15.0").level == kernel_finding(os.uname().release).level == "ok"
    other = hyperscan_finding("0.9.1")
    assert (other.level, other.command) == ("error", "pip install hyperscan==0.7.21")


def test_rules_that_are_wrong(tmp_path: Path) -> None:
    """They are an error, or a warning if they are skipped; the command lists the faults."""
    fine = (BUNDLED_RULES / "os.json").read_text()
    (tmp_path / "os.json").write_text(fine)
    (tmp_path / "threat.json").write_text('{"threat": {"rules": {"1": {"type": "T", "name": "N"}}}}')
    code, found = doctor("mirror", "--rules", tmp_path)
    assert (code, found["rules"]["level"]) == (1, "error")
    assert found["rules"]["command"] == f"sensor rules check {tmp_path}"
    code, found = doctor("mirror", "--rules", tmp_path, "--lenient")
    assert (code, found["rules"]["level"]) == (0, "warning")


def test_addresses_in_use() -> None:
    """The process is named; an address of the metrics is an error, that of the API a warning."""
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        code, found = doctor("mirror", "--metrics", address, "--listen", address)
    assert (code, levels(found, "metrics", "listen")) == (1, ["error", "warning"])
    assert f"Address already in use by process {os.getpid()}" in found["metrics"]["what"]
    code, found = doctor("mirror", "--metrics", "", "--no-api")
    assert (code, levels(found, "metrics", "listen", "api")) == (0, ["-", "-", "-"])


def test_an_api_without_tokens() -> None:
    """It is a warning, as capturing does not need the API."""
    code, found = doctor("mirror", "--listen", "0.0.0.0:8321")
    assert (code, found["api"]["level"]) == (0, "warning")
    assert "sensor token create" in found["api"]["what"]


def test_receivers_that_cannot_be_used() -> None:
    """They are an error, as for `sensor run`."""
    code, found = doctor("mirror", "--events", "smtp://nowhere")
    assert (code, found["events"]["level"]) == (1, "error")


def test_settings_that_are_wrong() -> None:
    """They are refused with exit code 2, as by every command."""
    assert sensor("doctor", "mirror", "--ring-mib", "3").code == 2


WITHOUT_BCC = """
import sys
sys.path = [path for path in sys.path if not path.endswith("dist-packages")]
from sensor.cli import main
main()
"""


def test_a_program_that_the_kernel_refuses(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, few_rules: Path
) -> None:
    """It is an error with the kernel's reason; here, an offset into the frame has no bound."""
    sources = shutil.copytree(compiler._SOURCE, tmp_path / "bpf")
    header = (sources / "packet.h").read_text()
    (sources / "packet.h").write_text(header.replace("offset > HEADER_OFFSET_MAX", "false"))
    monkeypatch.setattr(compiler, "_SOURCE", sources)
    ready = make_ready(few_rules, PROFILES["default"].http, lenient=False)
    [found] = program_findings(Settings(interface=("mirror",)), ready)
    assert (found.level, found.check) == ("error", "program")
    assert "could not be loaded" in found.what


def test_without_root_and_bcc() -> None:
    """Both are findings; everything else is checked all the same."""
    bare = ["setpriv", "--bounding-set=-all", "--inh-caps=-all", "--no-new-privs"]
    command = [*bare, sys.executable, "-c", WITHOUT_BCC, "doctor", "mirror", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, "Traceback" in done.stderr) == (1, False)
    found = by_check(json.loads(done.stdout)["findings"])
    assert {check for check, one in found.items() if one["level"] == "error"} == {
        "privileges",
        "bcc",
        "memlock",
        "seccomp",
    }
    assert "CAP_BPF, CAP_PERFMON, CAP_NET_ADMIN, CAP_NET_RAW" in found["privileges"]["what"]
    assert found["bcc"]["command"] == "apt install python3-bpfcc"


NO_CLOCK = """
import ctypes, struct, sys
instructions = (  # seccomp(2): EPERM for adjtimex and clock_adjtime of x86-64
    (0x20, 0, 0, 0), (0x15, 1, 0, 159), (0x15, 0, 1, 305), (0x06, 0, 0, 0x50001), (0x06, 0, 0, 0x7FFF0000),
)
code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *one) for one in instructions))
program = ctypes.create_string_buffer(struct.pack("HxxxxxxQ", len(instructions), ctypes.addressof(code)))
libc = ctypes.CDLL(None)
assert libc.prctl(38, 1, 0, 0, 0) == libc.prctl(22, 2, program) == 0
from sensor.cli import main
main()
"""


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="system calls have other numbers here")
def test_a_service_without_access_to_the_clock() -> None:
    """There is no warning if the state of the clock is unknown."""
    command = [sys.executable, "-c", NO_CLOCK, "doctor", "mirror", "--json"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found = by_check(json.loads(done.stdout)["findings"])["clock"]
    assert (found["level"], found["what"]) == ("ok", "this process has no access to the state of the clock")
