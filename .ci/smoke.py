"""Run by a Python that has mmkd from its wheel, outside the checkout: is all of it there, and does it load?"""

import importlib
import pkgutil
import sys
import sysconfig
from importlib.resources import files
from pathlib import Path

import mmkd
from mmkd.cli.quiet import hush

hush()
site = Path(sysconfig.get_path("purelib"))
for folder in ("mmkd", "mmkd.cache", "mmkd.cli", "mmkd.configs"):
    found = Path(str(importlib.import_module(folder).__file__))
    assert found.is_relative_to(site), f"{folder} comes from {found}, not from the wheel in {site}"
modules = [
    module.name for module in pkgutil.walk_packages(mmkd.__path__, "mmkd.") if "__main__" not in module.name
]
for module in modules:
    importlib.import_module(module)
for name in mmkd.__all__:
    getattr(mmkd, name)

configs = files("mmkd.configs")
wanted = [
    *(
        f"accelerate/{name}.yaml"
        for name in ("cpu", "one-gpu", "multi-gpu", "multi-node", "zero1", "zero2", "zero3")
    ),
    *(f"accelerate/zero{stage}-offload.yaml" for stage in (1, 2, 3)),
    *(f"bias/{name}.yaml" for name in ("controls", "gender", "percent_women", "professions")),
    "recipes/demo-teacher.yaml",
    "zero_shot/cifar10.yaml",
    "zero_shot/cifar100.yaml",
    "zero_shot/stl10.yaml",
    "demo/teacher/model.safetensors",
]
missing = [name for name in wanted if not configs.joinpath(name).is_file()]
assert not missing, f"the wheel lacks {missing}"
assert files("mmkd").joinpath("py.typed").is_file()

teacher = mmkd.load_encoder(str(configs.joinpath("demo/teacher")))
assert teacher.spec.layers == (12, 12)
assert teacher.encode_texts(["a small red circle"]).shape == (1, teacher.spec.dim)
print(
    f"{len(modules)} modules, {len(wanted)} assets and the demo's teacher load from {site}", file=sys.stderr
)
