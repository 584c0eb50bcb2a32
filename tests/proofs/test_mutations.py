"""Each bug that `make mutants` puts in still has its place in the code."""

import pytest
from tests.proofs.mutants import ACTION, CLIENT, SERVICE, SKILL
from tests.proofs.mutations import MUTANTS, Mutant


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_what_a_bug_takes_the_place_of_stands_in_the_code_once(mutant: Mutant) -> None:
    folder, _, rest = mutant.file.partition("/")
    parts = {"client": CLIENT, "skill": SKILL, "action": ACTION}
    file = parts[folder] / rest if folder in parts else SERVICE / mutant.file
    assert file.read_text().count(mutant.old) == 1
    assert mutant.new != mutant.old
