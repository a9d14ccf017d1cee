"""tables/manifest.json: what it says of jobs that do not say how they ran."""

from __future__ import annotations

import json

import pytest

from analysis.diagnoses.diagnose import diagnose
from tests.analysis.studies import StudyFolder, sweep


@pytest.mark.parametrize("torn", ['{"code": "abc", "pyth', "", "[]"])
def test_an_env_that_cannot_be_read_is_told(folder: StudyFolder, torn: str) -> None:
    sweep(folder, seeds=1, languages=["en", "sw"], count=20)
    first, second, *rest = [folder.root / "jobs" / job["job_id"] for job in folder.jobs]
    (first / "env.json").write_text(torn)
    (second / "env.json").write_text(json.dumps({"code": "abc", "python": "3.11", "host": "n1"}))
    diagnose(folder.root)
    manifest = json.loads((folder.root / "tables" / "manifest.json").read_text())
    environments = manifest["versions"]["evaluated_with"]
    nothing = {"code": None, "python": None, "versions": None}
    assert sorted(environments, key=str) == [
        {**nothing, "code": "abc", "python": "3.11", "num_jobs": 1},
        {**nothing, "num_jobs": len(rest)},
        {**nothing, "problem": "env.json cannot be read", "num_jobs": 1},
    ]
