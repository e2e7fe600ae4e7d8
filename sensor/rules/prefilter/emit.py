"""The plan as C: what the prefilter asks of every packet with payload. Written by the supervisor, on load.

No map is looked at. Byte by byte a switch says which masks are worth trying, until they are few; each
is tried once for all values under it. The compiler makes binary searches of both.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import groupby

from sensor.capture.program import KernelPlan
from sensor.protocols import TCP, UDP
from sensor.rules.engine.http_payload import HttpReading
from sensor.rules.prefilter.plan import FREE_CLASS, OTHER, UNKNOWN_CLASS, Needs, Plan
from sensor.rules.prefilter.prefix import WORD, Prefix, PrefixSet, beginnings

_FEW = 6
"""Masks that are tried one after the other; of more, a byte says which are worth it."""
_MANY = 2
"""Bytes that a prefix allows at one place beyond which it is tried whatever stands there."""
_WORTH_A_LOOK = 3
"""Masks before which the first byte is looked up in a word of 64 bits."""

_HEAD = """\
/* Written by sensor/rules/prefilter/emit.py from the rules. */
"""
_JUDGE = """\
/*
 * COUNTER_SUBMITTED for a packet that a rule may hit, or the reason to ignore it. WORD: the first 8
 * bytes of the payload as they lie in memory, read little-endian, zeroes behind its end. A port's
 * class says what is asked for on it alone.
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

/* The same before the payload is looked at: COUNTER_SUBMITTED where it matters. */
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
    """Return the plan as the kernel's program takes it."""
    return KernelPlan(c_code(plan, http), plan.port_classes())


def c_code(plan: Plan, http: HttpReading) -> str:
    """Write ``judge_by_rules()``, ``judge_by_ports()``, ``looks_like_http()``; ``parse.h`` stands before."""
    lines = [_HEAD, f"#define PORTS_DECIDE {int(any(map(_asks_on_some_ports, plan.needs.values())))}\n"]
    lines += _begins("looks_like_http", PrefixSet(beginnings(http)))
    for protocol, name in ((TCP, "tcp"), (UDP, "udp")):
        lines += _ported(name, plan, protocol)
        lines += _by_ports(name, plan, protocol)
    lines += _portless(plan.needs[OTHER])
    return "\n".join(lines) + "\n" + _JUDGE


def _portless(needs: Needs) -> Iterator[str]:
    if needs:
        yield from _begins("other_begins", needs.common)
    yield "static __always_inline enum counter judge_other(__u64 word, __u64 payload_len)\n{"
    if needs:
        yield "\treturn other_begins(word, payload_len) ? COUNTER_SUBMITTED : COUNTER_IGNORED_PREFIX;\n}\n"
    else:
        yield "\treturn COUNTER_IGNORED_PROTOCOL;\n}\n"
    yield "static __always_inline enum counter judge_other_ports(void)\n{"
    yield f"\treturn COUNTER_{'SUBMITTED' if needs else 'IGNORED_PROTOCOL'};\n}}\n"


def _ported(name: str, plan: Plan, protocol: int) -> Iterator[str]:
    needs = plan.needs[protocol]
    if needs:
        yield from _begins(f"{name}_begins", needs.common)
        yield from _asked_by_port(name, plan, protocol)
    yield "static __always_inline enum counter"
    yield f"judge_{name}(__u16 sport_class, __u16 dport_class, __u64 word, __u64 payload_len)\n{{"
    if not needs:
        yield "\treturn COUNTER_IGNORED_PROTOCOL;\n}\n"
        return
    yield "\tenum counter by_sport, by_dport;\n"
    yield f"\tif ({name}_begins(word, payload_len))\n\t\treturn COUNTER_SUBMITTED;"
    # In one test: where there are two, the compiler sorts them in among the classes' many.
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


def _by_ports(name: str, plan: Plan, protocol: int) -> Iterator[str]:
    """Write whether anything at all is asked for of a protocol, on one of two ports."""
    needs = plan.needs[protocol]
    some_ports = _asks_on_some_ports(needs)
    if some_ports:
        yield f"static __always_inline bool {name}_asks(__u16 port_class)\n{{\n\tswitch (port_class) {{"
        asked = [number for both, number in plan.classes.items() if both[protocol == UDP]]
        yield from (f"\tcase {number}:" for number in [UNKNOWN_CLASS, *asked])
        yield "\t\treturn true;\n\tdefault:\n\t\treturn false;\n\t}\n}\n"
    yield "static __always_inline enum counter"
    yield f"judge_{name}_ports(__u16 sport_class, __u16 dport_class)\n{{"
    if some_ports:
        yield f"\treturn {name}_asks(sport_class) || {name}_asks(dport_class)"
        yield "\t\t? COUNTER_SUBMITTED : COUNTER_IGNORED_PORT;\n}\n"
    else:
        yield f"\treturn COUNTER_{'SUBMITTED' if needs else 'IGNORED_PROTOCOL'};\n}}\n"


def _asks_on_some_ports(needs: Needs) -> bool:
    """Whether ports alone may say that nothing is asked for."""
    return bool(needs) and not needs.common


def _asked_by_port(name: str, plan: Plan, protocol: int) -> Iterator[str]:
    """Write what is asked for on a port alone: by its class, as in `Plan.classes`."""
    classes = {number: asked[protocol == UDP] for asked, number in plan.classes.items()}
    for number, asked in classes.items():
        if asked:
            yield from _begins(f"{name}_begins_{number}", asked)
    yield "static __always_inline enum counter"
    yield f"{name}_by_port(__u16 port_class, __u64 word, __u64 payload_len)\n{{"
    yield "\tswitch (port_class) {"
    yield f"\tcase {UNKNOWN_CLASS}:\n\t\treturn COUNTER_SUBMITTED;"
    for number, asked in classes.items():
        if asked:
            yield f"\tcase {number}:\n\t\treturn {name}_begins_{number}(word, payload_len)"
            yield "\t\t\t? COUNTER_SUBMITTED : COUNTER_IGNORED_PREFIX;"
    yield "\tdefault:\n\t\treturn COUNTER_IGNORED_PORT;\n\t}\n}\n"


def _begins(name: str, asked: PrefixSet) -> Iterator[str]:
    """Write whether a payload has one of the prefixes."""
    yield f"static __always_inline bool {name}(__u64 word, __u64 payload_len)\n{{"
    yield from _first_byte(asked)
    yield from _fitting(asked, 0, "\t")
    yield "\treturn false;\n}\n"


def _first_byte(asked: PrefixSet) -> Iterator[str]:
    """Write a return for payloads whose first byte is none of those asked for, where one word tells."""
    masks = {prefix.mask for prefix in asked}
    first = {byte for prefix in asked for byte in _bytes_at(prefix, 0)}
    if _WORTH_A_LOOK <= len(masks) <= _FEW and max(first) - min(first) < 64:
        bits = sum(1 << byte - min(first) for byte in first)
        yield f"\t__u64 first = (__u8)word - {min(first):#04x}ULL;\n"
        yield f"\tif (first >= 64 || !({bits:#x}ULL >> first & 1))\n\t\treturn false;"


def _fitting(asked: PrefixSet, position: int, indent: str) -> Iterator[str]:
    """Write a return for payloads with one of the prefixes, whose bytes before ``position`` are settled."""
    if position == WORD or len({prefix.mask for prefix in asked}) <= _FEW:
        yield from _tried(asked, indent)
        return
    narrow = [prefix for prefix in asked if len(_bytes_at(prefix, position)) <= _MANY]
    if narrow:
        yield f"{indent}switch ((__u8)(word >> {8 * position})) {{"
        for bytes_, behind in _by_byte(narrow, position):
            yield indent + " ".join(f"case {byte:#04x}:" for byte in bytes_)
            yield from _fitting(behind, position + 1, indent + "\t")
            yield f"{indent}\tbreak;"
        yield f"{indent}}}"
    wide = PrefixSet(prefix for prefix in asked if prefix not in narrow)
    if wide:
        yield from _fitting(wide, position + 1, indent)


def _by_byte(narrow: Iterable[Prefix], position: int) -> list[tuple[list[int], PrefixSet]]:
    """Sort prefixes by the bytes that may stand at ``position``; with each, what else is asked."""
    settled = 0xFF << 8 * position
    else_asked: dict[int, list[Prefix]] = {}
    for prefix in narrow:
        rest = Prefix(prefix.value & ~settled, prefix.mask & ~settled, prefix.length)
        for byte in _bytes_at(prefix, position):
            else_asked.setdefault(byte, []).append(rest)
    groups: dict[PrefixSet, list[int]] = {}
    for byte, rests in sorted(else_asked.items()):
        groups.setdefault(PrefixSet(rests), []).append(byte)
    return [(bytes_, rest) for rest, bytes_ in groups.items()]


def _bytes_at(prefix: Prefix, position: int) -> list[int]:
    value, mask = prefix.value >> 8 * position, prefix.mask >> 8 * position
    return [byte for byte in range(256) if (byte ^ value) & mask & 0xFF == 0]


def _tried(asked: Iterable[Prefix], indent: str) -> Iterator[str]:
    """Write the tests of some prefixes, by mask and length."""
    by_mask = sorted(asked, key=lambda prefix: (prefix.mask, prefix.length, prefix.value))
    for mask, prefixes in groupby(by_mask, key=lambda prefix: prefix.mask):
        if mask:
            yield f"{indent}switch (word & {mask:#x}ULL) {{"
        for length, values in groupby(prefixes, key=lambda prefix: prefix.length):
            if mask:
                yield from (f"{indent}case {prefix.value:#x}ULL:" for prefix in values)
            yield f"{indent}\tif (payload_len >= {length})\n{indent}\t\treturn true;"
            if mask:
                yield f"{indent}\tbreak;"
        if mask:
            yield f"{indent}}}"
