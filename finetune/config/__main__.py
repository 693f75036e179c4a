"""`make show CONF=x`: print the composed configuration, interpolations and secrets unresolved."""

import sys

from finetune.config.load import show
from finetune.console import complain, say
from finetune.errors import HallmarkError


def main() -> int:
    try:
        say(show(sys.argv[1:]))
    except HallmarkError as error:
        for problem in error.problems:
            complain(problem)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
