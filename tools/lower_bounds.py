"""Print the lowest version that pyproject.toml allows of every direct dependency, as constraints.

python tools/lower_bounds.py > lowest.txt && pip install -c lowest.txt -e . --group dev
"""

import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

PROJECT = Path(__file__).parents[1] / "pyproject.toml"


def lower_bounds(project: Path = PROJECT) -> Iterator[str]:
    """``name==version`` of every requirement of the package, its extras and its dev group."""
    content = tomllib.loads(project.read_text(encoding="utf-8"))
    groups = [
        content["project"]["dependencies"],
        *content["project"]["optional-dependencies"].values(),
        *content["dependency-groups"].values(),
    ]
    for requirement in (each for group in groups for each in group):
        bounds = re.fullmatch(r"([A-Za-z0-9-]+)>=([0-9.]+),<[0-9.]+", requirement)
        if bounds is None:
            raise SystemExit(f"{requirement}: write it as name>=lowest,<first that is not tried")
        yield f"{bounds[1]}=={bounds[2]}"


if __name__ == "__main__":
    sys.stdout.write("\n".join(lower_bounds()) + "\n")
