"""Findings about an installation, from made-up installations."""

import pytest
from packaging.requirements import Requirement

from jitflow.errors import ConfigError
from jitflow.inspect import doctor
from jitflow.inspect.doctor import (
    Finding,
    check_data,
    check_disk,
    check_kernels,
    check_packages,
    check_precision,
    check_python,
    check_threads,
    check_writing,
    examine,
)
from jitflow.layers import fusion
from jitflow.verbs.inspect import doctor as doctor_command


def test_versions_are_compared_with_what_is_asked_for():
    assert check_python("3.11.2", ">=3.10").level == "ok"
    assert check_python("3.9.1", ">=3.10").level == "error"
    asked = [Requirement(text) for text in ("torch>=2.11", "rich>=13.9", "yaml>=6", 'timm>=1.0; extra == "eval"')]
    installed = {"torch": "2.15.0+cu132", "rich": "12.0"}
    fits, *others = check_packages(asked, installed.get)
    assert fits.level == "ok" and "torch 2.15.0+cu132" in fits.message and "rich" not in fits.message
    assert [(f.level, f.advice) for f in others] == [
        ("error", "pip install 'rich>=13.9'"),
        ("error", "pip install 'yaml>=6'"),
        ("note", "pip install 'jitflow[eval]'"),
    ]


def test_threads_and_disk(tmp_path):
    assert check_threads(2, 2, "GOMP_SPINCOUNT=1000").level == "ok"
    assert check_threads(2, 2, None).level == "note"
    assert "OMP_NUM_THREADS=2" in check_threads(8, 2, None).advice
    levels = [check_disk(tmp_path, free).level for free in (999_999_999, 2_000_000_000, 200_000_000_000)]
    assert levels == ["error", "note", "ok"]
    assert check_writing(tmp_path / "not" / "there").level == "ok"
    assert not (tmp_path / "not").exists()


def test_folders_of_images(tmp_path):
    assert check_data(tmp_path / "none").level == "error"
    assert "class folders" in check_data(tmp_path).message
    for name in ("a", "b"):
        (tmp_path / "train" / name).mkdir(parents=True)
    (tmp_path / "train" / "a" / "1.JPG").touch()
    finding = check_data(tmp_path)
    assert finding.level == "error" and "1 of 2 classes hold no image, such as b" in finding.message
    (tmp_path / "train" / "b" / "1.png").touch()
    assert check_data(tmp_path).level == "ok"


def test_precision_of_a_gpu_says_how_float32_is_computed(monkeypatch):
    monkeypatch.setattr(doctor, "default_device", lambda: "cuda")
    monkeypatch.setattr(doctor.torch.cuda, "is_bf16_supported", lambda including_emulation: True)
    for allowed, word in ((True, "TF32"), (False, "true float32")):
        monkeypatch.setattr(doctor, "is_tf32_allowed", lambda allowed=allowed: allowed)
        finding = check_precision()
        assert finding.level == "ok" and "bf16-mixed" in finding.message and word in finding.message


def test_only_errors_fail_the_command(monkeypatch, capsys):
    found = [Finding("a", "ok", "well"), Finding("b", "note", "so-so", "mend it")]
    monkeypatch.setattr(doctor, "examine", lambda data: found)
    doctor_command([])
    assert "-> mend it" in capsys.readouterr().out
    found.append(Finding("disk", "error", "full", "empty it"))
    with pytest.raises(ConfigError, match=r"1 of 3 checks failed \(disk\)"):
        doctor_command([])


def test_this_installation(tmp_path):
    findings = examine(None, tmp_path)
    assert [f.topic for f in findings if f.level == "error"] == []
    topics = {"python", "packages", "device", "precision", "threads", "data", "FID weights", "disk", "writing"}
    assert topics <= {f.topic for f in findings}


def test_kernels_need_a_compiler_on_a_gpu_only(monkeypatch):
    assert check_kernels().level == "ok"
    monkeypatch.setattr(doctor, "default_device", lambda: "cuda")
    assert check_kernels().level == "ok"
    monkeypatch.setattr(fusion, "HAS_C_COMPILER", False)
    finding = check_kernels()
    assert finding.level == "note" and "C compiler" in finding.message
