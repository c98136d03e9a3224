"""From notebooks to pages: execute the chapters, lay them out with the prose, build and check the book."""

from pathlib import Path

EXECUTED = Path("_build/executed")
FAILED = Path("_build/failed")
VARIANTS = Path("_build/variants")
STAGE = Path("_build/stage")
HTML = Path("_build/html")
