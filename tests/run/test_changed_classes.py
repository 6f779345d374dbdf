"""A flow resumes after its classes changed, with whatever stock Bytewax would have read."""

from __future__ import annotations

from pathlib import Path

import pytest

FLOW = Path(__file__).parent / "evolving.py"
EVOLVED = "from dataclasses import dataclass\n@dataclass\nclass State:\n    total: int = 1\n"
READ = {
    "setstate": "True State {'currency': 'EUR', 'total': 1}",
    "alias": "True Account {'total': 1}",
    "moved": "True State {'total': 1}",
    "plain": "True State {'total': 1}",
    "enum": "'_name_': 'SHUT'",
    "missing": "'_name_': 'OPEN'",
    "namedtuple": "currency='EUR'",
    "deep": "True tuple",
}
NEED_PICKLE = {
    "setstate": "it has __setstate__ now",
    "plain": "it is no longer a dataclass",
    "missing": "has no member named 'CLOSED' and none of value 'c'",
    "namedtuple": "it is no longer a namedtuple",
}


@pytest.mark.parametrize("case", READ)
def test_a_flow_resumes_after_its_class_changed(run, tmp_path, case):
    (tmp_path / "evolved.py").write_text(EVOLVED)
    where = {"file": FLOW, "CASE": case, "PYTHONPATH": str(tmp_path)}
    done = run("-s", "0.1", "-w", "4", "--no-pickle", VERSION="1", **where)
    assert done.returncode == 0, done.stderr
    if case in NEED_PICKLE:
        refused = run("-s", "0.1", "-w", "4", "--no-pickle", VERSION="2", **where)
        assert refused.returncode == 2, refused.stderr
        (line,) = [line for line in refused.stderr.splitlines() if "error: " in line]
        assert "step 'keep', key 'k" in line
        assert NEED_PICKLE[case] in line
        assert "allow_pickle" in line
    strict = () if case in NEED_PICKLE else ("--no-pickle",)
    done = run("-s", "0.1", "-w", "4", *strict, VERSION="2", **where)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(READ[case]) == 12, done.stdout
