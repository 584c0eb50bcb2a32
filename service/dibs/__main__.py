"""Entry point of `python -m dibs`: the command `dibs`."""

from dibs.cli import main

raise SystemExit(main())
