"""Write the plan as C: the test that the prefilter applies to every packet with payload.

Runs in the supervisor when rules are loaded. The code uses no map. A switch per byte narrows down the
masks worth trying until few are left; each mask is tried once for all values under it. The compiler
turns both into binary searches.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import groupby

from sensor.capture.program import KernelPlan
from sensor.protocols import TCP, UDP
from sensor.rules.engine.http_payload import HttpReading
from sensor.rules.prefilter.plan import FREE_CLASS, OTHER, UNKNOWN_CLASS, Needs, Plan
from sensor.rules.prefilter.prefix import WORD, Prefix, beginnings
from sensor.rules.prefilter.prefix_set import PrefixSet

_FEW = 6
"""Up to this many masks are tried one after the other; more are first narrowed down by a byte."""
_MANY = 2
"""A prefix that allows more values than this at one byte is tried whatever that byte is."""
_WORTH_A_LOOKUP = 3
"""From this many masks on, the first byte is looked up in a word of 64 bits."""

_HEAD = """\
/* Written by sensor/rules/prefilter/emit.py from the rules. */
"""
_ENTRY_POINTS = """\
/*
 * Returns COUNTER_SUBMITTED for a packet that a rule may match, or the reason to ignore it. WORD: the
 * first 8 bytes of the payload, read as a little-endian word, with zeroes after its end. The class of a
 * port selects the prefixes that pass on this port only.
 */
static __always_inline enum counter
judge_by_rules(__u8 protocol, __u16 sport_class, __u16 dport_class, __u64 word, __u64 payload_len)
{
	switch (protocol) {
	case PROTOCOL_TCP:
		return judge_tcp(sport_class, dport_class, word, payload_len);
	case PROTOCOL_UDP:
		return judge_udp(sport_class, dport_class, word, payload_len);
	default:
		return judge_other(word, payload_len);
	}
}

/* The same by ports alone: COUNTER_SUBMITTED if the payload must be tested. */
static __always_inline enum counter
judge_by_ports(__u8 protocol, __u16 sport_class, __u16 dport_class)
{
	switch (protocol) {
	case PROTOCOL_TCP:
		return judge_tcp_ports(sport_class, dport_class);
	case PROTOCOL_UDP:
		return judge_udp_ports(sport_class, dport_class);
	default:
		return judge_other_ports();
	}
}
"""


def kernel_plan(plan: Plan, http: HttpReading) -> KernelPlan:
    """Return the plan in the form that is compiled into the XDP program."""
    return KernelPlan(c_code(plan, http), plan.port_classes())


def c_code(plan: Plan, http: HttpReading) -> str:
    """Write ``judge_by_rules()``, ``judge_by_ports()`` and ``looks_like_http()``.

    The code needs the declarations of ``parse.h``.
    """
    lines = [_HEAD, f"#define PORTS_DECIDE {int(any(map(_ports_can_decide, plan.needs.values())))}\n"]
    lines += _write_begins("looks_like_http", PrefixSet(beginnings(http)))
    for protocol, name in ((TCP, "tcp"), (UDP, "udp")):
        lines += _write_judge(name, plan, protocol)
        lines += _write_judge_ports(name, plan, protocol)
    lines += _write_judge_other(plan.needs[OTHER])
    return "\n".join(lines) + "\n" + _ENTRY_POINTS


def _write_judge_other(needs: Needs) -> Iterator[str]:
    if needs:
        yield from _write_begins("other_begins", needs.common)
    yield "static __always_inline enum counter judge_other(__u64 word, __u64 payload_len)\n{"
    if needs:
        yield "\treturn other_begins(word, payload_len) ? COUNTER_SUBMITTED : COUNTER_IGNORED_PREFIX;\n}\n"
    else:
        yield "\treturn COUNTER_IGNORED_PROTOCOL;\n}\n"
    yield "static __always_inline enum counter judge_other_ports(void)\n{"
    yield f"\treturn COUNTER_{'SUBMITTED' if needs else 'IGNORED_PROTOCOL'};\n}}\n"


def _write_judge(name: str, plan: Plan, protocol: int) -> Iterator[str]:
    needs = plan.needs[protocol]
    if needs:
        yield from _write_begins(f"{name}_begins", needs.common)
        yield from _write_by_port(name, plan, protocol)
    yield "static __always_inline enum counter"
    yield f"judge_{name}(__u16 sport_class, __u16 dport_class, __u64 word, __u64 payload_len)\n{{"
    if not needs:
        yield "\treturn COUNTER_IGNORED_PROTOCOL;\n}\n"
        return
    yield "\tenum counter by_sport, by_dport;\n"
    yield f"\tif ({name}_begins(word, payload_len))\n\t\treturn COUNTER_SUBMITTED;"
    # One test: the compiler would mix two tests in with the many tests for classes.
    yield f"\tif (!((sport_class ^ {FREE_CLASS}) | (dport_class ^ {FREE_CLASS})))"
    yield f"\t\treturn COUNTER_IGNORED_{'PREFIX' if needs.common else 'PORT'};"
    yield f"\tby_sport = {name}_by_port(sport_class, word, payload_len);"
    yield "\tif (by_sport == COUNTER_SUBMITTED)\n\t\treturn COUNTER_SUBMITTED;"
    yield f"\tby_dport = {name}_by_port(dport_class, word, payload_len);"
    yield "\tif (by_dport == COUNTER_SUBMITTED)\n\t\treturn COUNTER_SUBMITTED;"
    if needs.common:
        yield "\treturn COUNTER_IGNORED_PREFIX;\n}\n"
    else:
        yield "\treturn by_sport == COUNTER_IGNORED_PORT ? by_dport : by_sport;\n}\n"


def _write_judge_ports(name: str, plan: Plan, protocol: int) -> Iterator[str]:
    """Write the test whether anything can pass of a protocol on one of two ports."""
    needs = plan.needs[protocol]
    some_ports = _ports_can_decide(needs)
    if some_ports:
        yield f"static __always_inline bool {name}_asks(__u16 port_class)\n{{\n\tswitch (port_class) {{"
        numbers = [number for both, number in plan.classes.items() if both[protocol == UDP]]
        yield from (f"\tcase {number}:" for number in [UNKNOWN_CLASS, *numbers])
        yield "\t\treturn true;\n\tdefault:\n\t\treturn false;\n\t}\n}\n"
    yield "static __always_inline enum counter"
    yield f"judge_{name}_ports(__u16 sport_class, __u16 dport_class)\n{{"
    if some_ports:
        yield f"\treturn {name}_asks(sport_class) || {name}_asks(dport_class)"
        yield "\t\t? COUNTER_SUBMITTED : COUNTER_IGNORED_PORT;\n}\n"
    else:
        yield f"\treturn COUNTER_{'SUBMITTED' if needs else 'IGNORED_PROTOCOL'};\n}}\n"


def _ports_can_decide(needs: Needs) -> bool:
    """Return True if ports alone can show that nothing passes."""
    return bool(needs) and not needs.common


def _write_by_port(name: str, plan: Plan, protocol: int) -> Iterator[str]:
    """Write the test for what passes on one port only, by the port's class in `Plan.classes`."""
    classes = {number: prefixes[protocol == UDP] for prefixes, number in plan.classes.items()}
    for number, prefixes in classes.items():
        if prefixes:
            yield from _write_begins(f"{name}_begins_{number}", prefixes)
    yield "static __always_inline enum counter"
    yield f"{name}_by_port(__u16 port_class, __u64 word, __u64 payload_len)\n{{"
    yield "\tswitch (port_class) {"
    yield f"\tcase {UNKNOWN_CLASS}:\n\t\treturn COUNTER_SUBMITTED;"
    for number, prefixes in classes.items():
        if prefixes:
            yield f"\tcase {number}:\n\t\treturn {name}_begins_{number}(word, payload_len)"
            yield "\t\t\t? COUNTER_SUBMITTED : COUNTER_IGNORED_PREFIX;"
    yield "\tdefault:\n\t\treturn COUNTER_IGNORED_PORT;\n\t}\n}\n"


def _write_begins(name: str, prefixes: PrefixSet) -> Iterator[str]:
    """Write the test whether a payload has one of the prefixes."""
    yield f"static __always_inline bool {name}(__u64 word, __u64 payload_len)\n{{"
    yield from _write_first_byte_test(prefixes)
    yield from _write_tests(prefixes, 0, "\t")
    yield "\treturn false;\n}\n"


def _write_first_byte_test(prefixes: PrefixSet) -> Iterator[str]:
    """Write an early return for payloads whose first byte fits no prefix, if one word can hold the test."""
    masks = {prefix.mask for prefix in prefixes}
    first = {byte for prefix in prefixes for byte in _bytes_at(prefix, 0)}
    if _WORTH_A_LOOKUP <= len(masks) <= _FEW and max(first) - min(first) < 64:
        bits = sum(1 << byte - min(first) for byte in first)
        yield f"\t__u64 first = (__u8)word - {min(first):#04x}ULL;\n"
        yield f"\tif (first >= 64 || !({bits:#x}ULL >> first & 1))\n\t\treturn false;"


def _write_tests(prefixes: PrefixSet, position: int, indent: str) -> Iterator[str]:
    """Write returns for payloads with one of the prefixes; bytes before ``position`` have been tested."""
    if position == WORD or len({prefix.mask for prefix in prefixes}) <= _FEW:
        yield from _write_mask_tests(prefixes, indent)
        return
    narrow = [prefix for prefix in prefixes if len(_bytes_at(prefix, position)) <= _MANY]
    if narrow:
        yield f"{indent}switch ((__u8)(word >> {8 * position})) {{"
        for bytes_, rest in _group_by_byte(narrow, position):
            yield indent + " ".join(f"case {byte:#04x}:" for byte in bytes_)
            yield from _write_tests(rest, position + 1, indent + "\t")
            yield f"{indent}\tbreak;"
        yield f"{indent}}}"
    wide = PrefixSet(prefix for prefix in prefixes if prefix not in narrow)
    if wide:
        yield from _write_tests(wide, position + 1, indent)


def _group_by_byte(narrow: Iterable[Prefix], position: int) -> list[tuple[list[int], PrefixSet]]:
    """Group prefixes by the bytes they allow at ``position``; return those bytes and what is left to test."""
    settled = 0xFF << 8 * position
    rests_of: dict[int, list[Prefix]] = {}
    for prefix in narrow:
        rest = Prefix(prefix.value & ~settled, prefix.mask & ~settled, prefix.length)
        for byte in _bytes_at(prefix, position):
            rests_of.setdefault(byte, []).append(rest)
    groups: dict[PrefixSet, list[int]] = {}
    for byte, rests in sorted(rests_of.items()):
        groups.setdefault(PrefixSet(rests), []).append(byte)
    return [(bytes_, rest) for rest, bytes_ in groups.items()]


def _bytes_at(prefix: Prefix, position: int) -> list[int]:
    value, mask = prefix.value >> 8 * position, prefix.mask >> 8 * position
    return [byte for byte in range(256) if (byte ^ value) & mask & 0xFF == 0]


def _write_mask_tests(prefixes: Iterable[Prefix], indent: str) -> Iterator[str]:
    """Write the tests for some prefixes, by mask and length."""
    by_mask = sorted(prefixes, key=lambda prefix: (prefix.mask, prefix.length, prefix.value))
    for mask, same_mask in groupby(by_mask, key=lambda prefix: prefix.mask):
        if mask:
            yield f"{indent}switch (word & {mask:#x}ULL) {{"
        for length, values in groupby(same_mask, key=lambda prefix: prefix.length):
            if mask:
                yield from (f"{indent}case {prefix.value:#x}ULL:" for prefix in values)
            yield f"{indent}\tif (payload_len >= {length})\n{indent}\t\treturn true;"
            if mask:
                yield f"{indent}\tbreak;"
        if mask:
            yield f"{indent}}}"
