# SPDX-License-Identifier: Apache-2.0
"""Mutual TLS for receiving and for sending."""

from __future__ import annotations

import ssl

from .settings import SettingsError, Tls

__all__ = ["client_context", "server_context"]


def server_context(tls: Tls) -> ssl.SSLContext:
    """Context for callers, who must present a certificate that one of the authorities has signed.

    Raises:
        SettingsError: if the files cannot be used.
    """
    return _load(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), tls)


def client_context(tls: Tls) -> ssl.SSLContext:
    """Context for destinations, whose certificate must name their host and be signed by one of the authorities.

    Raises:
        SettingsError: if the files cannot be used.
    """
    return _load(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), tls)


def _load(context: ssl.SSLContext, tls: Tls) -> ssl.SSLContext:
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.verify_mode = ssl.CERT_REQUIRED
    try:
        context.load_cert_chain(tls.certificate, tls.key)
        context.load_verify_locations(tls.authorities)
    except OSError as error:  # ssl.SSLError is one
        raise SettingsError(f"tls must name PEM files that belong together, got: {error}; correct them") from error
    return context
