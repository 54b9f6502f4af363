"""The launch files, read as `accelerate launch` reads them."""

import re
import shlex
import tomllib
from argparse import Namespace
from pathlib import Path

import pytest
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils import DistributedType, prepare_deepspeed_cmd_env, prepare_multi_gpu_env

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "configs" / "accelerate"
NAMES = sorted(path.name for path in FOLDER.glob("*.yaml"))
ZERO = {  # stage, where the optimizer's state lies, where the weights lie
    "zero1.yaml": (1, "none", "none"),
    "zero1-offload.yaml": (1, "cpu", "none"),
    "zero2.yaml": (2, "none", "none"),
    "zero2-offload.yaml": (2, "cpu", "none"),
    "zero3.yaml": (3, "none", "none"),
    "zero3-offload.yaml": (3, "cpu", "cpu"),
}
PLAIN = {
    "cpu.yaml": DistributedType.NO,
    "one-gpu.yaml": DistributedType.NO,
    "multi-gpu.yaml": DistributedType.MULTI_GPU,
    "multi-node.yaml": DistributedType.MULTI_GPU,
}
TWO_MACHINES = (
    "--num_machines",
    "2",
    "--machine_rank",
    "1",
    "--main_process_ip",
    "10.0.0.1",
    "--num_processes",
    "16",
)


def resolve(name: str, *options: str) -> Namespace:
    """The settings of ``accelerate launch --config_file NAME OPTIONS mmkd train``."""
    command = ["--config_file", str(FOLDER / name), *options, "mmkd", "train"]
    settings, *_ = _validate_launch_command(launch_command_parser().parse_args(command))
    settings.deepspeed_fields_from_accelerate_config = ""  # the launcher's own next step
    return settings


def head(name: str) -> str:
    """A file's first comment, its lines joined."""
    lines = (FOLDER / name).read_text(encoding="utf-8").splitlines()
    comment = lines[: next(number for number, line in enumerate(lines) if not line.startswith("#"))]
    return " ".join(line.lstrip("#").strip() for line in comment)


def test_there_is_one_for_each_way() -> None:
    assert set(NAMES) == {*ZERO, *PLAIN}


@pytest.mark.parametrize("name", NAMES)
def test_each_says_its_own_command(name: str) -> None:
    (command,) = re.findall(
        r"accelerate launch (--config_file .*?) mmkd train", head(name).replace("\\ ", "")
    )
    arguments = launch_command_parser().parse_args([*shlex.split(command), "mmkd", "train"])
    assert arguments.config_file == f"configs/accelerate/{name}"
    assert (ROOT / arguments.training_script).is_dir()


@pytest.mark.parametrize("name", NAMES)
def test_precision_is_left_to_mmkd(name: str) -> None:
    assert load_config_from_file(str(FOLDER / name)).mixed_precision == "no"


@pytest.mark.parametrize(("name", "engine"), PLAIN.items())
def test_without_deepspeed(name: str, engine: DistributedType) -> None:
    config = load_config_from_file(str(FOLDER / name))
    assert config.distributed_type == engine
    assert config.use_cpu == (name == "cpu.yaml")
    arguments = resolve(name)
    assert not arguments.use_deepspeed
    assert arguments.num_machines == (2 if name == "multi-node.yaml" else 1)


@pytest.mark.parametrize(("name", "expected"), ZERO.items())
def test_deepspeed_is_told_stage_and_offload(name: str, expected: tuple[int, str, str]) -> None:
    config = load_config_from_file(str(FOLDER / name))
    assert config.distributed_type == DistributedType.DEEPSPEED
    assert not config.use_cpu  # it would quietly mean DDP
    arguments = resolve(name, "--main_process_port", "0")
    _, environment = prepare_deepspeed_cmd_env(arguments)
    names = ("ZERO_STAGE", "OFFLOAD_OPTIMIZER_DEVICE", "OFFLOAD_PARAM_DEVICE")
    stage, optimizer, weights = (environment[f"ACCELERATE_DEEPSPEED_{key}"] for key in names)
    assert (int(stage), optimizer, weights) == expected
    assert environment["ACCELERATE_USE_DEEPSPEED"] == "true"
    if expected[0] == 3:  # or the student could not be gathered for its export
        assert environment["ACCELERATE_DEEPSPEED_ZERO3_SAVE_16BIT_MODEL"] == "true"


@pytest.mark.parametrize("name", ["multi-node.yaml", *ZERO])
def test_two_machines_meet_at_the_first(name: str) -> None:
    """Each machine starts its own processes, with neither ssh nor a host file."""
    arguments = resolve(name, *TWO_MACHINES)
    if name in ZERO:
        command, _ = prepare_deepspeed_cmd_env(arguments)
        assert command is None, "the deepspeed launcher would want a host file"
    else:
        prepare_multi_gpu_env(arguments)
    assert (arguments.nnodes, arguments.node_rank, arguments.nproc_per_node) == ("2", 1, "8")
    assert arguments.rdzv_endpoint == "10.0.0.1:29500"
    assert arguments.rdzv_backend == "static"


@pytest.mark.parametrize("name", NAMES)
def test_the_package_carries_it(name: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    patterns = project["tool"]["setuptools"]["package-data"]["mmkd.configs"]
    packed = {path for pattern in patterns for path in (ROOT / "configs").glob(pattern)}
    assert FOLDER / name in packed


def test_the_documentation_names_every_file() -> None:
    text = (ROOT / "docs" / "scaling.md").read_text(encoding="utf-8")
    assert [name for name in NAMES if f"`{name}`" not in text] == []
