"""The names of link types that are common in capture files. Runs in ``sensor read``."""

from __future__ import annotations

NAMES = {
    3: "AX.25",
    6: "Token Ring",
    7: "ARCNET",
    8: "SLIP",
    9: "PPP",
    10: "FDDI",
    50: "PPP in HDLC framing",
    51: "PPPoE",
    100: "ATM",
    104: "Cisco HDLC",
    105: "IEEE 802.11",
    107: "Frame Relay",
    117: "OpenBSD pflog",
    119: "IEEE 802.11 with Prism header",
    122: "Fibre Channel",
    127: "IEEE 802.11 with radiotap header",
    143: "DOCSIS",
    149: "Apple PKTAP",
    163: "IEEE 802.11 with AVS header",
    187: "Bluetooth HCI",
    189: "USB",
    192: "PPI",
    195: "IEEE 802.15.4",
    201: "Bluetooth HCI",
    220: "USB",
    227: "CAN",
    239: "NFLOG",
    247: "InfiniBand",
    249: "USBPcap",
    251: "Bluetooth LE",
    252: "Wireshark Upper PDU",
    253: "netlink",
    258: "Apple PKTAP",
    271: "vsock",
}
"""The commonest of https://www.tcpdump.org/linktypes.html that are not decoded."""


def link_type_text(linktype: int) -> str:
    """Return a link type's number, with its name if it is a common one."""
    return f"{linktype} ({NAMES[linktype]})" if linktype in NAMES else str(linktype)
