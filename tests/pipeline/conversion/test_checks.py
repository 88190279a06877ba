"""The list of checks, and the issue log's actions."""

from dataclasses import fields, replace
from typing import Any, get_args, get_type_hints

import pytest

from pipeline import params
from pipeline.conversion.checks import CHECKS, resolve_actions
from pipeline.conversion.issues import IssueLog
from pipeline.errors import PipelineError
from pipeline.formats.records import Issue
from pipeline.params import CheckParams, ConvertParams
from tests.support.projects import PROJECT

OUTSIDE = Issue("out_of_bounds_box", "its box reaches out")


def options(problems: str = "error", **checks: Any) -> ConvertParams:
    base = params.load(PROJECT / "params.yaml").convert
    return replace(base, issues=problems, checks=replace(base.checks, **checks))  # type: ignore[arg-type]


def test_parameters_match_the_checks_and_their_fixes() -> None:
    hints = get_type_hints(CheckParams)
    assert list(CHECKS) == [field.name for field in fields(CheckParams)]
    for code, check in CHECKS.items():
        assert set(get_args(hints[code])) == {"default", "error", *check.fixes}, code


def test_params_yaml_notes_the_warnings() -> None:
    chosen = resolve_actions(options())
    assert {code for code, action in chosen.items() if action == "note"} == {
        code for code, check in CHECKS.items() if check.severity == "warning"
    }
    assert all(chosen[code] == "error" for code, check in CHECKS.items() if check.severity == "error")


def test_default_follows_issues_and_explicit_actions_win() -> None:
    assert resolve_actions(options())["out_of_bounds_box"] == "error"
    assert resolve_actions(options("repair"))["out_of_bounds_box"] == "repair"
    assert resolve_actions(options("repair"))["tiny_box"] == "skip"
    assert resolve_actions(options("repair"))["leak"] == "repair"
    assert resolve_actions(options("repair", out_of_bounds_box="error"))["out_of_bounds_box"] == "error"
    assert resolve_actions(options("error", out_of_bounds_box="skip"))["out_of_bounds_box"] == "skip"
    assert resolve_actions(options("error", exif_orientation="default"))["exif_orientation"] == "error"


def test_error_names_record_issue_and_remedy() -> None:
    with pytest.raises(PipelineError) as caught:
        IssueLog(options()).handle(OUTSIDE, "train", "a.xml: object 3")
    assert str(caught.value) == (
        "a.xml: object 3: its box reaches out; correct the data, or run with "
        "-S convert.checks.out_of_bounds_box=repair (clipped), or for all checks -S convert.issues=repair"
    )
    with pytest.raises(PipelineError) as caught:
        IssueLog(options("repair", out_of_bounds_box="error")).handle(OUTSIDE, "train", "a.xml: object 3")
    assert str(caught.value).endswith("or run with -S convert.checks.out_of_bounds_box=repair (clipped)")


def test_issue_that_cannot_be_repaired_is_skipped() -> None:
    with pytest.raises(PipelineError, match=r"run with -S convert\.checks\.out_of_bounds_box=repair \(dropped\)"):
        IssueLog(options()).handle(OUTSIDE, "train", "a.xml: object 3", repairable=False)
    issue_log = IssueLog(options("repair"))
    assert issue_log.handle(OUTSIDE, "train", "a.xml: object 3", repairable=False) == "skip"
    assert [(item.action, item.outcome) for item in issue_log.issues] == [("skip", "dropped")]


def test_log_that_never_stops_lists_errors() -> None:
    issue_log = IssueLog(options(leak="note"), stops=False)
    assert issue_log.handle(OUTSIDE, "train", "a") == "repair"
    assert issue_log.handle(Issue("leak", "x"), "train", "b") == "note"
    assert issue_log.handle(OUTSIDE, "val", "c", repairable=False) == "skip"
    assert issue_log.counts == {"out_of_bounds_box": 2, "leak": 1}
    assert [item.code for item in issue_log.issues if item.action == "error"] == ["out_of_bounds_box"] * 2
    assert [item.outcome for item in issue_log.issues] == [
        "stops the conversion",
        "kept in both splits",
        "stops the conversion",
    ]
    assert [str(item) for item in issue_log.examples(1)["out_of_bounds_box"]] == ["a: its box reaches out"]
