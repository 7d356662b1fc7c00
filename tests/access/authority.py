"""Certificates for tests: an authority that issues whatever it is asked for, as files."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from itertools import count
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from tests.servers.ports import HOST

_numbers = count(1)
SERVER = (x509.IPAddress(ip_address(HOST)), x509.DNSName("localhost"))


class Authority:
    """One that keeps its files in *folder*: `ca.pem` is its own certificate."""

    def __init__(self, folder: Path, name: str = "authority") -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        is_ca = x509.BasicConstraints(ca=True, path_length=None)
        self._certificate = (
            _unsigned(self._name, self._name, self._key.public_key(), timedelta(days=1))
            .add_extension(is_ca, critical=True)
            .add_extension(_signs_certificates(), critical=True)
            .add_extension(self._identifier(), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        self.file = folder / f"{name}.pem"
        self.file.write_bytes(_pem(self._certificate))

    def issue(
        self, *names: x509.GeneralName, lifetime: timedelta = timedelta(days=1), is_server: bool = False
    ) -> tuple[Path, Path]:
        """Return the files of a new certificate with *names*, and of its key."""
        usage = ExtendedKeyUsageOID.SERVER_AUTH if is_server else ExtendedKeyUsageOID.CLIENT_AUTH
        key = ec.generate_private_key(ec.SECP256R1())
        common = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "not looked at")])
        unsigned = _unsigned(common, self._name, key.public_key(), lifetime)
        unsigned = unsigned.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        # Python 3.13 and newer take no certificate that does not say whose key signed it.
        issuer = x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(self._identifier())
        unsigned = unsigned.add_extension(issuer, critical=False)
        if names:
            unsigned = unsigned.add_extension(x509.SubjectAlternativeName(names), critical=False)
        stem = self._folder / f"{next(_numbers)}"
        files = stem.with_suffix(".crt"), stem.with_suffix(".key")
        files[0].write_bytes(_pem(unsigned.sign(self._key, hashes.SHA256())))
        files[1].write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        return files

    def _identifier(self) -> x509.SubjectKeyIdentifier:
        return x509.SubjectKeyIdentifier.from_public_key(self._key.public_key())

    def settings_for_a_server(self) -> dict[str, str]:
        """Return the settings of a server with a certificate of ours."""
        certificate, key = self.issue(*SERVER, is_server=True)
        return {"TLS_CERT_FILE": str(certificate), "TLS_KEY_FILE": str(key)}

    def trust(self, shown: tuple[Path, Path] | None = None) -> ssl.SSLContext:
        """Return what a client trusts us with, and what it shows."""
        context = ssl.create_default_context(cafile=self.file)
        if shown is not None:
            context.load_cert_chain(*shown)
        return context


def _signs_certificates() -> x509.KeyUsage:
    others = (
        "digital_signature",
        "content_commitment",
        "key_encipherment",
        "data_encipherment",
        "key_agreement",
    )
    never = dict.fromkeys((*others, "encipher_only", "decipher_only"), False)
    return x509.KeyUsage(key_cert_sign=True, crl_sign=True, **never)


def _unsigned(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, lifetime: timedelta
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=2))
        .not_valid_after(now + lifetime)
    )


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)
