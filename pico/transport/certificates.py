"""Contexts of TLS, from the files that hold certificates, keys and authorities.

Responsible for: what every context has in common, and naming the file at fault where one cannot be used. Refuses to
know: whose files they are, when they are read again, and what is done with a context (``pico.transport.tls``).
"""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Final

from cryptography import x509

from pico.config import TlsFiles
from pico.errors import ConfigError
from pico.transport.tls import tls_reason

__all__ = ["client_context", "server_context", "validity"]

WEAK: Final = frozenset(("EE_KEY_TOO_SMALL", "CA_KEY_TOO_SMALL", "CA_MD_TOO_WEAK"))
"""What the library says of a certificate that it reads and does not take."""

ALPN: Final = ["http/1.1"]  # and so no HTTP/2, which we do not speak


def server_context(files: TlsFiles) -> ssl.SSLContext:
    """For a door; raises ``ConfigError`` that names the file at fault."""
    _check_readable("certificate", files.certificate)
    _check_readable("key", files.key)
    context = _context(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(files.certificate, files.key, password=lambda: _refuse_password(files.key))
    except ssl.SSLError as error:
        raise _fault_of(files, error) from error
    return context


def _fault_of(files: TlsFiles, error: ssl.SSLError) -> ConfigError:
    """Which of the two files is at fault, which the library does not say."""
    if error.reason == "KEY_VALUES_MISMATCH":
        return ConfigError("key", files.key, f"the private key of {files.certificate}")
    if error.reason in WEAK:
        return ConfigError("certificate", files.certificate, f"a stronger certificate ({tls_reason(error)})")
    try:
        validity(files.certificate)
    except ConfigError as found:
        return found
    return ConfigError("key", files.key, "a private key in PEM")


def validity(certificate_file: str) -> tuple[float, float]:
    """From when and until when the first certificate in the file is valid, in seconds since 1970.

    Raises ``ConfigError``.
    """
    _check_readable("certificate", certificate_file)
    try:
        first, *_ = x509.load_pem_x509_certificates(Path(certificate_file).read_bytes())
    except ValueError as error:
        raise ConfigError("certificate", certificate_file, "certificates in PEM") from error
    return first.not_valid_before_utc.timestamp(), first.not_valid_after_utc.timestamp()


def client_context(ca_file: str = "") -> ssl.SSLContext:
    """Verifies the peer against ``ca_file``, or against the system's authorities; raises ``ConfigError``."""
    context = _context(ssl.PROTOCOL_TLS_CLIENT)
    if not ca_file:
        context.load_default_certs(ssl.Purpose.SERVER_AUTH)
        return context
    _check_readable("ca_file", ca_file)
    try:
        context.load_verify_locations(cafile=ca_file)
    except ssl.SSLError as error:
        raise ConfigError("ca_file", ca_file, "certificates in PEM") from error
    return context


def _context(protocol: int) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    # Some releases of Python set this: a body that was cut short would look complete.
    context.options &= ~ssl.OP_IGNORE_UNEXPECTED_EOF
    context.set_alpn_protocols(ALPN)
    return context


def _check_readable(field: str, path: str) -> None:
    try:
        with Path(path).open("rb"):
            pass
    except OSError as error:
        raise ConfigError(field, path, f"a readable file ({(error.strerror or str(error)).lower()})") from error


def _refuse_password(key: str) -> str:
    raise ConfigError("key", key, "a key without a passphrase")
