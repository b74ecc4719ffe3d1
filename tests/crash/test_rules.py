"""Each safety rule is missed when it is gone: removed from a copy of the project, and something must fail."""

import pytest

from tests.crash.removal import ROOT, caught, row
from tests.crash.rules import RULES, Rule

GUARANTEES = (ROOT / "docs/guarantees.md").read_text()


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_every_rule_is_in_the_sources(rule: Rule) -> None:
    assert (ROOT / rule.file).read_text().count(rule.old) == 1
    assert (ROOT / rule.caught_by.partition("::")[0]).exists()


@pytest.mark.slow
@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_a_rule_that_is_removed_is_missed(rule: Rule) -> None:
    assert caught(rule) is not None


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_every_rule_is_in_the_documentation(rule: Rule) -> None:
    """With its file and what catches it; which case comes first may change with the sources."""
    assert row(rule, "").removesuffix(" |") in GUARANTEES
