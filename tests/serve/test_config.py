import pytest

from lifelong.core.errors import ConfigError
from lifelong.serve.config import Config

NEEDED = "learner: model.py:f\nschema: {shape: [2], classes: 2}\n"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("train: {anchors: 2.0}", "train: anchors is 2.0; it must be a share"),
        ("train: {deviations: -1}", "train: deviations -1.0"),
        ("train: {batch: 0}", "train: batch is 0; it must be 1 or more"),
        ("train: {batch: a}", "train.batch is 'a'; it must be of type int"),
        ("release: {tolerance: 0}", "release: .*a tolerance between 0 and 1"),
        ("release: {mode: auto}", "release.mode is 'auto'; choose manual or"),
        ("serve: {port: 70000}", "serve: port 70000"),
        ("serve: {flush: 0}", "flush above 0"),
        ("serve: {batch_rows: 0}", "batch_rows is 0; it must be 1 or more"),
        ("gate: {alpha: 2}", "alpha is 2.0"),
        ("keys: [{name: a, roles: [rule], sha256: x}]", "key 'a' has roles"),
        ("keys: {}", "keys is {}; it must be a list"),
        ("folder: 3", "folder is 3; give a path"),
    ],
)
def test_senseless_settings_are_named_before_anything_starts(tmp_path, text, told):
    (tmp_path / "a.yaml").write_text(NEEDED + text)
    with pytest.raises(ConfigError, match=told):
        Config.read(tmp_path / "a.yaml")
    assert [path.name for path in tmp_path.iterdir()] == ["a.yaml"]
