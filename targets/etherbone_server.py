"""litex_server for a device that lives on the same host, such as the simulation.

LiteX's server binds the device's own UDP port on every local address, because LiteEth always answers to that port;
a simulated device on the loopback cannot have the port too. This program is LiteX's litex_server with its arguments,
in which only the following differs, and only for loopback addresses:

- the socket takes any free port (the simulation answers to the port that asked);
- reads go 255 words a packet instead of one, because DiffusionSoC's Etherbone has the buffer for it;
- a device that does not answer costs the client its connection, not the server a thread and its lock.

``python -m litediffusion.targets.etherbone_server --udp --udp-ip 127.0.0.1 --udp-port 1234``
"""

import ipaddress
import os
import socket
import sys
import threading
import time

from litex.tools import litex_server
from litex.tools.remote import comm_udp

READ_WORDS = 255
PARENT_VARIABLE = "LITEDIFFUSION_PARENT"     # process whose end ends the server


class LoopbackUDP(comm_udp.CommUDP):
    """CommUDP with a port of its own towards a device on this host; unchanged towards others."""

    def open(self, probe=True):
        if hasattr(self, "socket") or not ipaddress.ip_address(self.server).is_loopback:
            return super().open(probe)
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", 0))
        self.socket.settimeout(self.timeout)
        if probe:
            self.probe(self.server, self.port)


class Server(litex_server.RemoteServer):
    """RemoteServer whose threads outlive a device that does not answer."""

    def _serve_thread(self):
        while True:
            try:
                super()._serve_thread()
            except OSError as error:
                print(f"device: {type(error).__name__} {error}", file=sys.stderr)
                self.lock = False


def _follow_parent(parent):
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(0)


def main():
    if PARENT_VARIABLE in os.environ:
        threading.Thread(target=_follow_parent, args=[int(os.environ[PARENT_VARIABLE])], daemon=True).start()
    merge_reads = litex_server._read_merger
    litex_server._read_merger = lambda addrs, max_length, bursts: merge_reads(addrs, READ_WORDS, bursts)
    litex_server.RemoteServer = Server
    comm_udp.CommUDP = LoopbackUDP
    litex_server.main()


if __name__ == "__main__":
    main()
