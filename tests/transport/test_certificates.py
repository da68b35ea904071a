"""Files that are usable, and those that are not, each called by its name."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from pico.config import TlsFiles
from pico.errors import ConfigError
from pico.transport.certificates import client_context, server_context, validity
from tests.certificates import Authority


def expect_fault(files: TlsFiles, field: str, value: str) -> None:
    with pytest.raises(ConfigError) as caught:
        server_context(files)
    assert (caught.value.field, caught.value.value) == (field, value)


def test_a_fault_of_the_files_names_the_file(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    files = authority.issue("localhost")
    missing, junk = str(tmp_path / "missing.pem"), tmp_path / "junk.pem"
    junk.write_text("junk")
    other = authority.issue("other.example")
    locked = authority.issue("localhost", passphrase=b"secret")
    expect_fault(TlsFiles(certificate=missing, key=files.key), "certificate", missing)
    expect_fault(TlsFiles(certificate=files.certificate, key=missing), "key", missing)
    expect_fault(TlsFiles(certificate=str(junk), key=files.key), "certificate", str(junk))
    expect_fault(TlsFiles(certificate=str(junk), key=str(junk)), "certificate", str(junk))
    expect_fault(TlsFiles(certificate=files.key, key=files.key), "certificate", files.key)
    expect_fault(TlsFiles(certificate=files.certificate, key=str(junk)), "key", str(junk))
    expect_fault(TlsFiles(certificate=files.certificate, key=files.certificate), "key", files.certificate)
    expect_fault(TlsFiles(certificate=files.certificate, key=other.key), "key", other.key)
    expect_fault(locked, "key", locked.key)
    with pytest.raises(ConfigError, match="passphrase"):
        server_context(locked)
    weak = authority.issue("localhost", weak=True)
    expect_fault(weak, "certificate", weak.certificate)
    for ca_file in (missing, str(junk), str(tmp_path)):
        with pytest.raises(ConfigError, match=ca_file):
            client_context(ca_file)


def test_from_when_and_until_when_a_certificate_is_valid(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    now = time.time()
    since, until = validity(authority.issue("node.example").certificate)
    assert since < now < until
    since, until = validity(authority.issue("node.example", expired=True).certificate)
    assert since < until < now
    since, until = validity(authority.issue("node.example", early=True).certificate)
    assert now < since < until
    with pytest.raises(ConfigError, match="certificates in PEM"):
        validity(authority.issue("node.example").key)
    with pytest.raises(ConfigError):
        validity(str(tmp_path / "none.pem"))
