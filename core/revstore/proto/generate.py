"""Makes the ``*_pb2.py`` and ``*_pb2.pyi`` files from the ``.proto`` files.

Run by ``make proto``, which installs the one compiler version that the committed
code was made with.
The generated modules are moved from protobuf's default descriptor pool into the
pool of ``_pool.py``; see there for the reason.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

DEFAULT_POOL = "_descriptor_pool.Default()"
POOL_IMPORT = "from google.protobuf import descriptor_pool as _descriptor_pool\n"
OWN_POOL_IMPORT = "from revstore.proto._pool import POOL as _POOL\n"


def main() -> None:
    """Regenerate every module beside this file."""
    here = Path(__file__).resolve().parent
    root = here.parent.parent
    protos = sorted(here.glob("*.proto"))
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{root}"]
    command += [f"--python_out={root}", f"--pyi_out={root}", *map(str, protos)]
    subprocess.run(command, check=True)
    for proto in protos:
        module = proto.with_name(f"{proto.stem}_pb2.py")
        text = module.read_text()
        text = text.replace(POOL_IMPORT, OWN_POOL_IMPORT).replace(DEFAULT_POOL, "_POOL")
        module.write_text(text)


if __name__ == "__main__":
    main()
