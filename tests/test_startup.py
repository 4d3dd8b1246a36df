"""Starting an engine: what is refused, and in which order, before weights are fetched and loaded."""

import shutil
from concurrent.futures import Future
from dataclasses import replace

import pytest

from videollava_cli.console import Console
from videollava_cli.conversation import Conversation, Turn
from videollava_cli.engine.startup import start_engine
from videollava_cli.errors import CheckpointError, MediaError, UsageError

QUIET = Console(is_quiet=True)
LONG = Conversation((Turn("word " * 5000),))


@pytest.fixture
def without_weights(mini, tmp_path):
    """Copy the small files of a checkpoint."""
    folder = shutil.copytree(mini.checkpoint.folder, tmp_path / "copy", ignore=shutil.ignore_patterns("*.safetensors"))
    return replace(mini.checkpoint, folder=folder)


@pytest.fixture
def damaged():
    """Make media whose reading has failed."""
    media = Future()
    media.set_exception(MediaError("a damaged clip"))
    return media


def test_machine_is_checked_before_prompts(mini, without_weights, damaged):
    settings = replace(mini.settings, load_8bit=True)

    with pytest.raises(UsageError, match="8-bit weights need a CUDA GPU"):
        start_engine(settings, without_weights, QUIET, conversations=[LONG], media=damaged)


def test_prompt_that_is_too_long_is_refused_before_media_and_weights(mini, without_weights, damaged):
    with pytest.raises(UsageError, match="context"):
        start_engine(mini.settings, without_weights, QUIET, conversations=[LONG], media=damaged)


def test_damaged_medium_is_an_error_before_weights_are_fetched(mini, without_weights, damaged):
    with pytest.raises(MediaError, match="a damaged clip"):
        start_engine(mini.settings, without_weights, QUIET, media=damaged)


def test_damaged_medium_is_an_error_before_weights_are_loaded(mini, damaged):
    with pytest.raises(MediaError, match="a damaged clip"):
        start_engine(mini.settings, mini.checkpoint, QUIET, media=damaged)


def test_weights_are_loaded_while_media_are_read(mini):
    engine, seconds = start_engine(mini.settings, mini.checkpoint, QUIET, media=Future())

    assert engine.checkpoint == mini.checkpoint
    assert seconds > 0


def test_missing_weights_are_an_error(mini, without_weights):
    with pytest.raises(CheckpointError, match=r"has no weights model\.safetensors"):
        start_engine(mini.settings, without_weights, QUIET)
