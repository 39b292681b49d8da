"""Published runs cannot be edited unseen: digests, and signatures that OpenSSH checks too."""

from __future__ import annotations

import base64
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization as form
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa

from bench.errors import PublicationError, RecordError
from bench.publishing import publish, signing
from bench.records import digests
from bench.records.runfile import read
from bench.tests.conftest import Accelmark
from bench.tests.publishing.test_publish import CARD, run
from bench.tests.publishing.test_publish import run as good_run


def write_key(
    path: Path, key: ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey, passphrase: str = ""
) -> Path:
    """A private key as ssh keeps it, and its public one beside it."""
    lock: form.KeySerializationEncryption = form.NoEncryption()
    if passphrase:
        lock = form.BestAvailableEncryption(passphrase.encode())
    path.write_bytes(key.private_bytes(form.Encoding.PEM, form.PrivateFormat.OpenSSH, lock))
    path.chmod(0o600)
    public = key.public_key().public_bytes(form.Encoding.OpenSSH, form.PublicFormat.OpenSSH)
    path.with_suffix(".pub").write_bytes(public + b" a comment\n")
    return path


@pytest.fixture
def key(tmp_path: Path) -> Path:
    return write_key(tmp_path / "mine", ed25519.Ed25519PrivateKey.generate())


@pytest.fixture
def folder(tmp_path: Path, key: Path) -> Path:
    """A published run, signed."""
    results = tmp_path / "results"
    return publish.publish(
        good_run(), results, "mine", CARD, lambda folder: signing.sign(folder, key)
    )


def edit(file: Path) -> None:
    """One digit of a sample, as somebody would who wants to be faster."""
    text = file.read_bytes()
    assert b'"wall_ns":100' in text
    file.write_bytes(text.replace(b'"wall_ns":100', b'"wall_ns":101', 1))


def test_what_was_published_is_as_published(folder: Path, key: Path) -> None:
    fingerprint = signing.fingerprint_of(key.with_suffix(".pub"))
    assert publish.verify(folder, fingerprint) == ([], f"signed by {fingerprint}")
    assert read(folder).damage is None
    assert set(digests.noted(folder)) == {"run.jsonl", "card.txt"}


def test_an_edited_record_is_refused_wherever_it_is_read(
    folder: Path, accelmark: Accelmark
) -> None:
    edit(folder / "run.jsonl")
    for path in (folder, folder / "run.jsonl"):
        with pytest.raises(RecordError, match="was changed after it was published"):
            read(path)
        code, out, err = accelmark("report", str(path))
        assert (code, out) == (2, "") and "SHA256SUMS" in err
    code, out, err = accelmark("verify", str(folder))
    assert code == 1 and "run.jsonl is not what was published" in out and "1 of 1" in err


def test_an_edited_card_is_noticed(folder: Path) -> None:
    (folder / "card.txt").write_text("10x faster", encoding="utf-8")
    assert publish.verify(folder, None)[0] == ["card.txt is not what was published"]


def test_digests_that_were_made_to_fit_break_the_signature(folder: Path) -> None:
    edit(folder / "run.jsonl")
    digests.write(folder, ("run.jsonl", "card.txt"))
    complaints, signed = publish.verify(folder, None)
    assert (
        signed == "signature not good"
        and "this signature does not fit the folder as it is now" in complaints[-1]
    )


def test_digests_that_were_made_to_fit_are_not_those_of_the_index(
    folder: Path, accelmark: Accelmark
) -> None:
    """Nor does another run of that name there count, nor a file that is no index."""
    (folder / signing.SIGNATURE).unlink()
    edit(folder / "run.jsonl")
    digests.write(folder, ("run.jsonl", "card.txt"))
    code, out, _ = accelmark("verify", str(folder))
    assert code == 1 and "run.jsonl is not the one that README.md names; not signed" in out
    index = folder.parent / publish.INDEX
    text = index.read_text(encoding="utf-8")
    for other in (text.replace("`mine`", "`mine.2`"), "# My runs\n", "\udcff"):
        index.write_text(other, encoding="utf-8", errors="surrogateescape")
        assert publish.verify(folder, None) == ([], "not signed")


def test_another_key_is_not_the_one_wanted(folder: Path, tmp_path: Path) -> None:
    other = write_key(tmp_path / "other", ed25519.Ed25519PrivateKey.generate())
    wanted = signing.fingerprint_of(other.with_suffix(".pub"))
    complaints, signed = publish.verify(folder, wanted)
    assert complaints == [f"not signed by {wanted}"] and signed.startswith("signed by SHA256:")
    (folder / signing.SIGNATURE).unlink()
    assert publish.verify(folder, wanted) == ([f"not signed by {wanted}"], "not signed")
    assert publish.verify(folder, None) == ([], "not signed")


@pytest.mark.parametrize(
    "gone", [(), ("run.jsonl",), ("run.jsonl", "SHA256SUMS", "SHA256SUMS.sig")]
)
def test_an_untouched_copy_within_does_not_stand_for_the_folder_around_it(
    folder: Path, key: Path, accelmark: Accelmark, gone: tuple[str, ...]
) -> None:
    shutil.copytree(folder, folder / "sub")
    edit(folder / "run.jsonl")
    (folder / "card.txt").write_text("10x faster", encoding="utf-8")
    for name in gone:
        (folder / name).unlink()
    code, _, err = accelmark("verify", str(folder), "--signer", str(key.with_suffix(".pub")))
    assert code == 1 and "1 of 1 are not what was published" in err


@pytest.mark.parametrize("left", ["run.jsonl", "card.txt", "SHA256SUMS"])
def test_a_folder_of_which_a_part_is_left_counts_among_the_published(
    folder: Path, accelmark: Accelmark, left: str
) -> None:
    spoiled = folder.parent / "spoiled"
    shutil.copytree(folder, spoiled)
    for file in spoiled.iterdir():
        if file.name != left:
            file.unlink()
    code, out, err = accelmark("verify", str(folder.parent))
    assert code == 1 and "spoiled: " in out and "1 of 2 are not what was published" in err


def test_a_folder_without_digests_is_not_as_published(folder: Path) -> None:
    (folder / digests.SUMS).unlink()
    (folder / signing.SIGNATURE).unlink()
    assert publish.verify(folder, None)[0] == ["no SHA256SUMS says what was published"]


def test_every_folder_is_verified_whatever_is_wrong_with_those_before(
    tmp_path: Path, accelmark: Accelmark
) -> None:
    """One with a second record beside its own, one that is no record, one whose card was edited."""
    for name in ("a", "b", "c"):
        publish.publish(run(), tmp_path / "results", name, CARD)
    first, second, third = (tmp_path / "results" / name for name in ("a", "b", "c"))
    shutil.copy(first / "run.jsonl", first / "x.jsonl")
    (second / "run.jsonl").write_text("hello\n", encoding="utf-8")
    digests.write(second, ("run.jsonl", "card.txt"))
    (third / "card.txt").write_text("10x faster", encoding="utf-8")
    code, out, err = accelmark("verify", "results")
    said = " ".join(out.split())
    assert code == 1 and "2 of 3 are not what was published" in err, (out, err)
    assert "results/a: as published; not signed" in said
    assert "results/b: results/b/run.jsonl, line 1: " in said and said.count("; not signed") == 3
    assert "results/c: card.txt is not what was published; not signed" in said


def test_a_signed_folder_that_cannot_be_checked_ends_nothing(
    folder: Path, accelmark: Accelmark, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the package for signatures is missing: the others are verified all the same."""
    publish.publish(run(), folder.parent, "z", CARD)
    monkeypatch.setitem(sys.modules, "cryptography", None)
    code, out, err = accelmark("verify", str(folder.parent))
    said = " ".join(out.split())
    assert code == 1 and "1 of 2 are not what was published, or were not checked" in err
    assert "pip install 'accelmark[sign]'" in said and "; signed, not checked" in said
    assert "/z: as published; not signed" in said


def test_the_index_among_the_folders_is_passed_over(
    tmp_path: Path, accelmark: Accelmark, folder: Path
) -> None:
    """As `accelmark verify results/*` gives it; alone, or another file, it is no folder."""
    index, other = tmp_path / publish.INDEX, tmp_path / "notes.txt"
    for file in (index, other):
        file.write_text("# Results\n", encoding="utf-8")
    code, out, _ = accelmark("verify", str(index), str(folder))
    assert code == 0 and out.count("as published") == 1
    for given in ([str(index)], [str(folder), str(other)]):
        code, out, err = accelmark("verify", *given)
        assert (code, out) == (2, "") and f"{given[-1]}: is no folder" in " ".join(err.split())


def test_what_may_not_be_published_is_not_verified(tmp_path: Path) -> None:
    folder = publish.publish(run(), tmp_path, "mine", CARD)
    lines = (folder / "run.jsonl").read_bytes().splitlines(keepends=True)
    (folder / "run.jsonl").write_bytes(b"".join(lines[:-2]))
    digests.write(folder, ("run.jsonl", "card.txt"))
    assert "it did not run to its end" in publish.verify(folder, None)[0]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda text: "",
        lambda text: "not a signature",
        lambda text: text.replace("A", "B", 5),
        lambda text: "\n".join(text.splitlines()[:-2]),
        lambda text: text.replace("U1NIU0lH", "U1NIU0lI", 1),
        lambda text: "\u00e9",
    ],
)
def test_a_spoiled_signature_is_no_signature(folder: Path, spoil: object) -> None:
    file = folder / signing.SIGNATURE
    assert callable(spoil)
    file.write_text(spoil(file.read_text(encoding="ascii")), encoding="utf-8")
    with pytest.raises(RecordError, match="this signature does not fit the folder as it is now"):
        signing.signer(folder)


needs_ssh_keygen = pytest.mark.skipif(
    shutil.which("ssh-keygen") is None, reason="ssh-keygen is not installed"
)


@needs_ssh_keygen
def test_ssh_keygen_checks_our_signature(folder: Path, key: Path, tmp_path: Path) -> None:
    signers = tmp_path / "signers"
    signers.write_text(f"me {key.with_suffix('.pub').read_text(encoding='utf-8')}", "utf-8")
    command = ["ssh-keygen", "-Y", "verify", "-f", str(signers), "-I", "me", "-n", "accelmark"]
    command += ["-s", str(folder / signing.SIGNATURE)]
    content = (folder / digests.SUMS).read_bytes()
    assert subprocess.run(command, input=content, capture_output=True).returncode == 0
    assert subprocess.run(command, input=content + b" ", capture_output=True).returncode != 0


@needs_ssh_keygen
@pytest.mark.parametrize(("namespace", "good"), [("accelmark", True), ("file", False)])
def test_we_check_the_signature_of_ssh_keygen(
    folder: Path, key: Path, namespace: str, good: bool
) -> None:
    (folder / signing.SIGNATURE).unlink()
    command = ["ssh-keygen", "-Y", "sign", "-f", str(key), "-n", namespace]
    subprocess.run([*command, str(folder / digests.SUMS)], check=True, capture_output=True)
    if good:
        fingerprint = signing.fingerprint_of(key.with_suffix(".pub"))
        assert signing.signer(folder) == fingerprint
        return
    with pytest.raises(RecordError, match="made for something else"):
        signing.signer(folder)


def strings(*parts: bytes) -> bytes:
    return b"".join(struct.pack(">I", len(part)) + part for part in parts)


def write_key_of_a_token(path: Path) -> Path:
    """As `ssh-keygen -t ed25519-sk` makes it: the key itself is in the token."""
    public = strings(b"sk-ssh-ed25519@openssh.com", b"1" * 32, b"ssh:")
    secret = struct.pack(">II", 7, 7) + public + b"\1" + strings(b"handle", b"", b"me")
    secret += bytes(range(1, 1 + -len(secret) % 8))
    parts = [strings(b"none", b"none", b""), struct.pack(">I", 1), strings(public, secret)]
    text = base64.encodebytes(b"openssh-key-v1\0" + b"".join(parts)).decode()
    kind = "OPENSSH PRIVATE KEY-----"
    path.write_text(f"-----BEGIN {kind}\n{text}-----END {kind}\n", encoding="ascii")
    return path


def test_keys_that_cannot_sign_are_refused(tmp_path: Path) -> None:
    weak = write_key(tmp_path / "rsa", rsa.generate_private_key(65537, 2048))
    locked = write_key(tmp_path / "locked", ed25519.Ed25519PrivateKey.generate(), "open sesame")
    token = write_key_of_a_token(tmp_path / "token")
    text = tmp_path / "text"
    text.write_text("hello", encoding="utf-8")
    for path, secret, said in [
        (weak, None, "not an Ed25519 key"),
        (locked, None, "cannot be used"),
        (locked, "wrong", r"cannot be used \(the passphrase does not open it\)\. Type it again"),
        (text, None, "cannot be used"),
        (token, None, "token: cannot be used .*sk-ssh-ed25519"),
        (tmp_path / "none", None, "cannot be read"),
    ]:
        with pytest.raises(PublicationError, match=said):
            signing.private_key(path, secret)
    assert [one for one in (weak, locked, token, text) if signing.needs_passphrase(one)] == [locked]
    assert signing.private_key(locked, "open sesame") is not None
    for public, said in [
        (weak.with_suffix(".pub"), "a key of kind ssh-rsa"),
        (text, "this is no public key of OpenSSH"),
        (tmp_path / "none.pub", "none.pub: there is no such file"),
        (tmp_path, r"cannot be read \("),
    ]:
        with pytest.raises(RecordError, match=said):
            signing.fingerprint_of(public)


def test_nothing_is_published_with_a_key_that_cannot_sign(
    tmp_path: Path, accelmark: Accelmark
) -> None:
    (tmp_path / "key").write_text("hello", encoding="utf-8")
    code, _, err = accelmark("publish", "run.jsonl", "--sign", "key")
    assert code == 2 and "key: cannot be used" in err and not (tmp_path / "results").exists()
