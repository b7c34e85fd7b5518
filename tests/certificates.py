"""A certificate authority made for one run, and a server certificate of it."""

import datetime
import ssl
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


@dataclass(frozen=True)
class Trust:
    """`server` proves to be `host` to who trusts `client`'s authority."""

    host: str
    server: ssl.SSLContext
    client: ssl.SSLContext


def make(directory: Path, host: str) -> Trust:
    """Make an authority and a certificate for a name and 127.0.0.1; the server's keys lie in the directory."""
    authority_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    authority = _builder("trace_ray tests", "trace_ray tests", authority_key.public_key())
    authority = authority.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    names = [x509.DNSName(host), x509.IPAddress(ip_address("127.0.0.1"))]
    leaf = _builder(host, "trace_ray tests", key.public_key())
    leaf = leaf.add_extension(x509.SubjectAlternativeName(names), critical=False)
    signed = leaf.sign(authority_key, hashes.SHA256())
    root = authority.sign(authority_key, hashes.SHA256())
    file = directory / "server.pem"
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    file.write_bytes(private + signed.public_bytes(serialization.Encoding.PEM))
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(file)
    pem = root.public_bytes(serialization.Encoding.PEM).decode()
    return Trust(host, server, ssl.create_default_context(cadata=pem))


def _builder(subject: str, issuer: str, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return x509.CertificateBuilder(
        issuer_name=x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]),
        subject_name=x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)]),
        public_key=key,
        serial_number=x509.random_serial_number(),
        not_valid_before=now - datetime.timedelta(days=1),
        not_valid_after=now + datetime.timedelta(days=1),
    )
