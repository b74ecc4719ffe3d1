"""The corner of the `runpod` package that is used: the balance, and nothing that it does besides."""

import os
import subprocess
import sys
import traceback
from pathlib import Path

import pytest
from pydantic import SecretStr

from launcher.errors import PodError
from launcher.pods.runpod_account import balance
from launcher.pods.runpod_client import ADDRESS_VARIABLE
from tests.simulators.runpod import FakeClock, Operation, Simulator, Trouble
from tests.simulators.runpod.ledger import HOURS_PER_MONTH

HIDDEN = str(SecretStr("any"))
STORED_KEY = """
import logging
before = logging.root.level, logging.root.handlers[:]
from launcher.pods.runpod_account import stored_key
stored_key()
import runpod
print((logging.root.level, logging.root.handlers) == before)
"""


def test_the_balance_is_the_accounts(monkeypatch: pytest.MonkeyPatch) -> None:
    with Simulator(FakeClock(), balance=12.5) as cloud:
        cloud.add_stranger("theirs")
        monkeypatch.setenv(ADDRESS_VARIABLE, cloud.serve())
        found = balance(SecretStr(cloud.account_key))
    assert found.dollars == pytest.approx(12.5)
    assert found.spend_per_hour == pytest.approx(0.49 + 20 * 0.1 / HOURS_PER_MONTH)


@pytest.mark.parametrize("trouble", [Trouble.UNAUTHORIZED, Trouble.MALFORMED, Trouble.BAD_GATEWAY, None])
def test_no_balance_is_an_error_that_shows_no_key(
    trouble: Trouble | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = "rpa_planted0123456789"
    with Simulator(FakeClock()) as cloud:
        monkeypatch.setenv(ADDRESS_VARIABLE, cloud.serve())
        if trouble is not None:
            cloud.service.account_keys.add(key)
            cloud.trouble(trouble, Operation.MYSELF)
        with pytest.raises(PodError) as caught:
            balance(SecretStr(key))
    assert key not in "".join(traceback.format_exception(caught.value))


@pytest.mark.slow
def test_what_the_package_does_to_logging_is_undone() -> None:
    ran = subprocess.run([sys.executable, "-c", STORED_KEY], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "True"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "key"),
    [
        ('[default]\napi_key = "rpa_stored0123456789"\n', "rpa_stored0123456789"),
        ('[other]\napi_key = "rpa_stored0123456789"\n', None),
        ('[default]\napi_key = ""\n', None),
        ("[default]\napi_key = 42\n", None),
        ('[default\napi_key = "rpa_stored0123456789"\n', None),
        ("\0\xff", None),
        (None, None),
    ],
    ids=["good", "another profile's", "empty", "a number", "broken", "no text", "absent"],
)
def test_the_key_that_runpod_config_stored(tmp_path: Path, config: str | None, key: str | None) -> None:
    """In a process of its own: the package reads its file when it is imported."""
    if config is not None:
        (tmp_path / ".runpod").mkdir()
        (tmp_path / ".runpod/config.toml").write_text(config, encoding="latin-1")
    code = (
        "from launcher.pods.runpod_account import stored_key; key = stored_key();"
        " print(key, key and key.get_secret_value())"
    )
    environment = {**os.environ, "HOME": str(tmp_path), "RUNPOD_API_KEY": "rpa_of_the_environment"}
    ran = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert ran.stdout.split() == ([HIDDEN, key] if key else ["None", "None"]), ran.stderr
