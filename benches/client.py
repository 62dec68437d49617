"""The little of Postgres's protocol that ten thousand idle clients need: login by SCRAM-SHA-256, one simple query."""

import base64
import functools
import hashlib
import hmac
import os
import socket
import ssl
import struct

import setting

TIMEOUT_SECONDS = 60
PROTOCOL = 0x0003_0000
SSL_REQUEST = 80877103
AUTHENTICATION_OK, SASL, SASL_CONTINUE, SASL_FINAL = 0, 10, 11, 12

_tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
# The certificate is the measurement's own.
_tls.check_hostname = False
_tls.verify_mode = ssl.CERT_NONE


class Refused(Exception):
    """The endpoint answered with an error, or not as the protocol wants it."""


class Client:
    """A connection that has logged in."""

    def __init__(self, port, database, tls=False):
        self._socket = socket.create_connection((setting.host, port), TIMEOUT_SECONDS)
        try:
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if tls:
                self._start_tls()
            self._log_in(database)
        except BaseException:
            self._socket.close()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._socket.close()

    def query(self, text):
        self._send(b"Q", text.encode() + b"\0")
        self._await_ready()

    def _start_tls(self):
        self._socket.sendall(struct.pack("!II", 8, SSL_REQUEST))
        if self._receive_exactly(1) != b"S":
            raise Refused("no TLS here")
        self._socket = _tls.wrap_socket(self._socket)

    def _log_in(self, database):
        parameters = ("user", setting.user, "database", database, "")
        body = struct.pack("!I", PROTOCOL) + b"".join(word.encode() + b"\0" for word in parameters)
        self._socket.sendall(struct.pack("!I", len(body) + 4) + body)
        exchange = Scram(setting.password)
        while True:
            kind, body = self._receive()
            if kind != b"R":
                raise Refused(f"a message {kind} at login")
            (step,) = struct.unpack_from("!I", body)
            if step == AUTHENTICATION_OK:
                return self._await_ready()
            if step == SASL:
                first = exchange.first()
                self._send(b"p", b"SCRAM-SHA-256\0" + struct.pack("!I", len(first)) + first)
            elif step == SASL_CONTINUE:
                self._send(b"p", exchange.final(body[4:]))
            elif step != SASL_FINAL:
                raise Refused(f"a login of kind {step}")

    def _await_ready(self):
        while self._receive()[0] != b"Z":
            pass

    def _send(self, kind, body):
        self._socket.sendall(kind + struct.pack("!I", len(body) + 4) + body)

    def _receive(self):
        kind, length = struct.unpack("!cI", self._receive_exactly(5))
        body = self._receive_exactly(length - 4)
        if kind == b"E":
            raise Refused(body.replace(b"\0", b" ").decode(errors="replace"))
        return kind, body

    def _receive_exactly(self, count):
        received = bytearray()
        while len(received) < count:
            part = self._socket.recv(count - len(received))
            if not part:
                raise ConnectionError("the connection was closed")
            received += part
        return bytes(received)


class Scram:
    """The client's side of SCRAM-SHA-256 (RFC 5802), without channel binding. It trusts the server."""

    def __init__(self, password):
        self._password = password
        self._first_bare = "n=,r=" + base64.b64encode(os.urandom(18)).decode()

    def first(self):
        return ("n,," + self._first_bare).encode()

    def final(self, challenge):
        attributes = dict(part.split("=", 1) for part in challenge.decode().split(","))
        client_key = _client_key(self._password, attributes["s"], int(attributes["i"]))
        without_proof = "c=biws,r=" + attributes["r"]
        signed = ",".join((self._first_bare, challenge.decode(), without_proof))
        signature = hmac.digest(hashlib.sha256(client_key).digest(), signed.encode(), "sha256")
        proof = bytes(key ^ mask for key, mask in zip(client_key, signature))
        return (without_proof + ",p=" + base64.b64encode(proof).decode()).encode()


@functools.lru_cache
def _client_key(password, salt, iterations):
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), base64.b64decode(salt), iterations)
    return hmac.digest(salted, b"Client Key", "sha256")
