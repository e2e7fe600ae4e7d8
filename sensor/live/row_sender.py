"""The sending end of the channel to one indexer. Runs in the supervisor, which never waits.

A message is accepted at once, or not at all.
"""

from __future__ import annotations

import errno
import os
import socket
from array import array
from contextlib import suppress

from sensor.evidence.block import EvidenceBlock
from sensor.evidence.conversation import ConversationNote
from sensor.evidence.conversation_codec import pack_note
from sensor.evidence.message import pack
from sensor.evidence.rule_numbers import RuleNumbers
from sensor.live.indexer_channel import CHANNEL_BYTES, MESSAGE_BYTES, IndexerKind, RuleSource

_SO_SNDBUFFORCE = 32  # asm-generic/socket.h


class RowSender:
    """Sends rows, and first the rules that they refer to.

    All methods that send raise an `OSError` if the channel is full, the message is too large, or the process
    at its other end is dead.
    """

    def __init__(self, channel: socket.socket) -> None:
        self.messages = 0
        """Number of messages sent."""
        self.rows = 0
        """Number of rows sent."""
        self._channel = channel
        self._numbers = RuleNumbers()
        self._source: RuleSource | None = None
        with suppress(PermissionError):  # without CAP_NET_ADMIN the buffer stays small
            channel.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, CHANNEL_BYTES)

    def send_rows(self, name: str, offset: int, block: EvidenceBlock) -> None:
        """Send the items in records of a file, the first of which is at ``offset``."""
        source = RuleSource(block.digest, block.http)
        if source != self._source:
            self.send(IndexerKind.SOURCE, source.as_json())
            self._source = source
        for first, rules in self._numbers.definitions(block):
            self.send(IndexerKind.RULES, rules, first)
        self.send(IndexerKind.ROWS, name.encode(), offset, self._numbers.numbered(block))
        self.rows += len(block)

    def send_note(self, note: ConversationNote) -> None:
        """Send what is known of a conversation."""
        self.send(IndexerKind.CONVERSATION, pack_note(note))

    def send_socket(self, number: int, reindexer: socket.socket | None) -> None:
        """Send the socket to the reindexer with this number; None: it could not be started."""
        descriptors = array("i", [reindexer.fileno()] if reindexer else [])
        self.send(IndexerKind.REINDEXER, number=number, descriptors=descriptors)

    def send(
        self,
        kind: IndexerKind,
        text: bytes = b"",
        number: int = 0,
        block: EvidenceBlock | None = None,
        descriptors: array[int] | None = None,
    ) -> None:
        """Send a message."""
        message = pack(kind, text, block, number, with_records=False)
        if sum(map(len, message)) > MESSAGE_BYTES:
            raise OSError(errno.EMSGSIZE, os.strerror(errno.EMSGSIZE))
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, descriptors)] if descriptors else []
        self._channel.sendmsg(message, ancillary, socket.MSG_DONTWAIT)
        self.messages += 1
