"""What a run costs: parameters, operations and bytes against the real model, verdicts, the command."""

from __future__ import annotations

import json
import math
import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

pytest.importorskip("paddle")

from roformer_convert.cmd_pretrain_doctor import doctor_command
from roformer_convert.models.config import RoFormerConfig
from roformer_convert.models.processes.start_paddle import paddle
from roformer_convert.models.proving import choice_paddle as kernel_choice_paddle
from roformer_convert.models.proving.trials_paddle import Need, Verdict
from roformer_convert.models.roformer_paddle import RoFormerForPretraining
from roformer_convert.training.doctor import machine, probe, targets
from roformer_convert.training.doctor.forecast import Target, diagnose, lines
from roformer_convert.training.settings.reading import settings_from_tree
from roformer_convert.training.settings.tables import Data, Settings
from roformer_convert.training.step import estimate
from roformer_convert.training.step.estimate import KINDS, Pace
from roformer_convert.training.step.weights import Weights

REFERENCE = RoFormerConfig(
    vocab_size=12000,
    embedding_size=768,
    hidden_size=768,
    num_hidden_layers=12,
    num_attention_heads=12,
    intermediate_size=3072,
    max_position_embeddings=512,
)
SMALL = RoFormerConfig(
    vocab_size=300,
    embedding_size=48,
    hidden_size=48,
    num_hidden_layers=3,
    num_attention_heads=4,
    intermediate_size=192,
    max_position_embeddings=128,
)
CARD: dict[str, Any] = {
    "run": {"precision": "fp16-o1"},
    "stages": [
        {"length": 128, "batch_size": 256, "steps": 300_000, "micro_tokens": 64 * 128, "max_lr": 1e-4},
        {"length": 512, "batch_size": 256, "steps": 500_000, "micro_tokens": 64 * 512},
    ],
}


def settings(**tables: Any) -> Settings:
    return settings_from_tree({**CARD, **tables})


def v100(gigabytes: int = 16, ranks: int = 4, given: Settings | None = None) -> Target:
    return targets.elsewhere(KINDS[f"V100-{gigabytes}GB"], given or settings(), ranks)


# Parameters and operations -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "config",
    [
        SMALL,
        replace(SMALL, embedding_size=20, vocab_size=77),
        replace(SMALL, num_hidden_layers=1, intermediate_size=50, type_vocab_size=3),
    ],
    ids=["square", "projected", "odd"],
)
def test_parameters_are_those_of_the_model(config: RoFormerConfig) -> None:
    model = RoFormerForPretraining(config)
    shapes = {name: parameter.shape for name, parameter in model.named_parameters()}
    assert estimate.parameter_count(config) == sum(math.prod(shape) for shape in shapes.values())
    multiplied = [
        shape
        for name, shape in shapes.items()
        if len(shape) == 2 and (name.startswith("layers.") or name == "embeddings.project.weight")
    ]
    assert estimate.matmul_parameters(config) == sum(math.prod(shape) for shape in multiplied)


def test_the_reference_runs_figures_come_out() -> None:
    assert estimate.matmul_parameters(REFERENCE) / 1e6 == pytest.approx(84.93, abs=0.005)
    assert estimate.flop_per_token(REFERENCE, 512) / 1e6 == pytest.approx(575, abs=0.5)
    a_card = 287.13 * 512 / 4  # tokens a second
    assert a_card == pytest.approx(36_800, rel=2e-3)
    assert a_card * estimate.flop_per_token(REFERENCE, 512) / 125e12 == pytest.approx(0.169, abs=5e-4)


def test_operations_are_counted_by_hand() -> None:
    # one layer, H 2, F 3, V 5, 4 tokens: products of 4·2·2 + 2·2·3 = 28 weights, scores and context 2·4·2
    config = replace(
        SMALL, vocab_size=5, embedding_size=2, hidden_size=2, num_hidden_layers=1, num_attention_heads=1,
        intermediate_size=3,
    )  # fmt: skip
    layer, head = 2 * 28 + 2 * 2 * 4 * 2, 2 * (2 * 2 + 2 * 5)
    assert estimate.flop_per_token(config, 4, masked=0.5) == 3 * layer + 3 * 0.5 * head
    assert estimate.flop_per_token(config, 4, masked=0.5, recompute=True) == 4 * layer + 3 * 0.5 * head
    assert estimate.flop_per_token(config, 4, masked=0.0) == 3 * layer


# Memory --------------------------------------------------------------------------------------------------------------


def peak_of_a_step(config: RoFormerConfig, rows: int, length: int, recompute: bool) -> int:
    """Bytes that Paddle holds at the peak of a step, beside weights and moments."""
    core = paddle.base.core
    model = RoFormerForPretraining(config)
    model.train()
    model.gradient_checkpointing = recompute
    step = probe._forward_backward(model, rows, length, "fp32", 0.15)
    step()  # gradients are there from now on
    held = core.host_memory_stat_current_value("Allocated", 0)
    core.host_memory_stat_reset_peak_value("Allocated", 0)
    step()
    return core.host_memory_stat_peak_value("Allocated", 0) - held


@pytest.mark.parametrize("recompute", [False, True], ids=["kept", "recomputed"])
@pytest.mark.parametrize(("rows", "length"), [(16, 32), (4, 128)])
def test_activations_are_what_paddle_holds(rows: int, length: int, recompute: bool) -> None:
    config = replace(SMALL, num_hidden_layers=4, hidden_size=96, embedding_size=96, intermediate_size=384)
    measured = peak_of_a_step(config, rows, length, recompute)
    found = estimate.memory(config, rows=rows, length=length, recompute=recompute)
    assert found.activations + found.head == pytest.approx(measured, rel=0.06)


def test_what_does_not_depend_on_the_batch_is_counted_by_parameter() -> None:
    count = estimate.parameter_count(SMALL)
    shape: dict[str, Any] = {"config": SMALL, "rows": 1, "length": 8}
    fp32 = estimate.memory(**shape)
    assert (fp32.weights, fp32.gradients, fp32.moments, fp32.masters) == (4 * count, 4 * count, 8 * count, 0)
    o2 = estimate.memory(**shape, precision="fp16-o2")
    assert (o2.weights, o2.gradients, o2.moments, o2.masters) == (2 * count, 6 * count, 8 * count, 4 * count)
    divided = estimate.memory(**shape, precision="fp16-o2", ranks=4, shard_optimizer=True)
    assert (divided.moments, divided.masters) == (2 * count, 4 * count)
    assert divided.total == sum(vars(divided).values())


def test_half_gradients_and_their_sums_are_there_at_once() -> None:
    """O2 with float32 in place of the half type, which a CPU has not: both kinds then take 4 bytes."""
    core = paddle.base.core
    weights = Weights(RoFormerForPretraining(SMALL), Data(), half="float32")
    step = probe._forward_backward(weights.model, 1, 4, "fp32", 0.5)
    step()
    weights.collect()  # the sums are there from now on, as after the first micro-batch
    held = core.host_memory_stat_current_value("Allocated", 0)
    step()
    halves = core.host_memory_stat_current_value("Allocated", 0) - held
    count = estimate.parameter_count(SMALL)
    assert all(master.grad is not None for master in weights.trained.values())
    assert halves == pytest.approx(4 * count, rel=0.05)


def test_recompute_fused_attention_and_half_types_take_less() -> None:
    def total(**options: Any) -> int:
        return estimate.memory(REFERENCE, rows=32, length=512, **options).total

    assert total(recompute=True) < total(fused_attention=True) < total()
    assert total(precision="fp16-o2") < total(precision="fp16-o1") < total()


@pytest.mark.parametrize("room", [3e9, 8e9, 16e9, 1e12])
def test_the_most_rows_fit_and_one_more_does_not(room: float) -> None:
    rows = estimate.largest_rows(int(room), 256, config=REFERENCE, length=512)
    assert rows == 0 or estimate.memory(REFERENCE, rows=rows, length=512).total <= room
    assert rows == 256 or estimate.memory(REFERENCE, rows=rows + 1, length=512).total > room


# Time ----------------------------------------------------------------------------------------------------------------


def test_a_step_is_its_work_over_the_pace_of_all_ranks() -> None:
    pace = Pace(1e12, 0.5, "")
    work = 256 * 512 * estimate.flop_per_token(REFERENCE, 512)
    assert estimate.step_seconds(REFERENCE, pace, batch_size=256, length=512, ranks=4) == work / 4e12 + 0.5


def test_the_reference_run_takes_as_long_as_it_took() -> None:
    found = diagnose(settings(), REFERENCE, v100(32))
    assert found.stages[1].tokens_per_second == pytest.approx(287.13 * 512, rel=2e-3)


def test_a_probe_foretells_a_real_step(monkeypatch: pytest.MonkeyPatch) -> None:
    # the process's own time, for others use the machine too; a factor of three, for steps this small are mostly calls
    monkeypatch.setattr(time, "perf_counter", time.process_time)
    config = replace(SMALL, num_hidden_layers=6, hidden_size=96, embedding_size=96, intermediate_size=384)
    pace = probe.probe(config, rows=8, length=64, seconds=0.1)
    foretold = estimate.step_seconds(config, pace, batch_size=8, length=64)
    model = RoFormerForPretraining(config)
    model.train()
    step = probe._forward_backward(model, 8, 64, "fp32", 0.15)
    real = probe._seconds(step, 0.3) + probe._seconds(probe._update(model), 0.1)
    assert real / 3 < foretold < real * 3


# Verdicts ------------------------------------------------------------------------------------------------------------


def test_what_does_not_fit_is_named_with_what_would() -> None:
    found = diagnose(settings(), REFERENCE, v100(16))
    (said,) = found.cannot
    assert said.startswith("stage 2: 64 sequences of 512 tokens at once need ")
    assert "V100-16GB has 15.8 GB for them: use --micro-tokens 8192 or --recompute." in said
    stages = [{**stage, "micro_tokens": 16 * stage["length"]} for stage in CARD["stages"]]
    assert diagnose(settings(stages=stages), REFERENCE, v100(16)).cannot == ()
    assert diagnose(settings(run={"precision": "fp16-o1", "recompute": True}), REFERENCE, v100(16)).cannot == ()


def test_memory_is_planned_without_a_kernel_that_is_not_proven() -> None:
    given = settings(run={"precision": "fp16-o2"})
    target = v100(32, given=given)
    assert (target.attention, target.proven) == ("memory-efficient attention", False)
    cost = diagnose(given, REFERENCE, target).stages[1]
    proven = diagnose(given, REFERENCE, replace(target, proven=True)).stages[1]
    assert (cost.fast_memory, proven.fast_memory) == (proven.memory, None)
    assert cost.fast_memory is not None
    assert cost.memory.total > 1.5 * cost.fast_memory.total
    said = "\n".join(lines(diagnose(given, REFERENCE, target), given))
    assert "attention  memory-efficient attention if it passes its trial there (" in said
    refused = replace(target, attention=None)
    assert diagnose(given, REFERENCE, refused).stages[1].memory == cost.memory


@pytest.mark.parametrize("agrees", [True, False])
def test_a_gpu_of_this_machine_is_planned_with_what_proved_itself(
    monkeypatch: pytest.MonkeyPatch, agrees: bool
) -> None:
    asked: list[Any] = []

    def prove(config: RoFormerConfig, types: tuple[str, ...], *, training: bool) -> tuple[Verdict, ...]:
        assert training
        asked.append(types)
        return (Verdict("a kernel", Need("attention", "float16", (12, 64)), agrees, "told so"),)

    monkeypatch.setattr(kernel_choice_paddle, "prove", prove)
    monkeypatch.setattr(paddle.device, "set_device", lambda name: asked.append(name))
    monkeypatch.setattr(targets, "probe", lambda config, **shape: Pace(1e13, 0.1, "measured"))
    gpu = machine.Device("a V100", 32 << 30, (7, 0))
    monkeypatch.setattr(machine, "gpus", lambda: (gpu,))
    given = settings(run={"precision": "fp16-o2"})
    found = diagnose(given, REFERENCE, targets.here(given, REFERENCE, 1))
    assert asked == ["gpu:0", ("float16",)]
    assert (found.target.attention, found.target.proven) == ("a kernel" if agrees else None, True)
    said = "\n".join(lines(found, given))
    assert f"  attention  {'a kernel' if agrees else 'matrix products and softmax'}\n" in said
    assert f"  kernel     attention: a kernel in float16{', ' if agrees else ' is left out: '}told so" in said
    planned = estimate.memory(
        REFERENCE, rows=64, length=512, precision="fp16-o2", masked=0.15, fused_attention=agrees
    ).total
    assert found.stages[1].memory.total == pytest.approx(planned, rel=0.01)


def test_a_run_that_fits_with_the_fast_kernel_alone_is_warned() -> None:
    given = settings(run={"precision": "fp16-o2"})
    target = v100(32, given=given)
    cost = diagnose(given, REFERENCE, target).stages[1]
    assert cost.fast_memory is not None
    found = diagnose(given, REFERENCE, replace(target, room=(cost.memory.total + cost.fast_memory.total) // 2))
    assert found.cannot == ()
    assert "it fits only if memory-efficient attention passes its trial" in found.warnings[-1]
    said = "\n".join(lines(found, given))
    assert "if fast" in said
    assert "can run" in said
    assert diagnose(given, REFERENCE, replace(target, room=cost.fast_memory.total - 1)).cannot != ()


def test_a_model_that_never_fits_is_told_so() -> None:
    huge = replace(REFERENCE, hidden_size=8192, embedding_size=8192, num_attention_heads=64, intermediate_size=32768)
    (first, second) = diagnose(settings(), huge, v100(16)).cannot
    assert "use --shard-optimizer or a smaller model; not even one sequence fits." in first
    assert second.startswith("stage 2")


def test_a_type_that_the_device_lacks_is_refused_and_the_rest_still_estimated() -> None:
    given = settings(run={"precision": "bf16-o1", "recompute": True})
    found = diagnose(given, REFERENCE, v100(32, given=given))
    assert "precision bf16-o1: V100-32GB trains only in fp32, fp16" in found.cannot[0]
    assert found.stages[1].memory.masters == 0
    cpu = Target("a processor", 10**12, ("fp32",), None, 1, lambda rows, length: Pace(1e11, 0.0, "measured"))
    assert "Use --precision fp32." in diagnose(settings(), REFERENCE, cpu).cannot[0]


def test_ranks_without_work_and_full_disks_are_told() -> None:
    stages = [{"length": 128, "batch_size": 6, "steps": 10, "max_lr": 1e-4}]
    found = diagnose(settings(stages=stages), REFERENCE, v100(16, ranks=8), disk=10**9)
    assert "leaves some of 8 ranks without work" in found.cannot[0]
    assert "but only 1.0 GB are free" in found.cannot[1]
    assert diagnose(settings(stages=stages), REFERENCE, v100(16, ranks=4)).warnings == (
        "stage 1: a batch_size of 6 is no multiple of 4 ranks: some wait.",
    )


def test_a_micro_batch_of_nothing_is_a_ranks_share() -> None:
    stages = [{"length": 128, "batch_size": 64, "steps": 10, "max_lr": 1e-4}]
    (cost,) = diagnose(settings(stages=stages), REFERENCE, v100(ranks=4)).stages
    assert (cost.rows, cost.passes) == (16, 1)


def test_the_report_names_every_stage_and_the_whole() -> None:
    given = settings()
    said = "\n".join(lines(diagnose(given, REFERENCE, v100(32)), given))
    assert "95.5 M parameters, vocabulary 12,000" in said
    assert "256 = 4 × 1 × 64" in said
    assert "17 h 13 min" in said


# The machine ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("version", "warned"), [("2.3.5", False), ("2.4.0", True), ("1.26.4", False), ("3.0.0", True)])
def test_a_numpy_that_paddles_scaler_dies_of_is_warned_of(version: str, warned: bool) -> None:
    assert any("numpy<2.4" in text for text in machine.warnings(version)) is warned


def test_a_cpu_trains_in_float32_alone() -> None:
    # is_bfloat16_supported says otherwise, and AMP then does nothing
    assert machine.cpu().types == ("fp32",)


@pytest.mark.parametrize(
    ("capability", "attention"),
    [
        ((3, 7), {"fp32": None}),
        ((5, 0), {"fp32": "memory-efficient attention"}),
        ((7, 0), {"fp32": "memory-efficient attention", "fp16": "memory-efficient attention"}),
        ((9, 0), {"fp32": "memory-efficient attention", "fp16": "FlashAttention", "bf16": "FlashAttention"}),
    ],
)
def test_a_gpu_trains_in_what_its_capability_says(
    capability: tuple[int, int], attention: dict[str, str | None]
) -> None:
    kind = estimate.Kind("a GPU", 1 << 30, 1e12, 1e12, capability)
    for precision in ("fp32", "fp16", "bf16"):
        given = settings(run={"precision": precision if precision == "fp32" else f"{precision}-o2"})
        target = targets.elsewhere(kind, given, 1)
        assert target.types == tuple(attention)
        assert target.attention == attention.get(precision, attention["fp32"])


def test_what_hinders_a_run_here_is_told_with_its_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "warnings", lambda: ["a trap."])
    monkeypatch.setattr(targets, "probe", lambda config, **shape: Pace(1e10, 0.1, "measured"))
    given = settings(run={"device": "cpu"})
    assert diagnose(given, SMALL, targets.here(given, SMALL, 1)).warnings == ("a trap.",)
    assert diagnose(given, SMALL, v100()).warnings == ()  # another machine's traps are not known


@pytest.mark.parametrize(
    ("files", "free"),
    [
        ({"/proc/meminfo": "MemTotal: 9 kB\nMemAvailable: 8 kB\n"}, 8 << 10),
        ({"/proc/meminfo": "MemAvailable: 8 kB\n", "memory.max": "5000\n", "memory.current": "1000\n"}, 4000),
        ({"/proc/meminfo": "MemAvailable: 8 kB\n", "memory.max": "max\n", "memory.current": "1000\n"}, 8 << 10),
    ],
)
def test_a_containers_limit_counts(monkeypatch: pytest.MonkeyPatch, files: dict[str, str], free: int) -> None:
    def read(path: Path) -> str:
        for name, text in files.items():
            if str(path).endswith(name):
                return text
        raise FileNotFoundError(path)

    monkeypatch.setattr(Path, "read_text", read)
    assert machine._free_on_host() == free


def test_the_disk_of_a_directory_that_is_not_there_yet_is_its_parents(tmp_path: Path) -> None:
    assert machine.free_on_disk(tmp_path / "not" / "yet") == pytest.approx(shutil.disk_usage(tmp_path).free, rel=0.1)


@pytest.mark.parametrize(("visible", "asked"), [(None, "1"), ("", "1"), ("3, GPU-5a1b", "GPU-5a1b"), ("3", None)])
def test_a_gpus_free_memory_is_that_of_the_visible_device(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, visible: str | None, asked: str | None
) -> None:
    driver = tmp_path / "nvidia-smi"
    driver.write_text(f'#!/bin/sh\ntest "$3" = "--id={asked}" && echo 100\n')
    driver.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert machine._free_of_gpu(1, 1 << 40) == (100 << 20 if asked else 1 << 40)


# The command ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def configuration(tmp_path: Path) -> Path:
    path = tmp_path / "card.toml"
    stages = [
        "[[stages]]\n" + "".join(f"{key} = {value}\n" for key, value in stage.items()) for stage in CARD["stages"]
    ]
    path.write_text('[run]\nprecision = "fp16-o1"\n' + "".join(stages))
    return path


def run(*arguments: object) -> Result:
    return CliRunner().invoke(doctor_command, [str(one) for one in arguments])


def test_the_exit_status_says_whether_it_can_run(configuration: Path) -> None:
    refused = run("--config", configuration, "--gpu", "V100-16GB", "--ranks", 4)
    assert refused.exit_code == 1, refused.output
    assert "cannot run: stage 2: 64 sequences of 512 tokens at once" in refused.output
    taken = run(
        "--config", configuration, "--gpu", "v100-16gb", "--ranks", 4, "--micro-tokens", 2048, "--micro-tokens", 8192
    )
    assert taken.exit_code == 0, taken.output
    assert "can run: " in taken.output


def test_a_configuration_is_measured_here(configuration: Path) -> None:
    flags = ["--hidden-size", 16, "--num-hidden-layers", 3, "--num-attention-heads", 2, "--precision", "fp32"]
    found = run(
        "--config", configuration, *flags, "--micro-tokens", 512, "--device", "cpu", "--json", "--vocab-size", 50
    )
    assert found.exit_code == 0, found.output
    report = json.loads(found.stdout)
    assert [(stage["rows"], stage["fits"]) for stage in report["stages"]] == [(4, "yes"), (1, "yes")]
    assert report["seconds"] > 0
    assert report["stages"][0]["pace"]["source"].startswith(f"measured on cpu, Paddle {machine.build()}, OMP_NUM")


def test_the_help_shows_its_own_flags_alone() -> None:
    said = run("--help").output
    assert "--gpu" in said
    assert "--hidden-size" not in said
