"""``python -m clrfast``."""

import sys

from .cli import main

sys.exit(main())
