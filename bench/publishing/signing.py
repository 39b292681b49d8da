"""Signatures over what was published, with the Ed25519 keys that people have for ssh.

The signature is over `SHA256SUMS`, and so over every file that it names. Its form is OpenSSH's
(PROTOCOL.sshsig), so that `ssh-keygen -Y verify -n accelmark` checks it without this program. The
mathematics is the package cryptography's: extra `sign`.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import struct
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

from bench.errors import MissingPackage, PublicationError, RecordError
from bench.records.digests import SUMS

if TYPE_CHECKING:
    from _typeshed import StrPath
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

SIGNATURE = f"{SUMS}.sig"
NAMESPACE = b"accelmark"
"""What the signature is for: a signature over something else does not pass for it."""
MAGIC, VERSION, HASH = b"SSHSIG", 1, b"sha512"
BEGIN, END = "-----BEGIN SSH SIGNATURE-----", "-----END SSH SIGNATURE-----"
KEY_TYPE = b"ssh-ed25519"
LINE = 70


def sign(folder: StrPath, key_file: StrPath, passphrase: str | None = None) -> str:
    """Signs a published folder; gives the fingerprint of the key.

    key_file: a private Ed25519 key as `ssh-keygen -t ed25519` makes it. Raises `PublicationError`
    if it is none, or if the passphrase does not open it.
    """
    folder = Path(folder)
    key = private_key(key_file, passphrase)
    public = _strings(KEY_TYPE, key.public_key().public_bytes_raw())
    signature = _strings(KEY_TYPE, key.sign(_message(folder)))
    blob = MAGIC + struct.pack(">I", VERSION) + _strings(public, NAMESPACE, b"", HASH, signature)
    text = "\n".join([BEGIN, *textwrap.wrap(base64.b64encode(blob).decode(), LINE), END, ""])
    (folder / SIGNATURE).write_text(text, encoding="ascii")
    return fingerprint(public)


def private_key(key_file: StrPath, passphrase: str | None) -> Ed25519PrivateKey:
    """The key in a file; `PublicationError` if there is none that can sign."""
    _needs_cryptography()
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_ssh_private_key

    advice = "Give a private key that `ssh-keygen -t ed25519` made."
    secret = None if passphrase is None else passphrase.encode()
    try:
        key = load_ssh_private_key(Path(key_file).read_bytes(), secret)
    except OSError as error:
        raise PublicationError(
            f"{key_file}: cannot be read ({error.strerror}). {advice}"
        ) from error
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        why = f"({error}). {advice}"
        if secret is not None and isinstance(error, ValueError):
            why = "(the passphrase does not open it). Type it again."
        raise PublicationError(f"{key_file}: cannot be used {why}") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise PublicationError(f"{key_file}: not an Ed25519 key. {advice}")
    return key


def needs_passphrase(key_file: StrPath) -> bool:
    """Whether a private key is locked."""
    try:
        private_key(key_file, None)
    except PublicationError as error:
        return isinstance(error.__cause__, TypeError)
    return False


def signer(folder: StrPath) -> str | None:
    """The fingerprint of the key that signed a folder; None where nobody did.

    Raises `RecordError` if what lies there is no good signature over its `SHA256SUMS`. Whose key it
    is must be known from elsewhere.
    """
    folder = Path(folder)
    file = folder / SIGNATURE
    if not file.exists():
        return None
    _needs_cryptography()
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        public, signature = _parse(file.read_text(encoding="ascii"))
        key = Ed25519PublicKey.from_public_bytes(public)
        key.verify(signature, _message(folder))
    except (OSError, ValueError, struct.error, InvalidSignature) as error:
        raise RecordError(
            f"{file}: this signature does not fit the folder as it is now ({error or 'changed'}). "
            "Copy the folder again from where it was published."
        ) from error
    return fingerprint(_strings(KEY_TYPE, public))


def fingerprint_of(public_key_file: StrPath) -> str:
    """The fingerprint of a public key in a file of OpenSSH's form (`id_ed25519.pub`)."""
    try:
        kind, blob, *_ = Path(public_key_file).read_text(encoding="utf-8").split()
        public = base64.b64decode(blob, validate=True)
    except (OSError, ValueError) as error:
        why = f"this is no public key of OpenSSH ({error})"
        if isinstance(error, OSError):
            missing = isinstance(error, FileNotFoundError)
            why = "there is no such file" if missing else f"cannot be read ({error.strerror})"
        raise RecordError(
            f"{public_key_file}: {why}. Give a file such as id_ed25519.pub."
        ) from error
    if kind != KEY_TYPE.decode():
        raise RecordError(
            f"{public_key_file}: a key of kind {kind}. Give one of kind {KEY_TYPE.decode()}."
        )
    return fingerprint(public)


def fingerprint(public: bytes) -> str:
    """`SHA256:...`, as `ssh-keygen -l` shows it."""
    digest = base64.b64encode(hashlib.sha256(public).digest()).decode().rstrip("=")
    return f"SHA256:{digest}"


def _message(folder: Path) -> bytes:
    """What is signed of a folder."""
    digest = hashlib.sha512((folder / SUMS).read_bytes()).digest()
    return MAGIC + _strings(NAMESPACE, b"", HASH, digest)


def _strings(*parts: bytes) -> bytes:
    return b"".join(struct.pack(">I", len(part)) + part for part in parts)


def _split(blob: bytes, count: int) -> list[bytes]:
    """The first strings of a blob; ValueError if it is not made of exactly so many."""
    parts = []
    for _ in range(count):
        (length,) = struct.unpack(">I", blob[:4])
        parts.append(blob[4 : 4 + length])
        blob = blob[4 + length :]
    if blob:
        raise ValueError("more than a signature")
    return parts


def _parse(text: str) -> tuple[bytes, bytes]:
    """Raw public key and raw signature; ValueError if it is no Ed25519 signature for this."""
    body = text.strip().removeprefix(BEGIN).removesuffix(END)
    try:
        blob = base64.b64decode("".join(body.split()), validate=True)
    except binascii.Error as error:
        raise ValueError("not in OpenSSH's form") from error
    if not blob.startswith(MAGIC + struct.pack(">I", VERSION)):
        raise ValueError("not in OpenSSH's form")
    public, namespace, reserved, hashed, signature = _split(blob[len(MAGIC) + 4 :], 5)
    if (namespace, reserved, hashed) != (NAMESPACE, b"", HASH):
        raise ValueError("made for something else")
    (kind, raw), (signed_as, value) = _split(public, 2), _split(signature, 2)
    if kind != KEY_TYPE or signed_as != KEY_TYPE:
        raise ValueError(f"not {KEY_TYPE.decode()}")
    return raw, value


def _needs_cryptography() -> None:
    try:
        import cryptography  # noqa: F401
    except ModuleNotFoundError as error:
        raise MissingPackage(
            "signatures need the package cryptography. Install it: pip install 'accelmark[sign]', "
            "or in a clone: pip install -e '.[sign]'."
        ) from error
