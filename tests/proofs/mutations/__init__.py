"""The mutants, one file for each room of the code; `make mutants` puts each into a copy."""

from tests.proofs.mutations import (
    acts_and_api,
    board,
    claim,
    client,
    connections,
    edges,
    forge,
    holders,
    hooks_and_imports,
    lists,
    moves,
    service,
    shared_scripts,
    store,
    tenure,
)
from tests.proofs.mutations.mutant import Mutant

__all__ = ["MUTANTS", "Mutant"]

MUTANTS: list[Mutant] = [
    *acts_and_api.MUTANTS,
    *board.MUTANTS,
    *claim.MUTANTS,
    *client.MUTANTS,
    *forge.MUTANTS,
    *holders.MUTANTS,
    *hooks_and_imports.MUTANTS,
    *lists.MUTANTS,
    *moves.MUTANTS,
    *connections.MUTANTS,
    *edges.MUTANTS,
    *service.MUTANTS,
    *shared_scripts.MUTANTS,
    *store.MUTANTS,
    *tenure.MUTANTS,
]
