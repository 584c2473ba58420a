"""The files to deploy a fleet with, as systemd and Kubernetes understand them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

EXAMPLES = Path(__file__).parents[1] / "docs" / "examples"
MANIFEST = EXAMPLES / "kubernetes" / "fleet.yaml"
KUBERNETES = ("1.33", "1.37")


def test_systemd_accepts_the_unit(tmp_path: Path) -> None:
    """`systemd-analyze verify` says nothing; of its program only the path is another one here."""
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("systemd-analyze is not installed")
    unit = (EXAMPLES / "systemd" / "comet-worker@.service").read_text("utf-8")
    assert "/opt/comet-async/bin/comet-async" in unit
    copy = tmp_path / "comet-worker@.service"
    copy.write_text(unit.replace("/opt/comet-async/bin/comet-async", sys.executable))
    done = subprocess.run(
        [program, "verify", "--man=no", copy],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"SYSTEMD_LOG_LEVEL": "warning"},
    )
    # Other units of this machine are none of ours.
    ours = [line for line in done.stderr.splitlines() if "comet-worker" in line]
    assert ours == []
    broken = copy.with_name("broken.service")
    broken.write_text(unit.replace("Restart=on-failure", "Restart=sometimes"))
    done = subprocess.run(
        [program, "verify", "--man=no", broken], capture_output=True, text=True, check=False
    )
    assert "sometimes" in done.stderr


def documents() -> list[dict[str, Any]]:
    """Return the parts of the manifest."""
    yaml = pytest.importorskip("yaml")
    return list(yaml.safe_load_all(MANIFEST.read_text("utf-8")))


@pytest.mark.parametrize("version", KUBERNETES)
def test_kubernetes_accepts_the_manifest(version: str) -> None:
    """Its own schemas know every field of it."""
    checker = pytest.importorskip("kubernetes_validate", reason="the group `docs` is not installed")
    parts = documents()
    assert [part["kind"] for part in parts] == ["Deployment", "PodDisruptionBudget"]
    for part in parts:
        checker.validate(part, version, strict=True)
    parts[0]["spec"]["template"]["spec"]["containers"][0]["arg"] = []
    with pytest.raises(checker.ValidationError):
        checker.validate(parts[0], version, strict=True)


def test_the_manifest_agrees_with_itself() -> None:
    """Selectors match the labels, and a stop has time for more than --grace."""
    deployment, budget = documents()
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert deployment["spec"]["selector"]["matchLabels"] == labels
    assert budget["spec"]["selector"]["matchLabels"] == labels
    assert deployment["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] > 30
