"""One store with a frozen clock for all proofs of a module."""

from collections.abc import Iterator

import pytest
from tests.proofs.rig import FrozenServer


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FrozenServer]:
    server = FrozenServer(tmp_path_factory.mktemp("proofs"))
    yield server
    server.close()
