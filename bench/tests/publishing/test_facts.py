"""Facts of a machine and its software: published whole, but for who publishes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from bench.judging.comparing.compare import compare
from bench.publishing import publish
from bench.records import environment, private
from bench.records.private import PRIVATE
from bench.records.run import RunFile
from bench.records.runfile import read
from bench.tests.publishing.test_publish import CARD, DEVICE, STACK, changed, run

OWN = "zqxowner"
FAMILIES = ["AMD_*", "HSA_*", "KMP_*", "NCCL_*", "TORCH*", "TRITON_*", "UR_*"]
SPEED = {
    "AMD_SERIALIZE_KERNEL": "3",
    "HSA_USERPTR_FOR_PAGED_MEM": "0",
    "KMP_USER_LEVEL_MWAIT": "1",
    "NCCL_IB_PCI_RELAXED_ORDERING": "0",
    "UR_L0_SERIALIZE": "2",
}
"""Called like what tells one machine, or its owner, from others, and nothing of the kind."""


def ran(variables: dict[str, str], **more: Any) -> RunFile:
    """A run whose launches found these variables."""
    told = {"variables": variables, "variables_looked_for": FAMILIES}
    return run(environment=changed(STACK, **told, **more))


def variables(folder: Path) -> dict[str, str]:
    """Those of a published run."""
    (found,) = {
        str(x.environment["variables"]): x.environment for x in read(folder).launches
    }.values()
    return dict(found["variables"])


def test_a_published_run_still_says_which_variables_may_have_made_it_slow(tmp_path: Path) -> None:
    """By the name of a variable alone nothing is private."""
    world = {"devices": 2, "hosts": 1}  # of one device, variables of links are none
    folder = publish.publish(ran(SPEED, world=world), tmp_path, "slowed", CARD)
    assert variables(folder) == SPEED
    found = compare(read(folder), ran({}, world=world)).configured
    assert {one.name for one in found.settings} == set(SPEED)
    assert "a setting may be the cause: " in found.chip_doubt


WHO = {
    "NCCL_HOSTID": "node17.lab",
    "TORCH_HOSTNAME": "node17",
    "TORCH_NODE_NAME": "node17",
    "TORCH_USERNAME": "somebody",
}


def test_a_variable_of_who_or_where_somebody_is_keeps_its_name_alone(tmp_path: Path) -> None:
    """When it is recorded, and when a record of before that is published."""
    kept = dict.fromkeys(WHO, environment.NOT_RECORDED)
    assert environment.variables(FAMILIES, WHO) == kept
    assert variables(publish.publish(ran(WHO), tmp_path, "who", CARD)) == kept


def test_the_name_of_who_publishes_is_in_no_variable_s_value(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(private, "own_names", lambda: (OWN,))
    given = {
        "TORCHINDUCTOR_CACHE_DIR": f"/tmp/torchinductor_{OWN}",
        "TORCH_LOGS": f"+dynamo,{OWN}",
        "TRITON_CACHE_DIR": f"/raid/{OWN}",
    }
    recorded = environment.variables(FAMILIES, given)
    assert OWN in recorded["TRITON_CACHE_DIR"], "a folder's last name is kept"
    folder = publish.publish(
        ran(recorded, world={"silent_absent": f"{OWN} has none"}), tmp_path, None, CARD
    )
    assert variables(folder) == {
        "TORCHINDUCTOR_CACHE_DIR": f"torchinductor_{PRIVATE}",
        "TORCH_LOGS": f"+dynamo,{PRIVATE}",
        "TRITON_CACHE_DIR": PRIVATE,
    }
    assert OWN not in (folder / publish.RECORD).read_text(encoding="utf-8")


def test_a_host_called_as_a_chip_or_a_library_is_takes_no_fact_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor one that is called as a fact is."""
    chip = changed(DEVICE, backend="cuda", name="NVIDIA H200", vendor="NVIDIA")
    told = {"KMP_USER_LEVEL_MWAIT": "1", "TORCH_LOGS": "dynamo"}
    original = msgspec.structs.replace(
        ran(told, device=chip, variables_compared=["TORCH_LOGS"]), run=run(device=chip).run
    )

    def published(folder: Path) -> list[Any]:
        found = read(folder)
        assert publish.verify(folder, None) == ([], "not signed")
        return [found.run.device, found.run.host, [x.environment for x in found.launches]]

    expected = published(publish.publish(original, tmp_path, "a", CARD))
    own = ("nvidia", "torch", "level", "cuda", "h200", "fake", "threads", "variables", "driver")
    monkeypatch.setattr(private, "own_names", lambda: own)
    assert published(publish.publish(original, tmp_path, "b", CARD)) == expected


@pytest.mark.parametrize("usual", ["root", "test", "torch", "linux"])
def test_a_user_with_a_usual_name_is_not_looked_for(
    usual: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: usual)
    monkeypatch.setattr("getpass.getuser", usual.upper)
    monkeypatch.setattr(Path, "home", lambda: Path(f"/home/{usual}"))
    assert private.own_names.__wrapped__() == ()
