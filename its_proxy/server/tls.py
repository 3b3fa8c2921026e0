"""TLS by two files: a certificate chain and its key, both PEM."""

import ssl
from pathlib import Path

from its_proxy.codesign.errors import ConfigError
from its_proxy.settings import Settings


def tls_of(settings: Settings) -> ssl.SSLContext | None:
    """None where plain HTTP is spoken."""
    if settings.tls_cert is None or settings.tls_key is None:
        return None
    return tls_context(settings.tls_cert, settings.tls_key)


def tls_context(cert: Path, key: Path) -> ssl.SSLContext:
    """TLS 1.2 or later for a server. Raises ConfigError naming the file at fault."""
    for name, path in (("tls_cert", cert), ("tls_key", key)):
        try:
            text = path.read_bytes()
        except OSError as error:
            reason = (error.strerror or "cannot be read").lower()
            raise ConfigError(f"{name}: {path}: {reason}") from None
        if b"-----BEGIN " not in text:
            raise ConfigError(f"{name}: {path} is not a PEM file")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    try:
        # An encrypted key would have a server that starts by itself wait for somebody to type.
        context.load_cert_chain(cert, key, password=_refuse_to_ask)
    except _Encrypted:
        raise ConfigError(f"tls_key: {key} is encrypted", hint="give a key without a pass phrase") from None
    except ssl.SSLError as error:
        is_pair = "MISMATCH" in (error.reason or "")
        reason = "does not belong to the certificate" if is_pair else "is no usable key beside this certificate"
        raise ConfigError(f"tls_key: {key} {reason}", hint=f"the certificate is {cert}") from None
    return context


class _Encrypted(Exception):
    pass


def _refuse_to_ask() -> str:
    raise _Encrypted
