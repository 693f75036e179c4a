"""`make show CONF=x`: print the composed configuration, interpolations and secrets unresolved."""

import sys

from finetune.config.load import show
from finetune.console import say
from finetune.stage import guarded

if __name__ == "__main__":
    sys.exit(guarded(lambda: say(show(sys.argv[1:]))))
