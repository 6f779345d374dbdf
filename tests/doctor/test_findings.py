"""Findings of one kind: the first ones are kept, all are counted, and severities stay apart."""

from __future__ import annotations

import pytest

from bytewax_redis_state.doctor.findings import KEPT_PER_KIND, Findings


def test_a_summary_has_the_severity_of_what_it_sums_up():
    findings = Findings()
    for number in range(KEPT_PER_KIND + 5):
        findings.say("note", f"note {number}", "leave it", kind="leftovers")
    *kept, summary = findings.listed()
    assert {finding.severity for finding in kept} == {"note"}
    assert summary.severity == "note"
    assert "5 more" in summary.what
    assert "leftovers" in summary.what


def test_of_a_million_of_one_kind_few_are_kept_and_all_are_counted():
    findings = Findings()
    for number in range(1_000_000):
        findings.say("error", f"the key {number} is unknown", "delete it", kind="unknown keys")
    listed = findings.listed()
    assert len(listed) == KEPT_PER_KIND + 1
    assert f"{1_000_000 - KEPT_PER_KIND:,} more" in listed[-1].what


def test_one_kind_with_two_severities_is_counted_by_severity():
    findings = Findings()
    for severity in ("note", "error"):
        for number in range(KEPT_PER_KIND + 1):
            findings.say(severity, f"{severity} {number}", "look", kind="things")
    assert [f.severity for f in findings.listed() if "1 more" in f.what] == ["note", "error"]


@pytest.mark.parametrize("count", [1, KEPT_PER_KIND])
def test_nothing_is_summed_up_where_all_are_kept(count):
    findings = Findings()
    for number in range(count):
        findings.say("warning", f"warning {number}", "look", kind="things")
    assert len(findings.listed()) == count
