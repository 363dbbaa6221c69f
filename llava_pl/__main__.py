"""``python -m llava_pl`` is ``llava-pl``."""

import sys

from llava_pl.cli import main

sys.exit(main())
