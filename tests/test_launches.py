"""Settings of launches: accelerate reads the shipped ones, and what would hang is refused."""

import functools
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from accelerate import Accelerator
from accelerate.commands.config.config_args import ClusterConfig, load_config_from_file
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
from training import build_model, save_models

from blsp.errors import InputError
from blsp.guards import prepare_launch

FOLDER = Path(__file__).resolve().parent.parent / "recipes" / "accelerate"
FILES = sorted(FOLDER.rglob("*.yaml"))


def read(path: Path) -> ClusterConfig:
    config = load_config_from_file(str(path))
    assert isinstance(config, ClusterConfig)
    return config


def header(path: Path) -> str:
    lines = path.read_text(encoding="utf-8").partition("\n\n")[0].splitlines()
    return " ".join(line.removeprefix("#").strip() for line in lines)


def test_every_file_says_what_it_was_not_run_on() -> None:
    assert [path.relative_to(FOLDER).as_posix() for path in FILES] == [
        "multi_gpu.yaml",
        "untested/deepspeed_zero3.yaml",
        "untested/fsdp2.yaml",
    ]
    for path in FILES:
        assert "Nobody has run it" in header(path)
        command = f"accelerate launch --config_file recipes/accelerate/{path.relative_to(FOLDER)}"
        module = "blsp.sft" if "deepspeed" in path.stem else "blsp.train"
        assert f"{command} -m {module} RECIPE" in header(path)


def test_accelerate_reads_the_settings_of_deepspeed() -> None:
    config = read(FOLDER / "untested" / "deepspeed_zero3.yaml")
    assert config.distributed_type == DistributedType.DEEPSPEED
    assert (config.deepspeed_config or {})["zero_stage"] == 3
    assert (config.deepspeed_config or {})["zero3_save_16bit_model"] is True


@pytest.mark.parametrize("name", ["multi_gpu.yaml", "untested/fsdp2.yaml"])
def test_accelerate_reads_it_and_the_recipe_decides_on_precision(name: str) -> None:
    kinds = {
        "multi_gpu.yaml": DistributedType.MULTI_GPU,
        "untested/fsdp2.yaml": DistributedType.FSDP,
    }
    config = read(FOLDER / name)
    assert config.distributed_type == kinds[name]
    assert config.mixed_precision == "no" and config.dynamo_config == {}
    assert (config.num_machines, config.num_processes) == (1, 2)


# --- FSDP -----------------------------------------------------------------------------------------


@pytest.fixture
def shipped(monkeypatch: pytest.MonkeyPatch) -> FullyShardedDataParallelPlugin:
    """What accelerate makes of the shipped file, by way of the launcher's environment."""
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    for name, value in (read(FOLDER / "untested" / "fsdp2.yaml").fsdp_config or {}).items():
        monkeypatch.setenv(name.upper(), str(value))
    return FullyShardedDataParallelPlugin()


BLOCKS = {"WhisperEncoderLayer", "Qwen3DecoderLayer"}
LAUNCH: dict[str, Any] = {"optimizer": "adamw", "quantized": False, "blocks": BLOCKS}


def launched(kind: DistributedType, plugin: Any = None) -> Accelerator:
    state = SimpleNamespace(fsdp_plugin=plugin)
    return SimpleNamespace(distributed_type=kind, state=state)  # type: ignore[return-value]


def test_the_shipped_settings_are_taken_and_leave_the_encoder_whole(
    shipped: FullyShardedDataParallelPlugin,
) -> None:
    prepare_launch(launched(DistributedType.FSDP, shipped), **LAUNCH)
    assert shipped.ignored_modules == r"model\.audio_tower"
    assert shipped.transformer_cls_names_to_wrap == ["Qwen3DecoderLayer"]
    assert shipped.reshard_after_forward is True


def test_blocks_that_a_user_names_are_those(shipped: FullyShardedDataParallelPlugin) -> None:
    shipped.transformer_cls_names_to_wrap = ["Qwen3MLP"]
    prepare_launch(launched(DistributedType.FSDP, shipped), **LAUNCH)
    assert shipped.transformer_cls_names_to_wrap == ["Qwen3MLP"]


@pytest.mark.parametrize(
    ("name", "value", "found"),
    [
        ("fsdp_version", 1, "found 1"),
        ("activation_checkpointing", True, "found True"),
        ("cpu_ram_efficient_loading", True, "found True"),
        ("state_dict_type", SimpleNamespace(name="SHARDED_STATE_DICT"), "found SHARDED_STATE_DICT"),
    ],
)
def test_other_settings_are_refused(
    name: str, value: Any, found: str, shipped: FullyShardedDataParallelPlugin
) -> None:
    setattr(shipped, name, value)
    with pytest.raises(InputError, match=f"{name}: expected .* under FSDP, {found}; change it"):
        prepare_launch(launched(DistributedType.FSDP, shipped), **LAUNCH)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (LAUNCH | {"optimizer": "muon"}, "training.optimizer: .*, found muon"),
        (LAUNCH | {"quantized": True}, "model.llm_bits: .*, found 4 or 8"),
    ],
)
def test_recipes_that_were_never_tried_in_shards_are_refused(
    options: Any, told: str, shipped: FullyShardedDataParallelPlugin
) -> None:
    with pytest.raises(InputError, match=told):
        prepare_launch(launched(DistributedType.FSDP, shipped), **options)
    prepare_launch(launched(DistributedType.MULTI_GPU), **options)


def test_deepspeed_is_refused() -> None:
    with pytest.raises(InputError, match="found DeepSpeed, which hides the gradients"):
        prepare_launch(launched(DistributedType.DEEPSPEED), **LAUNCH)


def test_fsdp_finds_the_blocks_to_shard(
    shipped: FullyShardedDataParallelPlugin, tmp_path: Path
) -> None:
    save_models(tmp_path)
    model, _ = build_model(tmp_path)
    assert set(model._no_split_modules or ()) == BLOCKS
    prepare_launch(launched(DistributedType.FSDP, shipped), **LAUNCH)
    shipped.set_auto_wrap_policy(model)
    policy: Any = shipped.auto_wrap_policy
    assert isinstance(policy, functools.partial)
    found = {block.__name__ for block in policy.keywords["transformer_layer_cls"]}
    assert found == {"Qwen3DecoderLayer"}
