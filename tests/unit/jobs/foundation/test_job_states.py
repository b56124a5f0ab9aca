import re

from jobs.foundation.job_states import FINAL, NEW, TRANSITIONS, State, allowed
from jobs.plan.lua_loader import allowed_table
from tests.support.paths import ROOT

PAGE = ROOT / "docs" / "state_machine.md"


def test_the_diagram_has_exactly_the_transitions_of_the_table() -> None:
    diagram = {
        (NEW if source == "[*]" else source, State(target)): reason
        for source, target, reason in re.findall(r"^ +(\S+) --> (\w+): (.+)$", PAGE.read_text(), re.MULTILINE)
    }
    assert diagram == TRANSITIONS


def test_the_page_lists_every_state_and_the_final_ones() -> None:
    rows = re.findall(r"^\| `(\w+)` \| [^|]+ \| (yes)? ?\|$", PAGE.read_text(), re.MULTILINE)
    assert {State(name): bool(ends) for name, ends in rows} == {state: state in FINAL for state in State}


def test_the_scripts_get_exactly_the_table() -> None:
    pairs = set(re.findall(r"\['(\w+)>(\w+)'\] = true", allowed_table()))
    assert pairs == {(str(source), str(target)) for source, target in TRANSITIONS}


def test_a_succeeded_job_has_no_transition() -> None:
    assert not any(allowed(State.SUCCEEDED, target) for target in State)
