"""Settings as TOML: what was written is what is read."""

import tomllib

from core.config import Config
from core.toml_file import to_toml


def test_a_config_is_read_as_it_was_written():
    values = Config(mass=(1.0, 0.5), lr=1e-30, hidden_dims=(8,), external_field_mass=None).to_dict()
    assert tomllib.loads(to_toml(values)) == {key: value for key, value in values.items() if value is not None}


def test_a_key_of_any_kind_is_read_as_it_was_written():
    values = {"lr": 1, "two words": 2, "": 3, "a.b": 4, 'a "quoted" one\n': 5}
    assert tomllib.loads(to_toml(values)) == values


def test_text_of_any_kind_is_read_as_it_was_written():
    """Also what JSON would write in a way that is no TOML: beyond U+FFFF, and U+007F."""
    values = {"name": 'a "name"\\\n\t', "folder": "Bahnen \u00e4 \U0001f680", "control": "\x7f\x00\u2028", "empty": ""}
    assert tomllib.loads(to_toml(values)) == values
