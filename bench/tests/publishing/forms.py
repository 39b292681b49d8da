"""How names get into texts: each form with a word planted in it, and what may stand around it."""

from __future__ import annotations

import re

FORMS = (
    "../../{0}/secret {0}/x.toml",
    "{0}/suites of {0}/x.toml",
    "..\\..\\{0}\\a b\\x.toml",
    "{0}\\b\\x.toml",
    "/home/{0}",
    "/home/{0}/x.toml",
    "/data/{0} one/{0}, {0}/x.so".replace(", {0}", " two"),
    "/mnt/O'{0}/x (1)/y.so",
    "'{0} one/two {0}/x y.toml'",
    '"/mnt/{0} b/O\'{0}/x.toml"',
    "`/mnt/{0} b/x.toml`",
    "C:\\Users\\{0}",
    "C:\\Users\\{0} one\\x y\\z.toml",
    "c:\\\\Users\\\\{0}\\\\z.toml",
    "D:/work of {0}/z.toml",
    "\\\\{0}\\share of {0}\\x.txt",
    "~/{0}/x.toml",
    "~/my {0}/x.toml",
    "~{0}",
    "~{0}/x y/z.toml",
    "file:///home/{0}/x.toml",
    "file:///home/{0} one/two {0}/x.toml",
    "file:///C:/Users/{0}/x.toml",
    "file://{0}/share/x.toml",
    "https://{0}:{0}@{0}.example.com:8080/{0}/a.html?user={0}#{0}",
    "https://{0}.example.com",
    "s3://{0}/x.bin",
    "/lib/{0}:/opt/{0}/lib",
    "{0}@node7",
    "{0}@{0}.example.com",
    "{0}.{0}@mail.example.org",
    "{0}@10.77.0.9:/srv/{0}/x.toml",
    "{0}:/export/{0}/x.bin",
    "node7.{0}.lan",
    "hostname: {0}",
    "user={0}",
    "'hostname': '{0} of {0}'",
    '"serial_number": "{0}"',
    "Serial Number : {0}",
)
"""`{0}` is the word."""

IDENTIFIERS = (
    "GPU-1f0e8a2c-77b1-4d5e-9c3f-0a1b2c3d4e5f",
    "MIG-1f0e8a2c-77b1-4d5e-9c3f-0a1b2c3d4e5f",
    "MIG-GPU-1f0e8a2c-77b1-4d5e-9c3f-0a1b2c3d4e5f/7/0",
    "GPU-1f0e8a2c",
    "1F0E8A2C-77B1-4D5E-9C3F-0A1B2C3D4E5F",
    "1f0e8a2c77b14d5e9c3f0a1b2c3d4e5f",
    "0000:8a:10.0",
    "00000000:8A:10.0",
    "8a:10.0",
    "02:42:ac:11:8a:fe",
    "02-42-AC-11-8A-FE",
    "00:02:c9:03:00:31:8a:fe",
    "10.77.88.99:22",
    "192.168.88.99/24",
    "fe80::42:acff:8afe%eth0",
    "[2001:db8::8afe]:443",
    "2001:db8:0:0:1:0:88:8afe",
)
"""Themselves what must not be published."""

AROUND = (
    "{}",
    "cannot open {}: no such thing",
    "it said ({}), twice",
    "at 5 image/s {}",
    "x={}",
    "two lines\n{}\nand more",
    "see {}.",
)


def forms() -> list[tuple[str, str]]:
    """Pairs: a text, and what of it must be gone; `zqxword` is the planted word."""
    word = "zqxword"
    planted = [(form.format(word), word) for form in FORMS]
    return planted + [(one, bare(one)) for one in IDENTIFIERS]


def bare(identifier: str) -> str:
    """An identifier without its brackets, port, zone or mask."""
    return re.split(r"[]%]|/24$|(?<=\.99):", identifier.strip("["))[0]
