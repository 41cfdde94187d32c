"""The handshake of an NBD connection: fixed newstyle, up to the choice of an export."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final, Protocol

from lab.sectors import SECTOR
from lab.vcenter import nbd_protocol as p
from lab.vcenter.nbd_exports import Export
from lab.vcenter.nbd_stream import Disconnected, Stream

_PREFERRED_BLOCK: Final = 64 * 1024


class OpenRefused(Exception):
    """An export cannot be opened now; carries the refusal for the client."""

    def __init__(self, reply: p.OptionReply, sentence: str) -> None:
        super().__init__(sentence)
        self.reply = reply
        self.sentence = sentence


class Catalogue(Protocol):
    """The exports of a server, as one connection sees them."""

    def names(self) -> Iterable[str]:
        """Return the names to list."""

    def look(self, name: str) -> Export:
        """Return an export without opening it. Raises OpenRefused."""

    def open(self, name: str) -> Export:
        """Return an export, opened for the connection and counted against the budget. Raises OpenRefused."""


@dataclass(frozen=True, slots=True)
class Session:
    """What a handshake agreed on."""

    name: str
    export: Export
    structured: bool
    allocation: bool
    """Whether block status of base:allocation may be asked for."""


class Negotiation:
    """The server's side of one handshake."""

    def __init__(self, stream: Stream, catalogue: Catalogue) -> None:
        self._stream = stream
        self._catalogue = catalogue
        self._no_zeroes = False
        self._structured = False
        self._context_export: str | None = None
        self._option = 0

    def run(self) -> Session:
        """Answer options until the client has an export. Raises Disconnected when it leaves or breaks the protocol."""
        flags = p.HandshakeFlag.FIXED_NEWSTYLE | p.HandshakeFlag.NO_ZEROES
        self._stream.send(p.GREETING.pack(p.NBDMAGIC, p.IHAVEOPT, flags))
        (client_flags,) = p.CLIENT_FLAGS.unpack(self._stream.take(p.CLIENT_FLAGS.size))
        if client_flags & ~int(flags) or not client_flags & p.HandshakeFlag.FIXED_NEWSTYLE:
            raise Disconnected("the client's flags are not those of fixed newstyle")
        self._no_zeroes = bool(client_flags & p.HandshakeFlag.NO_ZEROES)
        while True:
            magic, option, length = p.OPTION.unpack(self._stream.take(p.OPTION.size))
            if magic != p.IHAVEOPT or length > p.MAX_OPTION_BYTES:
                raise Disconnected("not an option")
            self._option = option
            session = self._answer(option, bytes(self._stream.take(length)))
            if session is not None:
                return session

    def _answer(self, option: int, data: bytes) -> Session | None:
        try:
            match option:
                case p.Option.EXPORT_NAME:
                    return self._export_name(data)
                case p.Option.ABORT:
                    self._reply(p.OptionReply.ACK)
                    raise Disconnected("the client aborted")
                case p.Option.LIST:
                    self._list(data)
                case p.Option.INFO | p.Option.GO:
                    return self._info(data, go=option == p.Option.GO)
                case p.Option.STRUCTURED_REPLY:
                    _demand(not data)
                    self._structured = True
                    self._reply(p.OptionReply.ACK)
                case p.Option.LIST_META_CONTEXT | p.Option.SET_META_CONTEXT:
                    self._meta_context(data, choose=option == p.Option.SET_META_CONTEXT)
                case _:
                    self._reply(p.OptionReply.ERR_UNSUP)
        except OpenRefused as refusal:
            self._reply(refusal.reply, refusal.sentence.encode())
        return None

    def _export_name(self, data: bytes) -> Session:
        try:
            name = _name(data)
            export = self._catalogue.open(name)
        except OpenRefused as refusal:
            raise Disconnected(refusal.sentence) from refusal
        padding = b"" if self._no_zeroes else bytes(p.EXPORT_NAME_PADDING)
        self._stream.send(p.EXPORT_NAME_REPLY.pack(export.size, self._flags(export)) + padding)
        return self._session(name, export)

    def _list(self, data: bytes) -> None:
        _demand(not data)
        for name in self._catalogue.names():
            encoded = name.encode()
            self._reply(p.OptionReply.SERVER, p.U32.pack(len(encoded)) + encoded)
        self._reply(p.OptionReply.ACK)

    def _info(self, data: bytes, *, go: bool) -> Session | None:
        encoded, rest = _counted(data)
        _demand(len(rest) >= p.U16.size)
        (count,) = p.U16.unpack(rest[: p.U16.size])
        _demand(len(rest) == p.U16.size * (1 + count))
        asked = {kind for (kind,) in p.U16.iter_unpack(rest[p.U16.size :])}
        name = _name(encoded)
        export = self._catalogue.open(name) if go else self._catalogue.look(name)
        self._reply(p.OptionReply.INFO, p.INFO_EXPORT.pack(p.Info.EXPORT, export.size, self._flags(export)))
        if p.Info.NAME in asked:
            self._reply(p.OptionReply.INFO, p.U16.pack(p.Info.NAME) + encoded)
        if p.Info.BLOCK_SIZE in asked:
            sizes = p.INFO_BLOCK_SIZE.pack(p.Info.BLOCK_SIZE, SECTOR, _PREFERRED_BLOCK, p.MAX_REQUEST_BYTES)
            self._reply(p.OptionReply.INFO, sizes)
        self._reply(p.OptionReply.ACK)
        return self._session(name, export) if go else None

    def _meta_context(self, data: bytes, *, choose: bool) -> None:
        _demand(self._structured)
        encoded, rest = _counted(data)
        _demand(len(rest) >= p.U32.size)
        (count,) = p.U32.unpack(rest[: p.U32.size])
        rest = rest[p.U32.size :]
        queries = []
        for _ in range(count):
            query, rest = _counted(rest)
            queries.append(query)
        _demand(not rest)
        name = _name(encoded)
        self._catalogue.look(name)
        known = p.BASE_ALLOCATION in queries or (not choose and (not queries or b"base:" in queries))
        if choose:
            self._context_export = name if known else None
        if known:
            self._reply(p.OptionReply.META_CONTEXT, p.U32.pack(p.BASE_ALLOCATION_ID if choose else 0) + p.BASE_ALLOCATION)
        self._reply(p.OptionReply.ACK)

    def _session(self, name: str, export: Export) -> Session:
        return Session(name, export, self._structured, self._structured and self._context_export == name)

    def _flags(self, export: Export) -> p.TransmissionFlag:
        flags = p.TransmissionFlag.HAS_FLAGS | p.TransmissionFlag.SEND_FLUSH
        if not export.exclusive:
            flags |= p.TransmissionFlag.CAN_MULTI_CONN
        if self._structured:
            flags |= p.TransmissionFlag.SEND_DF
        if export.read_only:
            return flags | p.TransmissionFlag.READ_ONLY
        if not export.exclusive:
            flags |= p.TransmissionFlag.SEND_TRIM
        return flags | p.TransmissionFlag.SEND_FUA | p.TransmissionFlag.SEND_WRITE_ZEROES

    def _reply(self, kind: p.OptionReply, data: bytes = b"") -> None:
        self._stream.send(p.OPTION_REPLY.pack(p.OPTION_REPLY_MAGIC, self._option, kind, len(data)) + data)


def _demand(condition: bool) -> None:
    if not condition:
        raise OpenRefused(p.OptionReply.ERR_INVALID, "the option's data is malformed")


def _counted(data: bytes) -> tuple[bytes, bytes]:
    """Split off a string that its 32-bit length precedes."""
    _demand(len(data) >= p.U32.size)
    (length,) = p.U32.unpack(data[: p.U32.size])
    end = p.U32.size + length
    _demand(len(data) >= end)
    return data[p.U32.size : end], data[end:]


def _name(encoded: bytes) -> str:
    _demand(len(encoded) <= p.MAX_NAME_BYTES)
    try:
        return encoded.decode()
    except UnicodeDecodeError:
        raise OpenRefused(p.OptionReply.ERR_INVALID, "the export's name is not UTF-8") from None


Resolver = Callable[[str], Export | None]
