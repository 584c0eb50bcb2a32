"""`python -m dibs` is the command `dibs`."""

from dibs.cli import main

raise SystemExit(main())
