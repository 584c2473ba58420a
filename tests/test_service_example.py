"""The documented service, and its own tests, as they are shown."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("httpx")
pytest.importorskip("pytest_asyncio")

ROOT = Path(__file__).parents[1]
TESTS = ROOT / "docs" / "examples" / "asgi" / "test_images_service.py"


@pytest.mark.slow
def test_the_documented_tests_pass(tmp_path: Path) -> None:
    """With no settings of ours, in a folder that has the example photos."""
    (tmp_path / "photos").symlink_to(ROOT / "examples" / "photos")
    settings = tmp_path / "pytest.ini"
    settings.write_text("[pytest]\nasyncio_default_fixture_loop_scope = function\n")
    words = (
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-c",
        settings,
        "-o",
        "asyncio_mode=auto",
    )
    ended = subprocess.run(
        [sys.executable, *words, TESTS],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "5 passed" in ended.stdout
