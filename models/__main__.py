"""`python -m models COMMAND` in a checkout is `tidegate COMMAND`."""

import sys

from tidegate.service.cli import main

sys.exit(main())
