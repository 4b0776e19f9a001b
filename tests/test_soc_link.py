"""LitexLink against servers that do not behave: errors instead of zeros."""

import socket
import threading
import time

import pytest

from litediffusion.sw.devices.errors import AddressError, ConnectionLost
from litediffusion.sw.devices.litex_link import LitexLink

CSR_CSV = """\
csr_base,identifier_mem,0xf0000800,,
csr_register,ctrl_scratch,0xf0000004,1,rw
constant,config_csr_data_width,32,,
constant,config_bus_address_width,32,,
memory_region,main_ram,0x40000000,4096,cached
"""


@pytest.fixture
def csr_csv(tmp_path):
    path = tmp_path / "csr.csv"
    path.write_text(CSR_CSV)
    return path


@pytest.fixture
def deaf_server():
    """Greets like litex_server, then swallows everything."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        connections = []

        def serve():
            while True:
                try:
                    connections.append(server.accept()[0])
                    connections[-1].sendall(b"CommUDP:localhost:1234")
                except OSError:
                    return

        threading.Thread(target=serve, daemon=True).start()
        yield server.getsockname()[1]
        for connection in connections:
            connection.close()


def test_no_server(csr_csv):
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    with pytest.raises(ConnectionLost, match=f"no litex_server answers at 127.0.0.1:{port}"):
        LitexLink("127.0.0.1", port, csr_csv)


def test_silence_is_an_error_not_zeros(csr_csv, deaf_server):
    with LitexLink("127.0.0.1", deaf_server, csr_csv, timeout_s=0.3) as link:
        start = time.monotonic()
        with pytest.raises(ConnectionLost, match="0x40000000 within 0.3 s"):
            link.read_words(0x40000000, 4)
        with pytest.raises(ConnectionLost):
            link.csr_write("ctrl_scratch", 1)
        assert time.monotonic() - start < 5


@pytest.mark.parametrize("addr, n", [(0x3FFFFFFC, 1), (0x40001000, 1), (0x40000FFC, 2), (0x40000001, 1)])
def test_outside_the_map(csr_csv, deaf_server, addr, n):
    with LitexLink("127.0.0.1", deaf_server, csr_csv) as link:
        with pytest.raises(AddressError):
            link.read_words(addr, n)
        with pytest.raises(AddressError):
            link.write_words(addr, [0] * n)


def test_unknown_register(csr_csv, deaf_server):
    with LitexLink("127.0.0.1", deaf_server, csr_csv) as link:
        with pytest.raises(AddressError, match="'ctrl_scrap'; near it: ctrl_scratch"):
            link.csr_read("ctrl_scrap")


def test_no_register_map(tmp_path):
    with pytest.raises(AddressError, match="csr.csv"):
        LitexLink("127.0.0.1", 1, tmp_path / "csr.csv")
