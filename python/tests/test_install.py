"""`pip install ./python`: both modules are there, and the AWS SDK is neither hidden nor harmed."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from conftest import SOURCE, has_aws_sdk


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    # No isolation: run.sh's venv has the build backend, so that no network is needed.
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "--no-build-isolation", "--no-deps"]
    subprocess.run([*pip, "--quiet", "--wheel-dir", str(folder), str(SOURCE)], check=True)
    (made,) = folder.glob("agentcore_client-*.whl")
    return made


def test_the_wheel_holds_what_is_imported_and_no_more(wheel: Path) -> None:
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    sources = {
        *(f"agentcore_client/{path.name}" for path in (SOURCE / "agentcore_client").glob("*.py")),
        *(
            f"agentcore_builtin/bedrock_agentcore/{path.relative_to(SOURCE / 'bedrock_agentcore')}"
            for path in (SOURCE / "bedrock_agentcore").rglob("*.py")
        ),
        "agentcore_client/py.typed",
        "agentcore_builtin/bedrock_agentcore/py.typed",
        "agentcore_builtin.pth",
    }
    assert names == sources


def run(interpreter: Path | str, program: str) -> str:
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    ran = subprocess.run([str(interpreter), "-P", "-c", program], env=environment, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.strip()


def test_both_modules_are_there(wheel: Path, tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "venv")], check=True)
    python = tmp_path / "venv" / "bin" / "python"
    subprocess.run(
        [str(python), "-m", "pip", "--quiet", "--disable-pip-version-check", "install", str(wheel)], check=True
    )
    program = "import agentcore_client, bedrock_agentcore.runtime; print(bedrock_agentcore.__file__)"
    assert "/agentcore_builtin/bedrock_agentcore/" in run(python, program)


@pytest.mark.skipif(not has_aws_sdk(), reason="bedrock-agentcore is not installed: run python/tests/run.sh")
def test_the_aws_sdk_comes_first(wheel: Path, tmp_path: Path) -> None:
    """A venv that sees this one's packages, the AWS SDK among them, with ours unpacked into its own site-packages."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "venv")], check=True)
    python = tmp_path / "venv" / "bin" / "python"
    site = Path(run(python, "import sysconfig; print(sysconfig.get_path('purelib'))"))
    theirs = Path(run(sys.executable, "import sysconfig; print(sysconfig.get_path('purelib'))"))
    (site / "bedrock_agentcore").symlink_to(theirs / "bedrock_agentcore")
    # What the AWS SDK itself needs: last on the path, so that it decides nothing.
    (site / "zzz.pth").write_text(f"{theirs}\n")
    zipfile.ZipFile(wheel).extractall(site)
    loaded = run(python, "import agentcore_client, bedrock_agentcore; print(bedrock_agentcore.__file__)")
    assert loaded == str(site / "bedrock_agentcore" / "__init__.py")
    assert run(python, "from bedrock_agentcore.memory import MemoryClient") == "", "only the AWS SDK has it"
