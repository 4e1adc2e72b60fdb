"""Certificates for tests, made with the openssl command."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest


class Authority:
    """A CA in a folder, and the certificates it has signed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        openssl = shutil.which("openssl")
        if openssl is None:
            pytest.skip("needs the openssl command to make certificates")
        self._openssl = openssl
        self._make("ca", "test-ca")

    def path(self, name: str) -> str:
        """The path of a file in the folder."""
        return str(self.folder / name)

    def sign(self, name: str, subject: str, alternative: str = "") -> None:
        """Make NAME.crt and NAME.key, signed by the CA."""
        signed = ["-CA", "ca.crt", "-CAkey", "ca.key"]
        if alternative:
            signed += ["-addext", f"subjectAltName={alternative}"]
        self._make(name, subject, *signed)

    def _make(self, name: str, subject: str, *more: str) -> None:
        command = f"{self._openssl} req -x509 -newkey ec -pkeyopt"
        command += " ec_paramgen_curve:P-256 -nodes -days 2"
        command += f" -subj /CN={subject} -keyout {name}.key -out {name}.crt"
        subprocess.run(
            [*command.split(), *more], cwd=self.folder, check=True, capture_output=True
        )
