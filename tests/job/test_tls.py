"""TLS in a slim image: verified by certifi's certificates, with none of the system's to be found."""

import ssl
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import IPv4Address
from pathlib import Path

import certifi
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from pydantic import SecretStr

from job.environment import OwnPod
from job.provider import Api, Provider, connect


def certificate(folder: Path) -> tuple[Path, Path]:
    """Make a certificate that vouches for itself, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a provider of this test")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))]), False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        .sign(key, hashes.SHA256())
    )
    (folder / "certificate.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return folder / "certificate.pem", folder / "key.pem"


class Yes(BaseHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass

    def do_DELETE(self) -> None:
        self.send_response(204)
        self.end_headers()


@pytest.fixture
def slim(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without certificates: these two are where OpenSSL looks for the system's, too."""
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "none.pem"))
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path / "none"))
    assert not ssl.create_default_context().get_ca_certs()


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[Provider, Path]]:
    """A provider on HTTPS, and the certificate by which it can be verified."""
    public, private = certificate(tmp_path)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Yes)
    server.daemon_threads = True
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(public, private)
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    own = OwnPod("pod-1", SecretStr("key"), f"https://127.0.0.1:{server.server_address[1]}")
    yield Provider(own), public
    server.shutdown()
    server.server_close()


@pytest.mark.usefixtures("slim")
def test_certifi_comes_with_the_job() -> None:
    assert len(ssl.create_default_context(cafile=certifi.where()).get_ca_certs()) > 50
    connect(trust_env=False).close()


@pytest.mark.usefixtures("slim")
def test_a_pod_ends_itself_without_the_systems_certificates(
    served: tuple[Provider, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    own, public = served
    monkeypatch.setattr(certifi, "where", lambda: str(public))
    said = own.terminate(Api.V2)
    assert said.yes, said.words


@pytest.mark.usefixtures("slim")
def test_who_is_not_verified_gets_no_key(served: tuple[Provider, Path]) -> None:
    said = served[0].terminate(Api.V2)
    assert not said.yes and not said.answered and "ConnectError" in said.words


def test_certificates_that_only_the_environment_knows_are_the_second_way(
    served: tuple[Provider, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    own, public = served
    monkeypatch.setenv("SSL_CERT_FILE", str(public))
    assert not own.terminate(Api.V2).yes
    assert own.terminate(Api.V2, trust_env=True).yes
