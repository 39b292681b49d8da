"""HTTP as it comes over the wire, in whatever pieces."""

from __future__ import annotations

import asyncio
import errno
import re
import socket
import ssl
from pathlib import Path
from typing import Any

import pytest

from bench.errors import ServerError
from bench.serving import cases, wire
from bench.serving.framing import Broken, Framing, head_of
from bench.serving.wire import Endpoint, Pool, make_room
from bench.tests.serving.mock import Manners, Mock
from bench.tests.serving.values import MANIFEST, asks

CHUNKED = {"transfer-encoding": "chunked"}


@pytest.mark.parametrize("step", [1, 2, 3, 7, 100])
def test_chunks_come_out_whole_however_they_are_cut(step: int) -> None:
    wire = b"5\r\nhello\r\n1;x=y\r\n \r\n0005\r\nworld\r\n0\r\nTrailer: t\r\n\r\n"
    framing = Framing(CHUNKED)
    parts = [framing.feed(wire[k : k + step]) for k in range(0, len(wire), step)]
    assert b"".join(parts) == b"hello world" and framing.done


def test_a_body_of_stated_length_ends_there() -> None:
    framing = Framing({"content-length": "5"})
    assert framing.feed(b"hel") + framing.feed(b"lo") == b"hello" and framing.done
    assert Framing({"content-length": "0"}).done
    assert Framing({}).to_the_end


@pytest.mark.parametrize(
    ("headers", "wire"),
    [
        (CHUNKED, b"zz\r\n"),
        (CHUNKED, b"-1\r\n"),
        (CHUNKED, b"2\r\nhello\r\n"),
        (CHUNKED, b"ffffffffff\r\n"),
        (CHUNKED, b"1" * 2000),
        ({"content-length": "2"}, b"hello"),
        ({"content-length": "-2"}, b""),
        ({"content-length": "2x"}, b""),
        ({"transfer-encoding": "gzip"}, b""),
    ],
)
def test_what_is_no_body_is_refused(headers: dict[str, str], wire: bytes) -> None:
    with pytest.raises(Broken):
        Framing(headers).feed(wire)


@pytest.mark.parametrize(
    "text",
    [
        "SMTP/1.1 200 OK",
        "HTTP/2 200",
        "HTTP/1.1 two",
        "HTTP/1.1 200 OK\r\nno colon",
        "HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2",
    ],
)
def test_what_is_no_head_is_refused(text: str) -> None:
    with pytest.raises(Broken):
        head_of(text)


@pytest.mark.parametrize(
    ("url", "endpoint"),
    [
        ("http://127.0.0.1:8000", Endpoint("127.0.0.1", 8000, False, "")),
        ("http://[::1]:8000/v1/", Endpoint("::1", 8000, False, "")),
        ("http://[FE80::1%25eth0]:8000", Endpoint("fe80::1%eth0", 8000, False, "")),
        ("http://[fe80::1%12]:8000", Endpoint("fe80::1%12", 8000, False, "")),
        ("https://host/proxy/v1", Endpoint("host", 443, True, "/proxy")),
        ("http://h:1/v1/chat/completions", Endpoint("h", 1, False, "")),
        ("http://b\u00fccher.example/v1", Endpoint("xn--bcher-kva.example", 80, False, "")),
    ],
)
def test_an_address_is_read(url: str, endpoint: Endpoint) -> None:
    assert Endpoint.of(url) == endpoint


@pytest.mark.parametrize(
    "url",
    [
        *(
            "host:8000",
            "ftp://host",
            "http://",
            "http://h:x",
            "http://h:0",
            "http://u:secret@h",
            "http://h?key=1",
        ),
        # The resolver's own encoding of a name fails, or the request's of a path.
        *("http://192.168.1..5:8000", f"http://{'a' * 70}.example", "http://h/\u65e5"),
        *("http://u:secret@h..i", "http://u:secret@h:x", "ftp://u:secret@h"),
    ],
)
def test_what_is_no_address_is_refused_without_its_secrets(url: str) -> None:
    with pytest.raises(ServerError) as error:
        Endpoint.of(url)
    assert "secret" not in str(error.value) and "--endpoint" in str(error.value)


def test_the_link_of_an_address_is_not_told_to_the_server() -> None:
    assert Endpoint.of("http://[fe80::1%25eth0]:8000").authority == "[fe80::1]:8000"
    assert Endpoint.of("http://[::1]:8000").authority == "[::1]:8000"


def test_a_host_whose_first_address_says_nothing_is_reached_at_its_second(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(wire, "NEXT_SECONDS", 0.001)
    monkeypatch.setattr(wire, "CONNECT_SECONDS", 2.0)

    async def status(port: int) -> int:
        loop = asyncio.get_running_loop()
        connect = loop.sock_connect

        async def addresses(host: str, port: int, **other: object) -> list[tuple[Any, ...]]:
            inet = (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "")
            return [(*inet, (one, port)) for one in ("198.51.100.7", "127.0.0.1")]

        async def to(sock: socket.socket, address: tuple[str, int]) -> None:
            if address[0] != "127.0.0.1":
                await asyncio.sleep(60)  # what drops all packets
            await connect(sock, address)

        monkeypatch.setattr(loop, "getaddrinfo", addresses)
        monkeypatch.setattr(loop, "sock_connect", to)
        pool = Pool(Endpoint.of(f"http://server.example:{port}"))
        try:
            return (await pool.get("/v1/models"))[0].status
        finally:
            pool.close()

    mock = Mock(Manners())
    with mock.running():
        assert asyncio.run(status(mock.port)) == 200


def test_a_connection_is_used_again_and_a_token_goes_along() -> None:
    mock = Mock(Manners(token="abc"))

    async def ask(token: str | None) -> tuple[int, int]:
        pool = Pool(Endpoint.of(url), token)
        statuses = {(await pool.get("/v1/models"))[0].status for _ in range(3)}
        connections = len(pool._all)
        pool.close()
        assert connections == 1
        return statuses.pop(), len(statuses)

    with mock.running() as url:
        assert asyncio.run(ask("abc")) == (200, 0)
        assert asyncio.run(ask(None)) == (401, 0)


def certified(folder: Path) -> tuple[ssl.SSLContext, Path]:
    """A server's context with a certificate of its own, and that certificate."""
    import datetime
    import ipaddress

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "mock")])
    now = datetime.datetime.now(datetime.UTC)
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    built = x509.CertificateBuilder().subject_name(name).issuer_name(name)
    built = built.public_key(key.public_key()).serial_number(1)
    built = built.not_valid_before(now - datetime.timedelta(days=1))
    built = built.not_valid_after(now + datetime.timedelta(days=1))
    built = built.add_extension(x509.SubjectAlternativeName([address]), critical=False)
    built = built.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    certificate = built.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    (folder / "both.pem").write_bytes(private + certificate)
    (folder / "certificate.pem").write_bytes(certificate)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "both.pem")
    return context, folder / "certificate.pem"


def test_tls_is_spoken_only_with_whom_is_trusted(tmp_path: Path) -> None:
    context, certificate = certified(tmp_path)
    trusting = ssl.create_default_context(cafile=str(certificate))

    async def status(trust: ssl.SSLContext | None) -> int:
        pool = Pool(Endpoint.of(url), None, trust)
        try:
            return (await pool.get("/v1/models"))[0].status
        finally:
            pool.close()

    with Mock(Manners(), context).running() as url:
        assert asyncio.run(status(trusting)) == 200
        with pytest.raises(Broken, match="not trusted"):
            asyncio.run(status(None))


def test_a_server_that_is_not_there_says_so() -> None:
    with Mock(Manners()).running() as url:
        pass  # the port was free, and is again

    async def ask() -> None:
        await Pool(Endpoint.of(url)).get("/v1/models")

    with pytest.raises(Broken, match="no connection"):
        asyncio.run(ask())


@pytest.mark.parametrize(
    ("soft", "hard", "room", "then"),
    [
        (1024, 4096, (2000, 2000), 2064),
        (1024, 4096, (1, 5000), 4096),
        (1024, -1, (5000, 5000), 5064),
        (-1, -1, (5000, 5000), -1),
        (4096, 4096, (2000, 2000), 4096),
        (256, 300, (1, 20_000), 300),
        # As macOS, whose limit is not said to be one.
        (256, -1, (1, 20_000), 10_240),
        (256, -1, (1000, 20_000), 10_240),
        (256, 30_000, (1000, 20_000), 10_240),
    ],
)
def test_as_many_connections_as_a_load_needs_are_allowed(
    monkeypatch: pytest.MonkeyPatch, soft: int, hard: int, room: tuple[int, int], then: int
) -> None:
    resource = pytest.importorskip("resource")
    now = [(soft, hard)]

    def limit(kind: int, wanted: tuple[int, int]) -> None:
        if wanted[0] > 10_240:
            raise ValueError("current limit exceeds maximum limit")
        now.append(wanted)

    monkeypatch.setattr(resource, "RLIM_INFINITY", -1)
    monkeypatch.setattr(resource, "getrlimit", lambda kind: now[-1])
    monkeypatch.setattr(resource, "setrlimit", limit)
    make_room(*room)
    assert now[-1] == (then, hard)
    needs = "20000 requests in flight need 20064 open files; this system allows"
    if soft > 0:
        with pytest.raises(ServerError, match=needs):
            make_room(20_000, 20_000)


@pytest.mark.parametrize(("surely", "then"), [(1000, 1064), (1, 256)])
def test_where_less_than_what_may_be_needed_is_allowed_what_is_needed_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, surely: int, then: int
) -> None:
    resource = pytest.importorskip("resource")
    now = [(256, -1)]

    def limit(kind: int, wanted: tuple[int, int]) -> None:
        if wanted[0] > 2000:
            raise OSError(errno.EPERM, "Operation not permitted")
        now.append(wanted)

    monkeypatch.setattr(resource, "RLIM_INFINITY", -1)
    monkeypatch.setattr(resource, "getrlimit", lambda kind: now[-1])
    monkeypatch.setattr(resource, "setrlimit", limit)
    make_room(surely, 20_000)
    assert now[-1] == (then, -1)


def test_requests_at_random_need_not_be_in_flight_together() -> None:
    loads = cases.cases(asks(rates=(5.0,), offline=True, requests=60), MANIFEST)
    assert [cases.in_flight(one) for one in loads] == [(4, 4), (1, 60), (60, 60)]


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (errno.EMFILE, "(this client may open no more files; raise ulimit -n)"),
        # Of all processes: no limit of this one's helps.
        (errno.ENFILE, "(too many for the system)"),
    ],
)
def test_that_this_client_may_open_no_more_files_is_not_said_of_the_server(
    monkeypatch: pytest.MonkeyPatch, number: int, said: str
) -> None:
    def none_left(*given: object, **also: object) -> socket.socket:
        raise OSError(number, "too many for the system")

    async def connected() -> None:
        pool = Pool(Endpoint.of("http://127.0.0.1:9"))
        monkeypatch.setattr(asyncio.get_running_loop(), "create_connection", none_left)
        await pool.connection()

    with pytest.raises(Broken, match=re.escape(said)):
        asyncio.run(connected())
