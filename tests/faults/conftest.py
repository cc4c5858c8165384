"""`runs` is a module that child processes import by name as well."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
