"""Fetch the public image sets into the cache: `python -m labkit.data`, which `make data` calls."""

import argparse
import sys

from labkit import data
from labkit.errors import LabkitError


def main() -> int:
    """Download what is not there yet and say what is; a failed download is one message."""
    about = "Download CIFAR-10 and CIFAR-100, some 340 MB, into the cache; what is there is kept."
    argparse.ArgumentParser(prog="python -m labkit.data", description=about).parse_args()
    try:
        for read in (data.cifar10, data.cifar100):
            for part in read("download"):
                sys.stdout.write(f"{part}\n")
    except LabkitError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
