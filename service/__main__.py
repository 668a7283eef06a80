"""`python -m tidegate.service` is `tidegate`."""

import sys

from tidegate.service.cli import main

sys.exit(main())
