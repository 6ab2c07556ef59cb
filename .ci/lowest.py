"""Print the lowest version that pyproject.toml allows of each dependency: NAME==VERSION.

Those of the extras are among them.
"""

import re
import tomllib
from pathlib import Path

pyproject = tomllib.loads(Path(__file__).parents[1].joinpath("pyproject.toml").read_text())
project = pyproject["project"]
for dependency in sum(project["optional-dependencies"].values(), project["dependencies"]):
    if not dependency.startswith(f"{project['name']}["):  # an extra that has another one in it
        name, floor = re.fullmatch(r"([A-Za-z0-9_.-]+)>=([0-9.]+)", dependency).groups()
        print(f"{name}=={floor}")
