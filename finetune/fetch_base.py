"""`make fetch-base CONF=x [FROM=path|s3://…|hub]`: the base copied once, pinned by hash, with its licence texts."""

import sys

from finetune.base import fetch_base
from finetune.stage import stage

if __name__ == "__main__":
    sys.exit(stage("fetch-base", fetch_base, sys.argv[1:]))
