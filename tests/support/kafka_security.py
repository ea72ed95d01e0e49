"""A secure Kafka for tests: users, certificates, tokens and access control of its own.

    with ApacheKafka(secure=(secure := Secure())) as kafka:
        settings = own_settings(kafka, **secure.sign_in("SCRAM-SHA-512"))

The plaintext listener stays: its users are super users, who grant rights to the others. Nothing else is
permitted to anybody but ALICE, who may do everything, also by certificate and token.
"""

from __future__ import annotations

import base64
import json
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import trustme
from apache_kafka import HOST, free_ports
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

ALICE = "alice"
BOB = "bob"  # may do nothing until something is granted to him
PASSWORDS = {ALICE: "alice-knows", BOB: "bob-knows"}
KEY_PASSWORD = "opens-the-key"
SCOPE = "images"
SCRAM = ("SCRAM-SHA-256", "SCRAM-SHA-512")
ITERATIONS = 4096
KAFKA = "org.apache.kafka.common.security"

#: Listener and its protocol; MISNAMED shows a certificate of another host.
LISTENERS = {"SASL": "SASL_SSL", "MTLS": "SSL", "MISNAMED": "SASL_SSL"}


class Secure:
    """Listeners with TLS and SASL on one node; `sign_in` has the settings that open them."""

    def __init__(self) -> None:
        self._ports = dict(zip(LISTENERS, free_ports(len(LISTENERS)), strict=True))
        self._folder = Path()
        self._issuer = Issuer()
        self._ca = trustme.CA()

    @property
    def protocols(self) -> dict[str, str]:
        return LISTENERS

    @property
    def scram(self) -> list[str]:
        return [
            f"{mechanism}=[name={user},iterations={ITERATIONS},password={password}]"
            for mechanism in SCRAM
            for user, password in PASSWORDS.items()
        ]

    @property
    def java_options(self) -> list[str]:
        return [f"-Dorg.apache.kafka.sasl.oauthbearer.allowed.urls={self._keys.as_uri()}"]

    @property
    def properties(self) -> dict[str, str]:
        plain = " ".join(f'user_{user}="{password}"' for user, password in PASSWORDS.items())
        own = {
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "super.users": f"User:ANONYMOUS;User:{ALICE}",
            "ssl.principal.mapping.rules": r"RULE:^.*CN=([^,]+).*$/$1/,DEFAULT",
            "listener.name.mtls.ssl.client.auth": "required",
        }
        for listener in LISTENERS:
            tls, certificate = (
                f"listener.name.{listener.lower()}.ssl",
                "misnamed" if listener == "MISNAMED" else "server",
            )
            own |= {
                f"{tls}.keystore.type": "PEM",
                f"{tls}.keystore.location": str(self._folder / f"{certificate}.pem"),
                f"{tls}.truststore.type": "PEM",
                f"{tls}.truststore.location": str(self.ca),
            }
        for listener in ("sasl", "misnamed"):
            sasl = f"listener.name.{listener}"
            own |= {
                f"{sasl}.sasl.enabled.mechanisms": ",".join(("PLAIN", *SCRAM, "OAUTHBEARER")),
                f"{sasl}.plain.sasl.jaas.config": f"{KAFKA}.plain.PlainLoginModule required {plain};",
                f"{sasl}.oauthbearer.sasl.jaas.config": f"{KAFKA}.oauthbearer.OAuthBearerLoginModule required;",
                f"{sasl}.oauthbearer.sasl.server.callback.handler.class": (
                    f"{KAFKA}.oauthbearer.OAuthBearerValidatorCallbackHandler"
                ),
                f"{sasl}.oauthbearer.sasl.oauthbearer.jwks.endpoint.url": self._keys.as_uri(),
                f"{sasl}.oauthbearer.sasl.oauthbearer.expected.issuer": self._issuer.name,
                f"{sasl}.oauthbearer.sasl.oauthbearer.expected.audience": "kafka",
            }
            for mechanism in SCRAM:
                own[f"{sasl}.{mechanism.lower()}.sasl.jaas.config"] = f"{KAFKA}.scram.ScramLoginModule required;"
        return own

    def listeners(self, node: int) -> dict[str, str]:
        assert node == 0
        return {name: self.address(name) for name in LISTENERS}

    @contextmanager
    def prepared(self, folder: Path) -> Iterator[None]:
        """Certificates and the issuer's keys in `folder`; the issuer answers as long as this lasts."""
        self._folder = folder
        self._ca.cert_pem.write_to_path(self.ca)
        trustme.CA().cert_pem.write_to_path(self.strange_ca)
        for name, host in (("server", HOST), ("misnamed", "elsewhere.example")):
            issued = self._ca.issue_cert(host)
            (folder / f"{name}.pem").write_bytes(_key(issued) + b"".join(pem.bytes() for pem in issued.cert_chain_pems))
        client = self._ca.issue_cert("alice@clients.example", common_name=ALICE)
        self.certificate.write_bytes(b"".join(pem.bytes() for pem in client.cert_chain_pems))
        self.key.write_bytes(_key(client))
        self.locked_key.write_bytes(_key(client, KEY_PASSWORD))
        self._keys.write_text(json.dumps(self._issuer.keys()))
        with self._issuer.answering():
            yield

    @property
    def ca(self) -> Path:
        """Who has signed the brokers' certificates."""
        return self._folder / "ca.pem"

    @property
    def strange_ca(self) -> Path:
        """Who has signed none."""
        return self._folder / "strange-ca.pem"

    @property
    def certificate(self) -> Path:
        """Alice's certificate."""
        return self._folder / "alice.pem"

    @property
    def key(self) -> Path:
        """Alice's private key."""
        return self._folder / "alice.key"

    @property
    def locked_key(self) -> Path:
        """The same, opened by KEY_PASSWORD."""
        return self._folder / "alice.locked.key"

    def address(self, listener: str) -> str:
        """host:port of a listener, a key of LISTENERS."""
        return f"{HOST}:{self._ports[listener]}"

    def sign_in(self, how: str, user: str = ALICE) -> dict[str, Any]:
        """Fields of KafkaSettings; `how` is a SASL mechanism or "mTLS"."""
        if how == "mTLS":
            return {
                "bootstrap_servers": self.address("MTLS"),
                "security_protocol": "SSL",
                "ssl_ca_location": str(self.ca),
                "ssl_certificate_location": str(self.certificate),
                "ssl_key_location": str(self.key),
            }
        signed = {
            "bootstrap_servers": self.address("SASL"),
            "security_protocol": "SASL_SSL",
            "sasl_mechanism": how,
            "ssl_ca_location": str(self.ca),
        }
        if how == "OAUTHBEARER":
            return signed | {
                "sasl_oauth_token_endpoint": self._issuer.endpoint,
                "sasl_oauth_client_id": user,
                "sasl_oauth_client_secret": PASSWORDS[user],
                "sasl_oauth_scope": SCOPE,
            }
        return signed | {"sasl_username": user, "sasl_password": PASSWORDS[user]}

    @property
    def _keys(self) -> Path:
        return self._folder / "keys.json"


class Issuer:
    """The smallest OpenID Connect issuer: signed tokens for who knows a client's secret."""

    def __init__(self) -> None:
        self._key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self._server = ThreadingHTTPServer((HOST, 0), _handler(self))
        self._server.daemon_threads = True

    @property
    def name(self) -> str:
        return f"http://{HOST}:{self._server.server_port}"

    @property
    def endpoint(self) -> str:
        return f"{self.name}/token"

    def keys(self) -> dict[str, Any]:
        """The public keys, as a JSON Web Key Set."""
        public = self._key.public_key().public_numbers()
        numbers = {
            name: _base64(value.to_bytes((value.bit_length() + 7) // 8, "big"))
            for name, value in (("n", public.n), ("e", public.e))
        }
        return {"keys": [{"kty": "RSA", "use": "sig", "alg": "RS256", "kid": "only", **numbers}]}

    def token(self, user: str) -> str:
        """A token that speaks for `user` for an hour."""
        now = int(time.time())
        header = {"alg": "RS256", "typ": "JWT", "kid": "only"}
        claims = {"iss": self.name, "aud": "kafka", "sub": user, "scope": SCOPE, "iat": now, "exp": now + 3600}
        body = ".".join(_base64(json.dumps(part).encode()) for part in (header, claims | {"jti": secrets.token_hex(8)}))
        return f"{body}.{_base64(self._key.sign(body.encode(), padding.PKCS1v15(), hashes.SHA256()))}"

    @contextmanager
    def answering(self) -> Iterator[None]:
        thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        yield
        self._server.shutdown()
        self._server.server_close()
        thread.join()


def _handler(issuer: Issuer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
            scheme, _, credentials = self.headers.get("Authorization", "").partition(" ")
            user, _, secret = base64.b64decode(credentials).decode().partition(":")
            known = scheme == "Basic" and user in PASSWORDS and secrets.compare_digest(secret, PASSWORDS[user])
            if known and asked == {"grant_type": ["client_credentials"], "scope": [SCOPE]}:
                self._answer(200, {"access_token": issuer.token(user), "token_type": "Bearer", "expires_in": 3600})
            else:
                self._answer(401, {"error": "invalid_client", "error_description": "who is that?"})

        def _answer(self, status: int, document: dict[str, Any]) -> None:
            body = json.dumps(document).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    return Handler


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def _key(certificate: trustme.LeafCert, password: str | None = None) -> bytes:
    """The private key as PKCS #8, the one form that Kafka reads."""
    key = serialization.load_pem_private_key(certificate.private_key_pem.bytes(), None)
    lock: serialization.KeySerializationEncryption = serialization.NoEncryption()
    if password is not None:
        lock = serialization.BestAvailableEncryption(password.encode())
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, lock)
