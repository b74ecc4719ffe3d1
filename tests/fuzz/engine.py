"""Fuzzes one target, guided by coverage. A child of `python -m tests.fuzz`: libFuzzer ends its process.

python -m tests.fuzz.engine TARGET [libFuzzer's arguments]
"""

import sys

import atheris

INSTRUMENTED = ["job", "launcher", "tarfile", "tomllib", "zipfile"]
"""Whose branches guide the search: ours, and what reads the formats for us."""


def main() -> None:
    """Run until libFuzzer's arguments say that it is enough, or something is found."""
    name = sys.argv.pop(1)
    with atheris.instrument_imports(include=INSTRUMENTED):
        from tests.fuzz.targets import TARGETS
    atheris.Setup(sys.argv, TARGETS[name])
    atheris.Fuzz()


if __name__ == "__main__":
    main()
