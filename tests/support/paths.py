"""Where this project and its shared test data lie."""

from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
SHARED = PROJECT.parent / "shared"  # of developers; tests that read it skip, and say so, where it is absent
