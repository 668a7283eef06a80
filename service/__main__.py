"""`python -m service` is `tidegate`."""

import sys

from service.cli import main

sys.exit(main())
