import re

from jobs.foundation.job_states import FINAL, NEW, TRANSITIONS, State, allowed
from jobs.plan.lua_loader import allowed_table
from tests.support.paths import ROOT

PAGE = ROOT / "docs" / "state_machine.md"


def test_the_diagram_shows_exactly_the_transitions_of_the_table() -> None:
    drawn = {
        (NEW if source == "[*]" else source, State(target)): reason
        for source, target, reason in re.findall(r"^ +(\S+) --> (\w+): (.+)$", PAGE.read_text(), re.MULTILINE)
    }
    assert drawn == TRANSITIONS


def test_the_page_describes_every_state_and_which_ones_end_a_job() -> None:
    rows = re.findall(r"^\| `(\w+)` \| [^|]+ \| (yes)? ?\|$", PAGE.read_text(), re.MULTILINE)
    assert {State(name): bool(ends) for name, ends in rows} == {state: state in FINAL for state in State}


def test_the_scripts_get_the_whole_table_and_nothing_else() -> None:
    pairs = set(re.findall(r"\['(\w+)>(\w+)'\] = true", allowed_table()))
    assert pairs == {(str(source), str(target)) for source, target in TRANSITIONS}


def test_what_has_succeeded_stays_so() -> None:
    assert not any(allowed(State.SUCCEEDED, target) for target in State)
