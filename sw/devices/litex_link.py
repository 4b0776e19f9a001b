"""Memory and registers of a SoC behind litex_server, on LiteX's RemoteClient, with the checks that it leaves out."""

import os
import socket

from litex.tools.litex_client import RemoteClient

from litediffusion.sw.devices.errors import AddressError, ConnectionLost

BURST_WORDS = 255          # Etherbone counts words in 8 bits
# litex_server itself repeats a lost read once a second, ten times; wait a little longer than that.
TIMEOUT_S = 12.0
# A board drops what arrives while a packet is being written, so each packet waits for the one before it. The
# simulated Ethernet holds the sender off instead, and the socket's buffer keeps this many packets.
PACKETS_IN_FLIGHT = 1
PACKETS_IN_FLIGHT_SIM = 16


class _Client(RemoteClient):
    """RemoteClient returns zeros when no answer comes; this one raises TimeoutError or ConnectionError."""

    def receive_packet(self, sock, addr_size):
        packet = RemoteClient.receive_packet(self, sock, addr_size)
        if packet == 0:
            raise ConnectionError("no answer")
        return packet


class LitexLink:
    """Words and registers of a running SoC.

    host, port   where litex_server listens
    csr_csv      the SoC's register map, written by its build
    timeout_s    longest wait for one answer

    Reads and writes are 32-bit words at byte addresses. A write returns after the device has taken the words (a read
    follows them on the same path). Raises ConnectionLost when no answer comes in time, AddressError outside the map.
    One reconnection is tried before a read fails. Use as a context manager, or call ``close``.
    """

    def __init__(self, host="localhost", port=1234, csr_csv=None, timeout_s=TIMEOUT_S):
        if csr_csv is None or not os.path.exists(csr_csv):
            raise AddressError(f"the register map {csr_csv} does not exist: give the csr.csv of the SoC's build")
        self._where, self._csr_csv, self._timeout_s = (host, port), csr_csv, timeout_s
        self._client = None
        self._open()
        self._tables = self._client
        simulated = self.constants.get("config_platform_name") == "sim"
        self._packets_in_flight = PACKETS_IN_FLIGHT_SIM if simulated else PACKETS_IN_FLIGHT

    def _open(self):
        host, port = self._where
        self._client = _Client(host, port, csr_csv=str(self._csr_csv))
        try:
            self._client.open()
        except OSError as error:
            self._client = None
            raise ConnectionLost(f"no litex_server answers at {host}:{port} ({error}): start it, or check the address") \
                from error
        self._client.socket.settimeout(self._timeout_s)
        # Otherwise a read that follows writes waits 40 ms for their acknowledgement.
        self._client.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def close(self):
        if self._client is not None:
            self._client.close()
            self._client = None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    @property
    def constants(self):
        """{name: value} of the SoC's constants."""
        return self._tables.constants.d

    @property
    def regions(self):
        """{name: (base, bytes)} of the SoC's memories."""
        return {name: (m.base, m.size) for name, m in self._tables.mems.d.items()}

    def identifier(self):
        """The text that the SoC carries as its name."""
        base = self._tables.bases.d.get("identifier_mem")
        if base is None:
            raise AddressError("the SoC has no identifier")
        text = bytes(word & 0xFF for word in self._read(base, 64))
        return text.split(b"\0")[0].decode("ascii", "replace")

    def read_words(self, addr, n):
        """List of n words from byte address ``addr``."""
        self._check(addr, n)
        words = []
        for at in range(0, n, BURST_WORDS):
            words += self._read(addr + 4 * at, min(BURST_WORDS, n - at))
        return words

    def write_words(self, addr, words, progress=None):
        """Write words from byte address ``addr`` on; ``progress(words done)`` is called after each acknowledgement."""
        words = [int(word) for word in words]
        self._check(addr, len(words))
        step = BURST_WORDS * self._packets_in_flight
        for first in range(0, len(words), step):
            block = words[first:first + step]
            for at in range(0, len(block), BURST_WORDS):
                self._try("write", addr + 4 * (first + at), block[at:at + BURST_WORDS])
            self._try("read", addr + 4 * (first + len(block) - 1), 1)
            if progress is not None:
                progress(first + len(block))

    def csr_read(self, name):
        """Value of the register ``name`` (all its words)."""
        register = self._register(name)
        value = 0
        for word in self._read(register.addr, register.length):
            value = value << self._tables.csr_data_width | word
        return value

    def csr_write(self, name, value):
        """Write the register ``name``; returns after the device has taken it."""
        register, width = self._register(name), self._tables.csr_data_width
        words = [value >> (width * i) & ((1 << width) - 1) for i in reversed(range(register.length))]
        self._try("write", register.addr, words)
        self._try("read", register.addr, 1)

    def has_csr(self, name):
        return name in self._tables.regs.d

    def _register(self, name):
        if not self.has_csr(name):
            near = [n for n in self._tables.regs.d if n.split("_")[0] == name.split("_")[0]]
            raise AddressError(f"the SoC has no register {name!r}; near it: {', '.join(near) or 'nothing'}")
        return self._tables.regs.d[name]

    def _check(self, addr, n):
        """Raise AddressError unless n words at addr lie in one region of the map."""
        if addr % 4:
            raise AddressError(f"address 0x{addr:08x} is not a multiple of 4")
        for base, size in self.regions.values():
            if base <= addr and addr + 4 * n <= base + size:
                return
        known = ", ".join(f"{name} 0x{base:08x}+0x{size:x}" for name, (base, size) in self.regions.items())
        raise AddressError(f"{n} words at 0x{addr:08x} are outside the device's memories ({known})")

    def _read(self, addr, n):
        """One burst, tried again on a new connection if the first gives no answer."""
        try:
            return self._try("read", addr, n)
        except ConnectionLost:
            return self._try("read", addr, n)

    def _try(self, access, addr, what):
        """One access on the open connection, or on a new one after a loss (a late answer must not pass for the next)."""
        if self._client is None:
            self._open()
        try:
            return getattr(self._client, access)(addr, what)
        except OSError as error:
            self.close()
            host, port = self._where
            raise ConnectionLost(f"no answer from {host}:{port} to an access at 0x{addr:08x} within {self._timeout_s:g} s "
                                 f"({error}): is the device running and litex_server connected to it?") from error
